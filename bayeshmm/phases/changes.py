"""Changes of phase as laws over the recorded steps: exits, densities and lengths of visits.

As in `bayeshmm.phases`, every function takes sampled ``paths`` (draws, runs, rows), -1 on padding,
counts over draws, and keeps "never" apart from "when".
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bayeshmm.phases.visits import check_paths, joined, per_state, summary, visits_by_run


def exit_times(
    paths: ArrayLike,
    steps: ArrayLike,
    names: Sequence[Hashable],
    state_names: Sequence[Hashable],
    level: float = 0.9,
    minimum_dwell: int | Sequence[int] | None = None,
    visit: str = "last",
) -> pd.DataFrame:
    """When each run leaves each state.

    Parameters
    ----------
    paths, steps, names, state_names, level
        As for `bayeshmm.phases.entry_times`.
    minimum_dwell : int or sequence of int, optional
        If given, ``confirmed`` is the probability of an exit into a visit that has lasted so many
        rows: the noise of last rows opens younger ones.
    visit : {"last", "first"}
        Of which visit to the state the end is asked for.

    Returns
    -------
    DataFrame
        A row per run and state: ``run, state, probability`` (that the run visits the state and that
        visit ends within the run), ``median, lower, upper`` of its end given that it does, in
        training steps: the step of the first row after the visit. NaN if it does in less than one
        draw in a hundred.

    Raises
    ------
    ValueError
        If `visit` is another word, or the paths do not fit what is said about them.
    """
    if visit not in ("last", "first"):
        raise ValueError(f'visit={visit!r} must be "last" or "first"')
    draws = check_paths(paths, state_names, level, steps, names)
    tables = []
    for n, visits in enumerate(visits_by_run(draws, minimum_dwell)):
        visits = visits._replace(confirmed=np.append(visits.confirmed[1:], False))  # of the next
        order = np.arange(len(visits.row))
        ends = visits.at(order[::-1] if visit == "last" else order).entries()
        ends = ends.at(ends.target >= 0)
        step = np.asarray(steps)[n, ends.exit]
        tables.append(per_state(names[n], state_names, ends, step, len(draws), level))
    return joined(tables, level, minimum_dwell is not None)


def change_density(
    paths: ArrayLike,
    steps: ArrayLike,
    names: Sequence[Hashable],
    state_names: Sequence[Hashable],
) -> pd.DataFrame:
    """Probability of every change at every recorded step.

    Parameters
    ----------
    paths, steps, names, state_names
        As for `bayeshmm.phases.entry_times`.

    Returns
    -------
    DataFrame
        ``run, source, target, occurrence`` (see `bayeshmm.phases.transition_times`), ``step`` and
        ``probability`` that this change happens there. A row wherever some draw has it, every other
        step having probability 0; over the steps, the probabilities of a change add up to that of
        its happening at all.
    """
    draws = check_paths(paths, state_names, 0.5, steps, names)
    (S, _, T), K = draws.shape, len(state_names)
    tables = []
    for n, visits in enumerate(visits_by_run(draws)):
        into, occurrence = visits.changes()
        shape = K, K, int(occurrence.max(initial=0)) + 1, T
        place = np.ravel_multi_index((into.source, into.state, occurrence, into.row), shape)
        place, count = np.unique(place, return_counts=True)
        source, target, occurrence, row = np.unravel_index(place, shape)
        table = {
            "run": pd.Series(names[n], range(len(place))),
            "source": [state_names[k] for k in source],
            "target": [state_names[k] for k in target],
            "occurrence": occurrence,
            "step": np.asarray(steps)[n, row],
            "probability": count / S,
        }
        tables.append(pd.DataFrame(table))
    density = pd.concat(tables, ignore_index=True)
    density.attrs = {"units": "training steps"}
    return density


def dwell_times(
    paths: ArrayLike,
    steps: ArrayLike,
    names: Sequence[Hashable],
    state_names: Sequence[Hashable],
    level: float = 0.9,
) -> pd.DataFrame:
    """How long each run stays at every visit.

    Parameters
    ----------
    paths, steps, names, state_names, level
        As for `bayeshmm.phases.entry_times`.

    Returns
    -------
    DataFrame
        ``run, state, visit`` (1 for the run's first visit to the state, 2 for the second, ...),
        ``probability`` (that there is such a visit), ``median, lower, upper`` of its length given
        that there is, in training steps from its first row to the first row after it, and
        ``censored``, the probability of a visit that the end of the run cuts short: its length is
        then what was seen of it, up to the run's last row. A row for every visit that some draw
        makes, by run, then state.
    """
    draws = check_paths(paths, state_names, level, steps, names)
    K = len(state_names)
    tables = []
    for n, visits in enumerate(visits_by_run(draws)):
        occurrence = visits.occurrences()
        shape = K, int(occurrence.max(initial=0)) + 1
        table = summary(
            np.ravel_multi_index((visits.state, occurrence), shape),
            visits.lengths(np.asarray(steps)[n]),
            len(draws),
            level,
            censored=visits.target < 0,
        )
        state, occurrence = np.unravel_index(table.index.to_numpy(), shape)
        table.insert(0, "run", pd.Series(names[n], table.index))
        table.insert(1, "state", [state_names[k] for k in state])
        table.insert(2, "visit", occurrence)
        tables.append(table)
    return joined(tables, level, True)
