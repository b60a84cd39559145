"""Where the truth lies among posterior draws, and how far such ranks are from uniform.

Ranks are arrays (datasets, components, alike): the quantities of one data set are dependent, so
that data sets are the units of every standard error and of every band. Components are judged one
by one; the ranks of what is ``alike`` (an entry time in each of several runs) are pooled.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]

PLACES = np.linspace(0.05, 0.95, 19)
"""Where the distribution functions of ranks are compared with that of a uniform law."""

FLIPS = 20_000
"""Draws of the sup of the ECDF's deviation, for its band."""


def uniform_ranks(
    truth: Array, draws: Array, sizes: NDArray[np.int64], rng: np.random.Generator
) -> Array:
    """Ranks of the truth among draws, in (0, 1), ties broken at random.

    Under the posterior they are uniform, for discrete quantities too: of L draws less than the
    truth in l and equal to it in m of them, uniform between ``l`` and ``l + m + 1`` over
    ``L + 1``.

    Parameters
    ----------
    truth
        Of Q quantities, (Q,).
    draws
        (S, Q), chain by chain.
    sizes
        Of the draws, how many count for each quantity, evenly spaced: about as many as they are
        worth, since the rank among autocorrelated draws is too often extreme.
    rng
        Source of randomness.
    """
    spread = rng.random(len(truth))
    ranks = np.empty(len(truth))
    for q, size in enumerate(sizes):
        some = draws[np.linspace(0, len(draws) - 1, size).round().astype(int), q]
        less, same = (some < truth[q]).sum(), (some == truth[q]).sum()
        ranks[q] = (less + spread[q] * (same + 1)) / (size + 1)
    return ranks


def effective_size(draws: Array, chains: int) -> Array:
    """Number of independent draws that the draws of each quantity are worth, (Q,).

    Of the draws' ranks, by Geyer's initial positive sequence of the autocovariances about the
    mean of all chains.

    Parameters
    ----------
    draws
        (S, Q), chain by chain.
    chains
        Number of chains.
    """
    total, Q = draws.shape
    series = rankdata(draws, axis=0).reshape(chains, -1, Q) - (total + 1) / 2
    length = series.shape[1] // 2 * 2
    spectrum = np.abs(np.fft.rfft(series, 2 * series.shape[1], axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, :length].mean(0)
    pairs = (covariance / np.maximum(covariance[:1], 1)).reshape(length // 2, 2, Q).sum(1)
    positive = np.logical_and.accumulate(pairs > 0, axis=0)
    time = 2 * np.where(positive, pairs, 0).sum(0) - 1
    return total / np.maximum(time, 1.0)


def distance(ranks: Array) -> float:
    """Largest deviation of a component's ECDF from the uniform law, in units of sqrt(p (1 - p))."""
    return float(np.abs(_deviations(ranks).mean(0)).max())


def band(ranks: Array, level: float, seed: int = 0) -> float:
    """What `distance` stays below with probability `level` where ranks are uniform.

    The deviations of whole data sets get random signs: a wild bootstrap, robust to any dependence
    within a data set.
    """
    deviations = _deviations(ranks)
    size = len(deviations)
    centred = (deviations - deviations.mean(0)).reshape(size, -1) * np.sqrt(size / (size - 1.0))
    rng = np.random.default_rng(seed)
    largest = [
        np.abs(rng.choice([-1.0, 1.0], (500, size)) @ centred / size).max(1)
        for _ in range(FLIPS // 500)
    ]
    return float(np.quantile(np.concatenate(largest), level))


def _deviations(ranks: Array) -> Array:
    """Of every data set's ECDF, (datasets, components, places)."""
    below = (ranks[..., None] <= PLACES).mean(axis=2)
    return (below - PLACES) / np.sqrt(PLACES * (1 - PLACES))


class Coverage(NamedTuple):
    """Share of equal-tailed intervals that hold the truth, and its standard error."""

    share: float
    error: float
    nominal: float

    @property
    def z(self) -> float:
        """Standard errors from nominal."""
        return (self.share - self.nominal) / self.error


def coverage(ranks: Array, nominal: float) -> Coverage:
    """Coverage of intervals with probability `nominal`; data sets are the units of its error.

    The error is at least that of independent quantities with the nominal coverage.
    """
    each = (np.abs(ranks - 0.5) < nominal / 2).mean(axis=(1, 2))
    least = nominal * (1 - nominal) / ranks[0].size
    variance = max(float(each.var(ddof=1)), least) / len(each)
    return Coverage(float(each.mean()), variance**0.5, nominal)
