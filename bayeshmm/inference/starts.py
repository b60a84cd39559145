"""Starting points for the search of a mode: guesses of which rows belong together."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from bayeshmm.emissions.design import Design


def starting_states(
    design: Design, states: int, starts: int, seed: int, *, ordered: bool = False
) -> Tensor:
    """Guess state probabilities in `starts` different ways.

    In turn: (1) segments in time at random places shared by the runs; (2) clusters of rows by a
    random half of the metrics' smoothed features, those of the past and the size of the response,
    in which a change of the law of motion shows. The first start takes equal segments.

    Parameters
    ----------
    design
        The rows.
    states
        K.
    starts
        B.
    seed
        Same seed, same guesses.
    ordered
        Whether the states are to be numbered in the order of time.

    Returns
    -------
    Tensor
        Shape (B, N, T, K), each row summing to one, zero beyond the end of a run.
    """
    rng = np.random.default_rng(seed)
    N, T, _ = design.response.shape
    lengths = design.lengths.numpy()
    within = np.arange(T) < lengths[:, None]
    features = _smoothed_features(design)
    guesses = np.zeros((starts, N, T), dtype=np.int64)
    for b in range(starts):
        if b % 2 == 0 or states == 1:
            guesses[b] = _segments(rng, lengths, T, states, equal=b == 0)
        else:
            guesses[b] = _clusters(rng, features, within, states)
    paths = np.where(within, guesses, -1)
    return softened(in_time_order(paths, states) if ordered else paths, states)


def in_time_order(paths: NDArray[np.int64], states: int) -> NDArray[np.int64]:
    """The same paths (..., N, T) with the states numbered by their mean place in time.

    Where states have an order of their own, a guess that ignores it could not be followed. States
    without a row come last.
    """
    time = np.arange(paths.shape[-1])
    rows = [(paths == k).sum((-1, -2)) for k in range(states)]
    sums = [((paths == k) * time).sum((-1, -2)) for k in range(states)]
    with np.errstate(invalid="ignore"):
        mean = np.stack(sums, -1) / np.stack(rows, -1)
    rank = mean.argsort(-1, kind="stable").argsort(-1)
    flat = np.maximum(paths, 0).reshape(*paths.shape[:-2], -1)
    new = np.take_along_axis(rank, flat, -1).reshape(paths.shape)
    return np.where(paths >= 0, new, -1)


def softened(paths: NDArray[np.int64], states: int) -> Tensor:
    """State probabilities nine tenths sure of `paths` (..., N, T); zero where they are -1."""
    certain = 0.9 if states > 1 else 1.0
    spread = (1.0 - certain) / max(states - 1, 1)
    probabilities = np.full((*paths.shape, states), spread)
    np.put_along_axis(probabilities, np.maximum(paths, 0)[..., None], certain, axis=-1)
    return torch.from_numpy(probabilities * (paths >= 0)[..., None])


def _segments(
    rng: np.random.Generator, lengths: NDArray[np.int64], T: int, states: int, equal: bool
) -> NDArray[np.int64]:
    """Consecutive segments; their places are common to the runs, give or take a tenth."""
    inner = np.arange(1, states) / states if equal else np.sort(rng.uniform(size=states - 1))
    jitter = 0.0 if equal else 0.1 * rng.standard_normal((len(lengths), states - 1))
    borders = np.sort(np.clip(inner + jitter * np.ones((len(lengths), 1)), 0, 1), axis=1)
    time = np.arange(T)[None, :] / lengths[:, None]
    return (time[:, :, None] >= borders[:, None, :]).sum(-1)


def _clusters(
    rng: np.random.Generator,
    features: NDArray[np.float64],
    within: NDArray[np.bool_],
    states: int,
) -> NDArray[np.int64]:
    columns = rng.permutation(features.shape[-1])[: max(1, features.shape[-1] // 2)]
    rows = features[within][:, columns]
    distinct = len(np.unique(rows, axis=0))
    labels = np.zeros(within.shape, dtype=np.int64)
    if distinct > states:
        labels[within] = kmeans2(rows, states, iter=20, minit="++", rng=rng, missing="warn")[1]
    return labels


def _smoothed_features(design: Design, window: int = 5) -> NDArray[np.float64]:
    """Standardised running means of the past features and of log squared responses, (N, T, F)."""
    N, T, _ = design.response.shape
    size = torch.log(design.response.square() + 1e-3)
    raw = torch.cat([design.past.reshape(N, T, -1), design.response, size], -1)
    series = raw.movedim(-1, 1)
    padded = torch.nn.functional.pad(
        series, (window // 2, window - 1 - window // 2), mode="replicate"
    )
    smooth = padded.unfold(-1, window, 1).mean(-1).movedim(1, -1).numpy()
    within = (np.arange(T) < design.lengths.numpy()[:, None])[..., None]
    mean = (smooth * within).sum((0, 1)) / within.sum()
    deviation = np.sqrt(((smooth - mean) ** 2 * within).sum((0, 1)) / within.sum())
    return (smooth - mean) / np.where(deviation > 0, deviation, 1.0)
