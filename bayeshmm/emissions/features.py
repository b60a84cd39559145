"""Causal features of a run: what the law of a row may know of the rows before it.

Every metric is followed from its *last observed value*, so a missing row leaves no hole in the
features, and every row from the second on is an ordinary row whatever the number of lags.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Memory:
    """What is remembered of the past of a batch of series, updated a row at a time.

    Parameters
    ----------
    shape
        Shape of one row of the batch, usually ``(runs, metrics)``.
    lags
        Number of past observed values kept, at least 1.
    half_lives
        Half-lives, in rows, of the exponential moving averages.
    """

    def __init__(self, shape: tuple[int, ...], lags: int, half_lives: Sequence[float] = ()) -> None:
        self._last = np.full((*shape, lags), np.nan)
        self._decay = 0.5 ** (1.0 / np.asarray(half_lives, dtype=float))
        self._sum = np.zeros((*shape, len(half_lives)))
        self._weight = np.zeros((*shape, len(half_lives)))

    @property
    def reference(self) -> Array:
        """Last observed values, shape ``shape``; NaN where nothing was observed yet."""
        return self._last[..., 0]

    def features(self) -> Array:
        """Level, lag differences and averages less the level, shape ``(*shape, 1 + lags-1 + H)``.

        A difference that has no past yet is 0; where nothing was observed all are 0.
        """
        level = self._last[..., :1]
        differences = self._last[..., :-1] - self._last[..., 1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            averages = self._sum / self._weight - level
        return np.nan_to_num(np.concatenate([level, differences, averages], axis=-1))

    def observe(self, row: Array) -> None:
        """Take in a row, shape ``shape``; NaN entries are missing and leave the lags alone."""
        seen = ~np.isnan(row)
        self._last[seen] = np.concatenate([row[seen][:, None], self._last[seen][:, :-1]], axis=-1)
        self._sum = self._decay * (self._sum + np.where(seen, row, 0.0)[..., None])
        self._weight = self._decay * (self._weight + seen[..., None])


def past(values: Array, lags: int, half_lives: Sequence[float] = ()) -> tuple[Array, Array]:
    """Reference and features of every row.

    Parameters
    ----------
    values
        Shape (N, T, D), NaN where missing or beyond the end of a run.
    lags, half_lives
        See `Memory`.

    Returns
    -------
    reference
        Last observed value before each row, shape (N, T, D); NaN where there is none.
    features
        Shape (N, T, D, 1 + lags-1 + len(half_lives)): level, differences
        ``y(l) - y(l+1)`` of the observed values, and bias-corrected averages
        ``sum_s 2^(-age/h) y_s / sum_s 2^(-age/h)`` less the level.
    """
    N, T, D = values.shape
    memory = Memory((N, D), lags, half_lives)
    reference = np.empty_like(values)
    features = np.empty((N, T, D, lags + len(half_lives)))
    for t in range(T):
        reference[:, t] = memory.reference
        features[:, t] = memory.features()
        memory.observe(values[:, t])
    return reference, features
