"""What a posterior says of its phases: when runs enter and leave them, and how sure that is.

Functions of a posterior, which are its methods: they decode runs and count events in the paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayeshmm import decoding
from bayeshmm.inference_data import expected_dwell
from bayeshmm.phases import changes, tables
from bayeshmm.phases import routes as orders
from bayeshmm.runs import Runs

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior


def entry_times(posterior: Posterior, level: float = 0.9, runs: Runs | None = None) -> pd.DataFrame:
    """When each run first entered each phase.

    Parameters
    ----------
    level
        Probability content of the intervals.
    runs
        The fitted runs by default.

    Returns
    -------
    DataFrame
        Columns run, state, probability (that it is ever entered), median, lower, upper (given
        that it is, in at least one draw in a hundred), in training steps, and confirmed: the
        probability of an entry that lasts its minimum dwell before the run ends. The noise of the
        last rows opens others.
    """
    runs = posterior.modelled(runs)
    paths = decoding.state_paths(posterior, runs)
    data = paths, runs.steps, runs.names, posterior.state_names
    return tables.entry_times(*data, level, posterior.minimum_dwell)


def exit_times(
    posterior: Posterior, level: float = 0.9, visit: str = "last", runs: Runs | None = None
) -> pd.DataFrame:
    """When each run left each phase: for good, or the first time.

    Parameters
    ----------
    level
        Probability content of the intervals.
    visit
        ``"last"`` or ``"first"``: the visit whose end is asked for.
    runs
        The fitted runs by default.

    Returns
    -------
    DataFrame
        Columns run, state, probability (that the run visits the phase, and that visit ends before
        the run does), median, lower, upper (given that it does), in training steps, and confirmed:
        the probability that the visit after it lasts its minimum dwell. An exit is reported as the
        step of the first row after the visit.
    """
    runs = posterior.modelled(runs)
    paths = decoding.state_paths(posterior, runs)
    data = paths, runs.steps, runs.names, posterior.state_names
    return changes.exit_times(*data, level, posterior.minimum_dwell, visit)


def transition_times(
    posterior: Posterior, level: float = 0.9, runs: Runs | None = None
) -> pd.DataFrame:
    """Every change of phase in every run.

    Parameters
    ----------
    level
        Probability content of the intervals.
    runs
        The fitted runs by default.

    Returns
    -------
    DataFrame
        Columns run, source, target, occurrence (the first, second, ... such change of the
        run), probability, median, lower, upper, and confirmed: the probability of such a change
        into a visit that lasts its minimum dwell before the run ends. A change at row t is
        reported as its step.
    """
    runs = posterior.modelled(runs)
    paths = decoding.state_paths(posterior, runs)
    data = paths, runs.steps, runs.names, posterior.state_names
    return tables.transition_times(*data, level, posterior.minimum_dwell)


def change_density(posterior: Posterior, runs: Runs | None = None) -> pd.DataFrame:
    """The whole posterior of every change time: its probability at each recorded step.

    ``posterior.change_density().query("run == 'seed-3' and target == 'grok'")`` is that of one
    change; over the steps, ``probability`` adds up to that of the change happening at all.

    Parameters
    ----------
    runs
        The fitted runs by default.

    Returns
    -------
    DataFrame
        Columns run, source, target, occurrence, step, probability; steps of probability 0 are left
        out.
    """
    runs = posterior.modelled(runs)
    paths = decoding.state_paths(posterior, runs)
    return changes.change_density(paths, runs.steps, runs.names, posterior.state_names)


def dwell_times(posterior: Posterior, level: float = 0.9, runs: Runs | None = None) -> pd.DataFrame:
    """How long each run stayed at every visit to a phase.

    Parameters
    ----------
    level
        Probability content of the intervals.
    runs
        The fitted runs by default.

    Returns
    -------
    DataFrame
        Columns run, state, visit (the first, second, ... of the run to this phase), probability
        (that there is such a visit), median, lower, upper (of its length, in training steps, given
        that there is), censored (the probability of a visit that the end of the run cuts short,
        whose length is what was seen of it) and expected: the length that the transition
        probabilities let expect, a posterior median. `population` has its interval.
    """
    runs = posterior.modelled(runs)
    paths = decoding.state_paths(posterior, runs)
    table = changes.dwell_times(paths, runs.steps, runs.names, posterior.state_names, level)
    expected = np.median(expected_dwell(posterior), axis=0)
    groups = posterior.encoding.calendar.groups(runs)
    place = [posterior.state_names.index(name) for name in table["state"]]
    if groups is None:
        return table.assign(expected=expected[place])
    own = groups.numpy()[[runs.names.index(name) for name in table["run"]]]
    return table.assign(expected=expected[own, place])


def routes(
    posterior: Posterior, level: float = 0.9, by_run: bool = False, runs: Runs | None = None
) -> pd.DataFrame:
    """Which routes the runs take: the phases in the order of their visits, the most probable first.

    Visits that have not lasted their minimum dwell when their run ends are left out.

    Parameters
    ----------
    level
        Probability content of the intervals.
    by_run
        Whether to tell the runs apart; otherwise all runs together are told of.
    runs
        The fitted runs by default.

    Returns
    -------
    DataFrame
        Columns route, probability (the share of these runs), lower, upper, runs (the posterior
        median of their number); by run: run, route, probability. At most twenty routes.
    """
    runs = posterior.modelled(runs)
    names = runs.names if by_run else None
    paths = decoding.state_paths(posterior, runs)
    return orders.routes(paths, posterior.state_names, level, posterior.minimum_dwell, names)


def visit_order(
    posterior: Posterior, level: float = 0.9, by_run: bool = False, runs: Runs | None = None
) -> pd.DataFrame:
    """Which phase is entered before which.

    Visits that have not lasted their minimum dwell when their run ends are left out.

    Parameters
    ----------
    level
        Probability content of the intervals.
    by_run
        Whether to tell the runs apart; otherwise all runs together are told of.
    runs
        The fitted runs by default.

    Returns
    -------
    DataFrame
        Columns first, second, probability (the share of these runs that enter both, the first of
        the two first), lower, upper, runs (the posterior median of their number), both (the share
        that enter both); by run: run, first, second, probability, both.
    """
    runs = posterior.modelled(runs)
    names = runs.names if by_run else None
    paths = decoding.state_paths(posterior, runs)
    return orders.visit_order(paths, posterior.state_names, level, posterior.minimum_dwell, names)


def recurrence(
    posterior: Posterior, level: float = 0.9, by_run: bool = False, runs: Runs | None = None
) -> pd.DataFrame:
    """Which phases are visited again once they have been left.

    Visits that have not lasted their minimum dwell when their run ends are left out.

    Parameters
    ----------
    level
        Probability content of the intervals.
    by_run
        Whether to tell the runs apart; otherwise all runs together are told of.
    runs
        The fitted runs by default.

    Returns
    -------
    DataFrame
        Columns state, probability (the share of these runs that visit it more than once), lower,
        upper, runs (the posterior median of their number), visits (the mean number of visits of a
        run that visits it); by run: run, state, probability, visits.
    """
    runs = posterior.modelled(runs)
    names = runs.names if by_run else None
    paths = decoding.state_paths(posterior, runs)
    return orders.recurrence(paths, posterior.state_names, level, posterior.minimum_dwell, names)


def edge_usage(posterior: Posterior, level: float = 0.9, runs: Runs | None = None) -> pd.DataFrame:
    """Which changes between phases the runs make, and how many of them do.

    Visits that have not lasted their minimum dwell when their run ends are left out.

    Parameters
    ----------
    level
        Probability content of the intervals.
    runs
        The fitted runs by default.

    Returns
    -------
    DataFrame
        Columns source, target, probability (the share of these runs that make the change at least
        once), lower, upper, runs (the posterior median of their number), runs_certain (the number
        of runs that make it with probability above one half).
    """
    runs = posterior.modelled(runs)
    paths = decoding.state_paths(posterior, runs)
    return tables.edge_usage(paths, posterior.state_names, level, posterior.minimum_dwell)


def occupied(posterior: Posterior, least: float = 0.0) -> pd.DataFrame:
    """How many phases have any rows: with `StickyHDP`, the posterior of their number.

    Of K phases that are all wanted (`Dirichlet`) it tells which the runs do not need. It
    answers how many laws *of this family* the rows ask for, and grows with the data where
    the family does not suit them: `bayeshmm.compare` scores families and numbers on runs left
    out.

    Parameters
    ----------
    least
        Share of all rows that a phase must have to count; 0: any row at all.

    Returns
    -------
    DataFrame
        A row per number, from 0 to that of all phases: ``states, probability``.
    """
    return tables.occupied_states(posterior.paths, posterior.state_names, least)
