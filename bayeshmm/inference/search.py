"""The search for a mode: starts in one batch, thinned as it becomes clear which are behind."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bayeshmm.alignment import agreement, display_order
from bayeshmm.encoding import Encoded
from bayeshmm.hmm import Prior
from bayeshmm.inference.moves import moved
from bayeshmm.inference.starts import in_time_order, softened, starting_states
from bayeshmm.inference.threads import one_thread
from bayeshmm.inference.variational import CoordinateAscent, VariationalFit

ROUNDS = ((12, 6), (30, 3), (300, 1))
"""Sweeps of each round, and how many starts go on after it."""

TOLERANCE = 1e-2
"""Rise of the bound, in nats a sweep, below which a start has converged."""

MOVES = -1
"""Number, among the starts, of what moves from the best start found."""

WORTH = 1.0
"""Nats by which a move must raise the bound to be taken."""

PATIENCE = 2
"""Rounds of moves without success after which the search ends."""


@one_thread()
def search(
    prior: Prior, data: Encoded, starts: int, seed: int, progress: bool = False
) -> tuple[VariationalFit, pd.DataFrame]:
    """Best of many coordinate ascents.

    Parameters
    ----------
    prior
        The model.
    data
        The runs.
    starts
        Number of starting points.
    seed
        Of the starting points.
    progress
        Whether to show a progress bar.

    Returns
    -------
    fit
        The best start, its states ordered by first visit.
    restarts
        A row per start: ``objective`` (evidence lower bound reached), ``agreement`` (share of
        rows on which it agrees with the best after matching of states), ``sweeps`` and
        ``converged`` (False where it was given up for being behind, or ran out of sweeps). Start
        -1 is what moves out of the best start's mode found, where they found something better.
    """
    K = prior.regression.states
    starts = 1 if K == 1 else starts
    ordered = not prior.transition.exchangeable
    states = starting_states(data.design, K, starts, seed, ordered=ordered)
    ascent = CoordinateAscent(prior, data, states)
    alive = torch.arange(starts)
    record: dict[int, tuple[float, Tensor, int, bool]] = {}
    with tqdm(total=len(ROUNDS), desc=f"{K} states", disable=not progress, leave=False) as bar:
        for sweeps, survivors in ROUNDS:
            ascent.run(sweeps, TOLERANCE)
            ranked = torch.argsort(ascent.bound, descending=True, stable=True)
            last = survivors == 1
            for place in ranked[0 if last else survivors :].tolist():
                record[int(alive[place])] = (
                    float(ascent.bound[place]),
                    ascent.expectation.states[place],
                    ascent.sweeps,
                    last and ascent.converged,
                )
            ascent.keep(ranked[:survivors])
            alive = alive[ranked[:survivors]]
            bar.update()
    if K > 1:
        improved = improve(ascent, data, starts, seed)
        if improved is not ascent:
            ascent = improved
            record[MOVES] = (
                float(ascent.bound[0]),
                ascent.expectation.states[0],
                ascent.sweeps,
                ascent.converged,
            )
    best = ascent.expectation.states[0].numpy()
    restarts = pd.DataFrame(
        [
            (start, objective, agreement(best, other.numpy()), sweeps, converged)
            for start, (objective, other, sweeps, converged) in record.items()
        ],
        columns=["start", "objective", "agreement", "sweeps", "converged"],
    )
    restarts = restarts.sort_values("objective", ascending=False, ignore_index=True)
    fit = ascent.fit(0)
    return (fit if ordered else fit.relabelled(first_visit_order(fit, data))), restarts


def improve(ascent: CoordinateAscent, data: Encoded, moves: int, seed: int) -> CoordinateAscent:
    """Try moves out of the mode of the first start, until `PATIENCE` rounds bring nothing.

    Parameters
    ----------
    ascent
        A converged ascent with one start.
    data
        The runs.
    moves
        Moves tried in a round, as one batch.
    seed
        Of the moves.
    """
    rng = np.random.default_rng([seed, 1])
    K = ascent.prior.regression.states
    failures = 0
    while failures < PATIENCE:
        paths = hard_paths(ascent.expectation.states[0], data)
        tried = np.stack([moved(rng, paths, K) for _ in range(moves)])
        if not ascent.prior.transition.exchangeable:
            tried = in_time_order(tried, K)
        rival = CoordinateAscent(ascent.prior, data, softened(tried, K))
        rival.run(15)
        rival.keep(torch.argsort(rival.bound, descending=True)[:3])
        rival.run(60, TOLERANCE)
        best = rival.bound.argmax()
        if rival.bound[best] > ascent.bound[0] + WORTH:
            rival.keep(best[None])
            rival.run(200, TOLERANCE)
            ascent, failures = rival, 0
        else:
            failures += 1
    return ascent


def hard_paths(states: Tensor, data: Encoded) -> NDArray[np.int64]:
    """Most probable state of every row, (N, T); -1 beyond the end of a run."""
    path = states.argmax(-1)
    beyond = torch.arange(path.shape[1]) >= data.design.lengths[:, None]
    return path.masked_fill(beyond, -1).numpy()


def first_visit_order(fit: VariationalFit, data: Encoded) -> Tensor:
    """Order of the states by their mean first visit, on the most probable states."""
    paths = hard_paths(fit.states, data)
    return torch.from_numpy(display_order(paths, fit.states.shape[-1]))


@one_thread()
def refine(
    prior: Prior, data: Encoded, states: Tensor, sweeps: int = 60, weight: float = 1.0
) -> VariationalFit:
    """Converge from given state probabilities (N, T, K): a warm start, labels kept.

    See `CoordinateAscent` for `weight`.
    """
    ascent = CoordinateAscent(prior, data, states[None], weight)
    ascent.run(sweeps, TOLERANCE)
    return ascent.fit(0)
