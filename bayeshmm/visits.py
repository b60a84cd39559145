"""Visits to states in sampled paths, and their summaries over posterior draws.

The one place where paths become events: the tables of `bayeshmm.phases` are groupings of these.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]


class Visits(NamedTuple):
    """Every visit to a state in every draw of one run, sorted by draw, then row."""

    draw: Ints
    row: Ints
    source: Ints  # the state before it, -1 at the start of the run
    state: Ints
    confirmed: NDArray[np.bool_]  # enough rows are left for the minimum dwell

    def at(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Visits:
        """Pick those at these positions, in their order."""
        return Visits._make(field[index] for field in self)

    def entries(self) -> Visits:
        """Keep the first one listed of every draw and state."""
        group = self.draw * (self.state.max(initial=0) + 1) + self.state
        return self.at(np.unique(group, return_index=True)[1])


def visits_by_run(
    paths: Ints, minimum_dwell: int | Sequence[int] | None = None
) -> Iterator[Visits]:
    """Visits of one run after the other, which bounds the memory.

    Parameters
    ----------
    paths : ndarray of int, (draws, runs, rows)
        Sampled state paths, -1 on padding.
    minimum_dwell : int or sequence of int, optional
        Rows (per state) that a visit lasts unless the run ends first; default 1.
    """
    dwell = np.atleast_1d(1 if minimum_dwell is None else minimum_dwell)
    for n in range(paths.shape[1]):
        path = paths[:, n]
        before = np.pad(path[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        draw, row = np.nonzero((path != before) & (path >= 0))
        state = path[draw, row].astype(np.int64)
        length = np.count_nonzero(path[0] >= 0)
        confirmed = length - row >= dwell[state % len(dwell)]
        yield Visits(draw, row, before[draw, row].astype(np.int64), state, confirmed)


def summary(
    groups: Ints,
    values: NDArray[np.generic],
    confirmed: NDArray[np.bool_],
    draws: int,
    level: float,
) -> pd.DataFrame:
    """Probability and quantiles of every group, which holds at most one value per draw.

    Parameters
    ----------
    groups, values, confirmed : ndarray, (events,)
        Group and value of every event, and whether it is confirmed.
    draws : int
        Number of draws, of which ``probability`` and ``confirmed`` are shares.
    level : float
        Probability inside the equal-tailed interval.

    Returns
    -------
    DataFrame
        Indexed by group: ``probability, median, lower, upper, confirmed``. The quantiles invert the
        empirical distribution, so they are values that occur.
    """
    order = np.lexsort((values, groups))
    groups, values = groups[order], values[order].astype(np.float64)
    group, start, member, count = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )

    def quantile(q: float) -> NDArray[np.float64]:
        rank = np.ceil(q * count - 1e-9).astype(np.int64)  # q * count, less its rounding error
        return values[start + np.maximum(rank, 1) - 1]

    return pd.DataFrame(
        {
            "probability": count / draws,
            "median": quantile(0.5),
            "lower": quantile((1 - level) / 2),
            "upper": quantile((1 + level) / 2),
            "confirmed": np.bincount(member, confirmed[order]) / draws,
        },
        index=group,
    )


def shares(runs: Ints, total: int, level: float) -> pd.DataFrame:
    """Share of runs: mean, interval and median number.

    Parameters
    ----------
    runs : ndarray of int, (draws, columns)
        Number of runs in every draw.
    total : int
        Number of runs there are.
    level : float
        Probability inside the equal-tailed interval.

    Returns
    -------
    DataFrame
        A row per column: ``probability, lower, upper`` (shares) and ``runs`` (a number).
    """
    lower, median, upper = np.quantile(
        runs, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0, method="inverted_cdf"
    )
    return pd.DataFrame(
        {
            "probability": runs.mean(axis=0) / total,
            "lower": lower / total,
            "upper": upper / total,
            "runs": median.astype(np.int64),
        }
    )


def first_entries(
    paths: NDArray[Any], steps: NDArray[np.int64], states: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Step at which each run first enters each state, and which changes it ever makes.

    Parameters
    ----------
    paths
        Sampled state paths (S, N, T), -1 on padding.
    steps
        Training steps, (N, T).
    states
        K.

    Returns
    -------
    entry
        (S, N, K); NaN where a run never enters.
    used
        (S, N, K, K), from the state in the third axis to that in the last.
    """
    entry = np.full((*paths.shape[:2], states), np.nan)
    used = np.zeros((*entry.shape, states), dtype=bool)
    for n, visits in enumerate(visits_by_run(paths)):
        first, into = visits.entries(), visits.at(visits.source >= 0)
        entry[first.draw, n, first.state] = steps[n, first.row]
        used[into.draw, n, into.source, into.state] = True
    return entry, used


def check_paths(
    paths: ArrayLike,
    state_names: Sequence[Hashable],
    level: float,
    steps: ArrayLike | None = None,
    names: Sequence[Hashable] | None = None,
) -> Ints:
    """Paths as an array, once they agree with everything said about them."""
    draws = np.asarray(paths)
    if draws.ndim != 3:
        raise ValueError(f"paths have shape {draws.shape}; expected (draws, runs, rows)")
    if steps is not None and np.shape(steps) != draws.shape[1:]:
        raise ValueError(f"steps have shape {np.shape(steps)}; paths need {draws.shape[1:]}")
    if names is not None and len(names) != draws.shape[1]:
        raise ValueError(f"{len(names)} run names for {draws.shape[1]} runs")
    if draws.max(initial=-1) >= len(state_names):
        raise ValueError(f"a path visits state {draws.max()}, but {len(state_names)} are named")
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    return draws


def check_event_rows(paths: Ints, event_rows: ArrayLike) -> tuple[NDArray[np.bool_], Ints]:
    """Which runs have the event, and at which row, once it is known to lie within the run."""
    rows = np.asarray(event_rows, dtype=np.int64)
    if rows.shape != paths.shape[1:2]:
        raise ValueError(f"{rows.size} event rows for {paths.shape[1]} runs; give one per run")
    lengths = np.count_nonzero(paths[0] >= 0, axis=-1)
    for n in np.flatnonzero(rows >= lengths):
        raise ValueError(
            f"run {n}: the event is at row {rows[n]}, but the run has {lengths[n]} rows; "
            "count rows from 0 and use -1 for an event that never happens"
        )
    return rows >= 0, rows
