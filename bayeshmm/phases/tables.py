"""Phases and their changes, as tables with intervals, from sampled state paths.

Every function takes ``paths``, integers of shape (draws, runs, rows), -1 on padding: a path drawn
with the parameters of its draw carries the uncertainty of both, so counting over draws is all that
is needed. "Never" is kept apart from "when": probabilities are shares of draws, intervals are over
the draws in which the event happens. Every time reported is a step that was recorded.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bayeshmm.phases.visits import (
    Ints,
    check_event_rows,
    check_paths,
    joined,
    per_state,
    shares,
    summary,
    visits_by_run,
)


def entry_times(
    paths: ArrayLike,
    steps: ArrayLike,
    names: Sequence[Hashable],
    state_names: Sequence[Hashable],
    level: float = 0.9,
    minimum_dwell: int | Sequence[int] | None = None,
) -> pd.DataFrame:
    """When each run first enters each state.

    Parameters
    ----------
    paths : array_like of int, (draws, runs, rows)
        Sampled state paths, -1 on padding.
    steps : array_like, (runs, rows)
        Training step of every row.
    names, state_names : sequence
        Names of the runs and of the states.
    level : float
        Probability inside the equal-tailed interval.
    minimum_dwell : int or sequence of int, optional
        Rows (per state) that a visit lasts unless the run ends first. If given, ``confirmed`` is
        the probability of an entry that has lasted them: the noise of last rows opens younger ones.

    Returns
    -------
    DataFrame
        A row per run and state: ``run, state, probability`` (that it is ever entered), ``median,
        lower, upper`` of the first entry given that it is, in training steps; NaN if it is in less
        than one draw in a hundred. A run enters its first state at its first row.
    """
    draws = check_paths(paths, state_names, level, steps, names)
    tables = []
    for n, visits in enumerate(visits_by_run(draws, minimum_dwell)):
        entry = visits.entries()
        step = np.asarray(steps)[n, entry.row]
        tables.append(per_state(names[n], state_names, entry, step, len(draws), level))
    return joined(tables, level, minimum_dwell is not None)


def transition_times(
    paths: ArrayLike,
    steps: ArrayLike,
    names: Sequence[Hashable],
    state_names: Sequence[Hashable],
    level: float = 0.9,
    minimum_dwell: int | Sequence[int] | None = None,
) -> pd.DataFrame:
    """When each run changes from one state to another.

    Parameters
    ----------
    paths, steps, names, state_names, level, minimum_dwell
        As for `entry_times`; ``confirmed`` speaks of the visit that the change opens.

    Returns
    -------
    DataFrame
        ``run, source, target, occurrence`` (1 for the first time that the run makes this change, 2
        for the second, ...), ``probability`` (that the run makes it that often), ``median, lower,
        upper`` given that it does, in training steps: a change at row t is reported as the step of
        row t, the first row of the target. A row for every change that some draw makes, sorted by
        run, then median.
    """
    draws = check_paths(paths, state_names, level, steps, names)
    K = len(state_names)
    tables = []
    for n, visits in enumerate(visits_by_run(draws, minimum_dwell)):
        into, occurrence = visits.changes()
        shape = K, K, int(occurrence.max(initial=0)) + 1
        change = np.ravel_multi_index((into.source, into.state, occurrence), shape)
        step = np.asarray(steps)[n, into.row]
        table = summary(change, step, len(draws), level, confirmed=into.confirmed)
        source, target, occurrence = np.unravel_index(table.index.to_numpy(), shape)
        table.insert(0, "run", pd.Series(names[n], table.index))
        table.insert(1, "source", [state_names[k] for k in source])
        table.insert(2, "target", [state_names[k] for k in target])
        table.insert(3, "occurrence", occurrence)
        tables.append(table.sort_values("median", kind="stable"))
    return joined(tables, level, minimum_dwell is not None)


def edge_usage(
    paths: ArrayLike,
    state_names: Sequence[Hashable],
    level: float = 0.9,
    minimum_dwell: int | Sequence[int] | None = None,
) -> pd.DataFrame:
    """Which changes between states the runs use.

    Parameters
    ----------
    paths : array_like of int, (draws, runs, rows)
        Sampled state paths, -1 on padding.
    state_names : sequence
        Names of the states.
    level : float
        Probability inside the equal-tailed interval.
    minimum_dwell : int or sequence of int, optional
        Rows (per state) that a visit lasts unless the run ends first. If given, changes into a
        visit that has not lasted them when the run ends are left out.

    Returns
    -------
    DataFrame
        A row for every change that some draw makes: ``source, target, probability`` (posterior
        mean of the share of these runs that make the change at least once), ``lower, upper`` (the
        share's interval over draws), ``runs`` (posterior median of the number of runs that make
        it) and ``runs_certain`` (number of runs that make it with probability above one half).
    """
    draws = check_paths(paths, state_names, level)
    (S, N, _), K = draws.shape, len(state_names)
    runs = np.zeros((S, K * K), dtype=np.int64)
    certain = np.zeros(K * K, dtype=np.int64)
    for visits in visits_by_run(draws, minimum_dwell):
        into = visits.at((visits.source >= 0) & visits.confirmed)
        used = np.zeros((S, K * K), dtype=bool)
        used[into.draw, into.source * K + into.state] = True
        runs += used
        certain += used.mean(axis=0) > 0.5
    edges = np.flatnonzero(runs.any(axis=0))
    table = shares(runs[:, edges], N, level)
    table.insert(0, "source", [state_names[k] for k in (edges // K).tolist()])
    table.insert(1, "target", [state_names[k] for k in (edges % K).tolist()])
    return table.assign(runs_certain=certain[edges])


def state_occupancy(
    paths: ArrayLike, state_names: Sequence[Hashable], level: float = 0.9
) -> pd.DataFrame:
    """How many runs visit each state, and for how much of the time.

    Parameters
    ----------
    paths, state_names, level
        As for `edge_usage`.

    Returns
    -------
    DataFrame
        A row per state: ``state, probability`` (posterior mean of the share of these runs that
        visit it), ``lower, upper`` (its interval), ``runs`` (posterior median of their number) and
        ``rows`` (posterior mean share of all rows).
    """
    draws = check_paths(paths, state_names, level)
    runs, rows = [], []
    for k in range(len(state_names)):
        inside = draws == k
        runs.append(inside.any(axis=2).sum(axis=1))
        rows.append(np.count_nonzero(inside))
    table = shares(np.stack(runs, axis=1), draws.shape[1], level)
    table.insert(0, "state", list(state_names))
    return table.assign(rows=np.array(rows) / sum(rows))


def occupied_states(
    paths: ArrayLike, state_names: Sequence[Hashable], least: float = 0.0
) -> pd.DataFrame:
    """How many states have any rows: what is left of the number of phases once the runs are seen.

    Parameters
    ----------
    paths, state_names
        As for `edge_usage`.
    least
        Share of all rows that a state must have in order to count, in [0, 1). With 0, the posterior
        of the model as it stands, one row is enough: in some draws a state that nothing needs has
        the last rows of a run, too few to tell. A share leaves these out, and short phases too.

    Returns
    -------
    DataFrame
        A row per number, from 0 to that of all states: ``states, probability``.
    """
    if not 0 <= least < 1:
        raise ValueError(f"least={least} must be a share of all rows: at least 0, and less than 1")
    draws = check_paths(paths, state_names, 0.5)
    rows = [np.count_nonzero(draws == k, axis=(1, 2)) for k in range(len(state_names))]
    enough = max(1.0, least * np.count_nonzero(draws[0] >= 0))
    number = np.count_nonzero(np.stack(rows) >= enough, axis=0)
    numbers = np.arange(len(rows) + 1)
    table = pd.DataFrame({"states": numbers, "probability": (number == numbers[:, None]).mean(1)})
    table.attrs = {"least": least}
    return table


def modal_path(paths: ArrayLike) -> Ints:
    """Most probable state of every row: (runs, rows), the lowest of ties, -1 on padding."""
    draws = np.asarray(paths)
    modal = np.full(draws.shape[1:], -1, dtype=np.int64)
    most = np.zeros(draws.shape[1:], dtype=np.int64)
    for k in range(int(draws.max(initial=-1)) + 1):
        votes = np.count_nonzero(draws == k, axis=0)
        modal[votes > most] = k
        most = np.maximum(most, votes)
    return modal


def containing_phase(
    paths: ArrayLike, event_rows: ArrayLike, states: int | None = None
) -> NDArray[np.float64]:
    """Which state each run is in when an outside event happens.

    Parameters
    ----------
    paths : array_like of int, (draws, runs, rows)
        Sampled state paths, -1 on padding.
    event_rows : array_like of int, (runs,)
        Row of the event in each run; -1 where it never happens.
    states : int, optional
        Number of states K; default: the largest label + 1.

    Returns
    -------
    ndarray, (runs, K)
        Probability that each state contains the event; NaN for runs without one.

    Raises
    ------
    ValueError
        If an event lies beyond its run's last row.
    """
    draws = np.asarray(paths)
    happens, rows = check_event_rows(draws, event_rows)
    K = int(draws.max(initial=-1)) + 1 if states is None else states
    containing = np.full((draws.shape[1], K), np.nan)
    for n in np.flatnonzero(happens):
        containing[n] = np.bincount(draws[:, n, rows[n]], minlength=K) / len(draws)
    return containing


def boundary_entry_steps(paths: ArrayLike, steps: ArrayLike, state: int) -> NDArray[np.float64]:
    """Median step at which each run first enters `state`, given that it does: (runs,).

    NaN where the probability that it does is one half or less.
    """
    N, K = np.shape(paths)[1], max(state, int(np.max(paths))) + 1
    table = entry_times(paths, steps, range(N), range(K)).query("state == @state")
    return table["median"].where(table["probability"] > 0.5).to_numpy(dtype=np.float64)
