"""Causal features of a run: what the law of a row may know of the rows before it.

Every metric is followed from its *last observed value*, so a missing row leaves no hole in the
features, and every row from the second on is an ordinary row whatever the number of lags.

Gaps between rows are in units of the typical gap, and those of rows that are equally far apart are
1. An increment over several rows, as missing values leave it, has their mean gap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayeshmm.scaling import EVENLY, Pace

Array = NDArray[np.float64]

STRETCH = 10.0
"""Largest factor by which a past difference is extrapolated to a longer gap."""


class Memory:
    """What is remembered of the past of a batch of series, updated a row at a time.

    Gaps are one number for all series or one for each of the first axis, (runs,).

    Parameters
    ----------
    shape
        Shape of one row of the batch, usually ``(runs, metrics)``.
    lags
        Number of past observed values kept, at least 1.
    half_lives
        Half-lives of the exponential moving averages, in typical gaps.
    exponent
        Power of the gap to which increments are proportional, one number or ``(metrics,)``.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        lags: int,
        half_lives: Sequence[float] = (),
        exponent: Array | float = 0.0,
    ) -> None:
        self._last = np.full((*shape, lags, 3), np.nan)  # value, time and row
        self._time, self._row = np.zeros(shape), 0
        self._decay = 0.5 ** (1.0 / np.asarray(half_lives, dtype=float))
        self._sum = np.zeros((*shape, len(half_lives)))
        self._weight = np.zeros((*shape, len(half_lives)))
        self._exponent = exponent

    @property
    def reference(self) -> Array:
        """Last observed values, shape ``shape``; NaN where nothing was observed yet."""
        return self._last[..., 0, 0]

    def features(self, gap: Array | float = 1.0) -> Array:
        """Level, lag differences and averages less the level, shape ``(*shape, 1 + lags-1 + H)``.

        A difference that has no past yet is 0; where nothing was observed all are 0. Differences
        are extrapolated to the gap of the next increment, in the unit of that increment.

        Parameters
        ----------
        gap
            From the latest row to the one that the features are for.
        """
        level, time, row = np.moveaxis(self._last[..., :1, :], -1, 0)
        latest = (self._time + _by_series(gap))[..., None]
        pace = (latest - time) / (self._row + 1 - row)
        spans = self._last[..., :-1, :] - self._last[..., 1:, :]
        differences, elapsed, rows = np.moveaxis(spans, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            stretch = np.minimum(pace / (elapsed / rows), STRETCH)
            unit = pace ** np.asarray(self._exponent)[..., None]
            averages = self._sum / self._weight - level
        parts = [level, differences * stretch / unit, averages]
        return np.nan_to_num(np.concatenate(parts, axis=-1))

    def observe(self, row: Array, gap: Array | float = 1.0) -> None:
        """Take in a row; NaN entries are missing and leave the lags alone.

        Parameters
        ----------
        row
            Shape ``shape``.
        gap
            From the row before it to this one; whatever it is for the first row.
        """
        gap = _by_series(gap)
        self._time, self._row = self._time + gap, self._row + 1
        seen = ~np.isnan(row)
        latest = np.stack(np.broadcast_arrays(row, self._time, self._row), axis=-1)[seen]
        self._last[seen] = np.concatenate([latest[:, None], self._last[seen][:, :-1]], axis=1)
        # the sums have aged by one typical gap already
        older = self._decay ** (gap - 1.0)[..., None]
        self._sum = self._decay * (older * self._sum + np.where(seen, row, 0.0)[..., None])
        self._weight = self._decay * (older * self._weight + seen[..., None])


def past(
    values: Array, lags: int, half_lives: Sequence[float] = (), pace: Pace = EVENLY
) -> tuple[Array, Array]:
    """Reference and features of every row.

    Parameters
    ----------
    values
        Shape (N, T, D), NaN where missing or beyond the end of a run.
    lags, half_lives
        See `Memory`.
    pace
        How far apart rows are.

    Returns
    -------
    reference
        Last observed value before each row, shape (N, T, D); NaN where there is none.
    features
        Shape (N, T, D, 1 + lags-1 + len(half_lives)): level; differences ``y(l) - y(l+1)`` of the
        observed values, times the gap of the row over their own (at most `STRETCH`), in the unit
        of the row's increment; bias-corrected averages ``sum_s 2^(-age/h) y_s / sum_s 2^(-age/h)``
        less the level.
    """
    N, T, D = values.shape
    gaps = np.broadcast_to(pace.gaps, (N, T))
    memory = Memory((N, D), lags, half_lives, pace.exponent)
    reference = np.empty_like(values)
    features = np.empty((N, T, D, lags + len(half_lives)))
    for t in range(T):
        reference[:, t] = memory.reference
        features[:, t] = memory.features(gaps[:, t])
        memory.observe(values[:, t], gaps[:, t])
    return reference, features


def _by_series(gap: Array | float) -> Array:
    """Gaps with an axis for the metrics."""
    return np.asarray(gap, dtype=float)[..., None]
