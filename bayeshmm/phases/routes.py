"""The order in which runs visit states: routes, who comes before whom, and returns.

Every function takes sampled ``paths`` (draws, runs, rows), -1 on padding. With `names` of the runs
it answers run by run (``probability`` is a share of draws); without, for all of them together
(``probability, lower, upper, runs`` as in `bayeshmm.phases.edge_usage`: a share of these runs, its
interval, and the posterior median of their number). With `minimum_dwell`, in rows, visits that have
not lasted so long when their run ends are left out: the noise of last rows opens such.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bayeshmm.phases.visits import Ints, check_paths, shares, visits_by_run

ARROW = " -> "


def routes(
    paths: ArrayLike,
    state_names: Sequence[Hashable],
    level: float = 0.9,
    minimum_dwell: int | Sequence[int] | None = None,
    names: Sequence[Hashable] | None = None,
    most: int = 20,
) -> pd.DataFrame:
    """Which routes the runs take: the states in the order of their visits.

    Parameters
    ----------
    paths, state_names, level, minimum_dwell, names
        See the module.
    most : int
        Routes listed, of every run or of all, the most probable ones.

    Returns
    -------
    DataFrame
        ``[run,] route`` (states, with arrows between), ``probability[, lower, upper, runs]``, the
        most probable first.
    """
    draws = check_paths(paths, state_names, level, names=names)
    found, taken = route_index(draws, state_names, minimum_dwell)
    if names is None:
        counts = np.bincount(taken.ravel(), minlength=len(found))
        top = np.argsort(-counts, kind="stable")[:most]
        runs = np.stack([(taken == r).sum(axis=1) for r in top], axis=1)
        table = shares(runs, taken.shape[1], level)
        table.insert(0, "route", [found[r] for r in top])
        return table
    tables = []
    for n, name in enumerate(names):
        counts = np.bincount(taken[:, n], minlength=len(found))
        top = np.argsort(-counts, kind="stable")[: min(most, np.count_nonzero(counts))]
        own = {"run": name, "route": [found[r] for r in top], "probability": counts[top]}
        tables.append(pd.DataFrame(own).assign(probability=counts[top] / len(draws)))
    return pd.concat(tables, ignore_index=True)


def visit_order(
    paths: ArrayLike,
    state_names: Sequence[Hashable],
    level: float = 0.9,
    minimum_dwell: int | Sequence[int] | None = None,
    names: Sequence[Hashable] | None = None,
) -> pd.DataFrame:
    """Which state comes before which.

    Parameters
    ----------
    paths, state_names, level, minimum_dwell, names
        See the module.

    Returns
    -------
    DataFrame
        A row per ordered pair of states: ``[run,] first, second, probability[, lower, upper,
        runs]`` that both are entered, and the first is so before the second, and ``both``, the
        probability that both are.
    """
    draws = check_paths(paths, state_names, level, names=names)
    entry = _entry_rows(draws, len(state_names), minimum_dwell)
    pairs = ~np.eye(len(state_names), dtype=bool)
    entered = ~np.isnan(entry)
    before = (entry[..., :, None] < entry[..., None, :])[..., pairs]
    both = (entered[..., :, None] & entered[..., None, :])[..., pairs]
    first, second = ([state_names[k] for k in side.tolist()] for side in np.nonzero(pairs))
    labels = pd.DataFrame({"first": first, "second": second})
    table = _usage(before, labels, level, names)
    return table.assign(both=both.mean(axis=0 if names is not None else (0, 1)).ravel())


def recurrence(
    paths: ArrayLike,
    state_names: Sequence[Hashable],
    level: float = 0.9,
    minimum_dwell: int | Sequence[int] | None = None,
    names: Sequence[Hashable] | None = None,
) -> pd.DataFrame:
    """Which states are visited again once they have been left.

    Parameters
    ----------
    paths, state_names, level, minimum_dwell, names
        See the module.

    Returns
    -------
    DataFrame
        A row per state: ``[run,] state, probability[, lower, upper, runs]`` that a run visits it
        more than once, and ``visits``, the posterior mean number of visits of a run that visits it,
        NaN if none ever does.
    """
    draws = check_paths(paths, state_names, level, names=names)
    number = np.zeros((*draws.shape[:2], len(state_names)), dtype=np.int64)
    for n, visits in enumerate(visits_by_run(draws, minimum_dwell)):
        visits = visits.at(visits.confirmed)
        np.add.at(number[:, n], (visits.draw, visits.state), 1)
    table = _usage(number > 1, pd.DataFrame({"state": list(state_names)}), level, names)
    over = 0 if names is not None else (0, 1)
    visited = (number > 0).sum(axis=over)
    mean = np.where(visited > 0, number.sum(axis=over) / np.maximum(visited, 1), np.nan)
    return table.assign(visits=mean.ravel())


def route_index(
    paths: NDArray[Any],
    state_names: Sequence[Hashable],
    minimum_dwell: int | Sequence[int] | None = None,
) -> tuple[list[str], Ints]:
    """All routes that are taken, in alphabetical order, and which one is, (draws, runs)."""
    written = np.empty(paths.shape[:2], dtype=object)
    names = [str(name) for name in state_names]
    for n, visits in enumerate(visits_by_run(paths, minimum_dwell)):
        first = visits.source < 0  # a run has one visit at least, however young
        visits = visits.at(visits.confirmed | first)
        starts = np.flatnonzero(np.diff(visits.draw, prepend=-1))
        for draw, states in enumerate(np.split(visits.state, starts[1:])):
            written[draw, n] = ARROW.join([names[k] for k in states])
    taken, found = pd.factorize(written.ravel(), sort=True)
    return found.tolist(), taken.reshape(paths.shape[:2])


def _entry_rows(
    paths: Ints, states: int, minimum_dwell: int | Sequence[int] | None
) -> NDArray[np.float64]:
    """Row of the first entry into each state, (draws, runs, K); NaN where there is none."""
    entry = np.full((*paths.shape[:2], states), np.nan)
    for n, visits in enumerate(visits_by_run(paths, minimum_dwell)):
        first = visits.at(visits.confirmed).entries()
        entry[first.draw, n, first.state] = first.row
    return entry


def _usage(
    happens: NDArray[np.bool_],
    labels: pd.DataFrame,
    level: float,
    names: Sequence[Hashable] | None,
) -> pd.DataFrame:
    """Probability of every label's event, of (draws, runs, labels), by run or over the runs."""
    if names is None:
        return pd.concat([labels, shares(happens.sum(axis=1), happens.shape[1], level)], axis=1)
    table = pd.concat([labels] * len(names), ignore_index=True)
    table.insert(0, "run", [name for name in names for _ in range(len(labels))])
    return table.assign(probability=happens.mean(axis=0).ravel())
