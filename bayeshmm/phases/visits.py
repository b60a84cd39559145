"""Visits to states in sampled paths, and their summaries over posterior draws.

The one place where paths become events: the tables of `bayeshmm.phases`, its changes and routes are
groupings of these.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]

RARE = 0.01
"""Probability below which an entry or an exit has no time."""


class Visits(NamedTuple):
    """Every visit to a state in every draw of one run, sorted by draw, then row."""

    draw: Ints
    row: Ints
    exit: Ints  # the first row after it, the number of rows if the run ends inside
    source: Ints  # the state before it, -1 at the start of the run
    state: Ints
    target: Ints  # the state after it, -1 if the run ends inside
    confirmed: NDArray[np.bool_]  # enough rows are left for the minimum dwell

    def at(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Visits:
        """Pick those at these positions, in their order."""
        return Visits._make(field[index] for field in self)

    def entries(self) -> Visits:
        """Keep the first one listed of every draw and state."""
        return self.at(np.unique(self._group, return_index=True)[1])

    def occurrences(self) -> Ints:
        """1 for the first visit of a draw to its state, 2 for the second, ..."""
        return _numbered(self._group)

    def changes(self) -> tuple[Visits, Ints]:
        """Keep those that a change opens, and number alike changes within each draw from 1."""
        into = self.at(self.source >= 0)
        return into, _numbered(into._group * (into.source.max(initial=0) + 1) + into.source)

    def lengths(self, steps: NDArray[Any]) -> NDArray[Any]:
        """Training steps that each lasts, up to the last row of the run if it ends inside."""
        return steps[np.where(self.target < 0, self.exit - 1, self.exit)] - steps[self.row]

    @property
    def _group(self) -> Ints:
        return self.draw * (self.state.max(initial=0) + 1) + self.state


def visits_by_run(
    paths: NDArray[Any], minimum_dwell: int | Sequence[int] | None = None
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
        state, source = (part[draw, row].astype(np.int64) for part in (path, before))
        length = np.count_nonzero(path[0] >= 0)
        after = np.append(row[1:], 0)  # row 0 opens the next draw
        leave = np.where(after > 0, after, length)
        target = np.where(after > 0, np.append(state[1:], -1), -1)
        confirmed = length - row >= dwell[state % len(dwell)]
        yield Visits(draw, row, leave, source, state, target, confirmed)


def _numbered(groups: Ints) -> Ints:
    """Place of every event within its group, counted from 1."""
    key = pd.Series(groups)
    return np.asarray(key.groupby(key).cumcount(), dtype=np.int64) + 1


def summary(
    groups: Ints,
    values: NDArray[np.generic],
    draws: int,
    level: float,
    **kinds: NDArray[np.bool_],
) -> pd.DataFrame:
    """Probability and quantiles of every group, which holds at most one value per draw.

    Parameters
    ----------
    groups, values : ndarray, (events,)
        Group and value of every event.
    draws : int
        Number of draws, of which ``probability`` is a share.
    level : float
        Probability inside the equal-tailed interval.
    **kinds : ndarray of bool, (events,)
        Which events are of a kind; the share of draws that have such a one is a column.

    Returns
    -------
    DataFrame
        Indexed by group: ``probability, median, lower, upper`` and the kinds. The quantiles invert
        the empirical distribution, so they are values that occur.
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
            **{kind: np.bincount(member, of[order]) / draws for kind, of in kinds.items()},
        },
        index=group,
    )


def per_state(
    run: Hashable,
    state_names: Sequence[Hashable],
    visits: Visits,
    values: NDArray[np.generic],
    draws: int,
    level: float,
) -> pd.DataFrame:
    """Summary of one run, at most one visit per draw and state, with a row for every state.

    What is rarer than `RARE` has no interval: a few draws tell a probability near 0, not a time.
    """
    table = summary(visits.state, values, draws, level, confirmed=visits.confirmed)
    table.loc[table["probability"] < RARE, ["median", "lower", "upper"]] = np.nan
    table = table.reindex(range(len(state_names))).fillna({"probability": 0.0, "confirmed": 0.0})
    table.insert(0, "run", pd.Series(run, table.index))
    table.insert(1, "state", list(state_names))
    return table


def joined(tables: list[pd.DataFrame], level: float, confirmed: bool) -> pd.DataFrame:
    """Tables of runs below each other, with units; without ``confirmed`` if it means nothing."""
    table = pd.concat(tables, ignore_index=True)
    table.attrs = {"units": "training steps", "level": level}
    return table if confirmed else table.drop(columns="confirmed")


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
