"""Runs that were not trained: what the runs at hand tell of the seeds that they might have had.

Given each draw's paths, runs are a sample from a population of seeds. A time (of a first entry, of
a visit's length) is normal over the runs that have one, with the flat prior of mean and log
variance: the mean has a t law, the variance a scaled inverse chi-squared law. A probability has
Jeffreys' prior, and so a Beta law (Gelman et al. 2013, Bayesian Data Analysis, 2.4 and 3.2). Over
all draws, these laws carry the variation from seed to seed and the uncertainty of the paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm.conditions import condition_index
from bayeshmm.inference_data import expected_dwell
from bayeshmm.phases.routes import ARROW, route_index
from bayeshmm.phases.visits import check_paths, first_entries, visits_by_run

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

Array = NDArray[np.float64]

UNITS = {
    "entered": "probability",
    "used": "probability",
    "route": "probability",
    "entry_mean": "training steps",
    "entry_sd": "training steps",
    "entry": "training steps",
    "dwell_mean": "training steps",
    "dwell_sd": "training steps",
    "dwell": "training steps",
    "dwell_expected": "training steps",
}
"""What `population` tells, and its units."""

ROUTES = 10
"""Routes that are told apart, the most common ones."""


class Seen(NamedTuple):
    """What the runs do in every draw: (S, N, places), NaN where a time does not exist."""

    places: list[str]
    values: NDArray[Any]  # bool, or times


def population(posterior: Posterior, level: float = 0.9) -> pd.DataFrame:
    """What another run, of another seed, would do: phases, changes, routes and times.

    The variation from seed to seed is in every interval, beside the uncertainty of the paths:
    `entry_times` speaks of these runs, this of all that one might have trained. Times speak of the
    runs that have them; "never" is in the probabilities alone.

    Parameters
    ----------
    posterior
        The fit.
    level
        Probability content of the intervals.

    Returns
    -------
    DataFrame
        A row per ``quantity`` and ``place`` (a phase, a change, a route): ``runs``, the posterior
        median of the number of runs that have it, ``median, lower, upper``, and the ``condition``
        if the fit has such. The quantities (units are in ``attrs["units"]``) are

        * ``entered``: probability that a run enters the phase by the last step of the longest run.
          Shorter runs count for as long as they were seen (a Kaplan-Meier estimate's law);
        * ``used``, ``route``: probability that a run makes the change, or takes the route (of the
          ten most common), in as many steps as these runs had;
        * ``entry_mean``, ``entry_sd``: mean and standard deviation over seeds of the step of the
          first entry, of runs that enter;
        * ``entry``: that step for one new run that enters: the interval is a forecast;
        * ``dwell_mean``, ``dwell_sd``, ``dwell``: the same of the length of a visit, the average of
          each run's visits that end within it. Where many are cut short this is too short, and
          ``dwell_expected`` is not:
        * ``dwell_expected``: the expected length according to the transition probabilities.

        NaN where most draws have fewer than two runs with such a time.

    Raises
    ------
    ValueError
        If `level` is not within (0, 1).
    """
    calendar = posterior.encoding.calendar
    S, N = posterior.paths.shape[:2]
    conditions: tuple[str | None, ...] = (None,)
    index = np.zeros(N, dtype=np.int64)
    if calendar.by is not None:
        conditions, index = condition_index(posterior.runs, calendar.by, calendar.conditions)
    seen = observed(posterior, level)
    expected = expected_dwell(posterior).reshape(S, len(conditions), posterior.states)
    last = posterior.runs.steps.max(axis=1)
    rng = np.random.default_rng(posterior.seed)
    tables = []
    for g, condition in enumerate(conditions):
        for quantity, (places, values) in seen.items():
            own = values[:, index == g]
            laws = _laws(quantity, own, rng)
            if quantity == "entry":
                laws = {"entered": share_entering(own, last[index == g], rng), **laws}
            elif quantity == "dwell":
                laws["dwell_expected"] = expected[:, g]
            runs = np.median(happens(own).sum(axis=1), axis=0).astype(np.int64)
            for name, draws in laws.items():
                table = _intervals(draws, level)
                table.insert(0, "quantity", name)
                table.insert(1, "place", places)
                table.insert(2, "runs", runs)
                tables.append(table if condition is None else table.assign(condition=condition))
    joined = pd.concat(tables, ignore_index=True)
    joined.attrs = {"units": UNITS, "level": level}
    return joined


def observed(posterior: Posterior, level: float) -> dict[str, Seen]:
    """What the fitted runs do in every draw, by quantity: ``entry, dwell, used, route``.

    Visits that had not lasted their minimum dwell when their run ended are left out of routes.
    """
    names, K = list(posterior.state_names), posterior.states
    paths, steps = posterior.paths, posterior.runs.steps
    check_paths(paths, names, level, steps)
    entry, used = first_entries(paths, steps, K)
    pairs = ~np.eye(K, dtype=bool)
    arrows = [names[k] + ARROW + names[other] for k, other in np.argwhere(pairs)]
    found, taken = route_index(paths, names, posterior.minimum_dwell)
    top = np.argsort(-np.bincount(taken.ravel()), kind="stable")[:ROUTES]
    seen = {
        "entry": Seen(names, entry),
        "dwell": Seen(names, _complete_lengths(paths, steps, K)),
        "used": Seen(arrows, used[..., pairs]),
        "route": Seen([found[r] for r in top], taken[..., None] == top),
    }
    return {quantity: own for quantity, own in seen.items() if own.places}


def share_of_seeds(happens: NDArray[np.bool_], rng: np.random.Generator) -> Array:
    """Draws of the share of all runs in which it happens, of (S, runs, ...): (S, ...)."""
    count = happens.sum(axis=1)
    return rng.beta(0.5 + count, 0.5 + happens.shape[1] - count)


def share_entering(times: Array, last: NDArray[np.int64], rng: np.random.Generator) -> Array:
    """Draws of the share of all runs in which it happens while the longest run lasts.

    The law of `outliving`, with half a run more that has it at once: if no run is shorter than
    another this is Jeffreys' Beta law.

    Parameters
    ----------
    times
        Of the event, (S, runs, M); NaN where it does not happen.
    last
        Last step of every run, (runs,).
    rng
        Source of randomness.

    Returns
    -------
    ndarray
        (S, M).
    """
    happened = ~np.isnan(times)
    seen = np.moveaxis(np.where(happened, times, last[:, None]), 1, -1)
    never = outliving(seen, np.moveaxis(happened, 1, -1), rng)[1][..., -1]
    return 1.0 - rng.beta(len(last) + 0.5, 0.5, never.shape) * never


def outliving(
    times: Array, ended: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Draws of the share of a population that outlives each time: the law behind Kaplan and Meier.

    Of those still under observation, the share that outlives an end is Beta(number that do, number
    that do not), independently of the others: a beta process without prior weight (Hjort 1990,
    Annals of Statistics 18), but for half a member that is never seen to end.

    Parameters
    ----------
    times
        (..., V); NaN where there is none.
    ended
        Whether it ended then, or was last seen, (..., V).
    rng
        Source of randomness.

    Returns
    -------
    times, share
        (..., V) each: the times in increasing order, NaN last, and the share after each.
    """
    order = np.lexsort((~ended, times), axis=-1)  # of ties, ends come first
    times = np.take_along_axis(times, order, axis=-1)
    ended = np.take_along_axis(ended, order, axis=-1)
    known = ~np.isnan(times)
    left = known.sum(axis=-1, keepdims=True) - 0.5 - np.arange(times.shape[-1])
    outlive = rng.beta(np.maximum(left, 0.5), 1.0)
    return times, np.where(ended & known, outlive, 1.0).cumprod(axis=-1)


def normal_over_seeds(values: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draws of mean and standard deviation over all runs that have a value, of (S, runs, ...).

    Returns
    -------
    mean, deviation
        (S, ...) each; NaN where fewer than two runs have a value, from which nothing is known of
        their spread.
    """
    count, mean, square = moments(values)
    freedom = np.maximum(count - 1, 1)
    deviation = np.sqrt(square / rng.chisquare(freedom))
    error = deviation / np.sqrt(np.maximum(count, 1))
    drawn = mean + error * rng.standard_normal(mean.shape)
    return np.where(count > 1, drawn, np.nan), np.where(count > 1, deviation, np.nan)


def moments(values: Array) -> tuple[NDArray[np.int64], Array, Array]:
    """Number, mean and sum of squares about it of what is known, over the second axis."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    mean = np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1)
    return count, mean, np.where(known, (values - mean[:, None]) ** 2, 0.0).sum(axis=1)


def happens(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where what is seen takes place."""
    return values if values.dtype == bool else ~np.isnan(values)


def _laws(quantity: str, values: NDArray[Any], rng: np.random.Generator) -> dict[str, Array]:
    """Draws (S, places) of what is told of a quantity, (S, runs, places)."""
    if values.dtype == bool:
        return {quantity: share_of_seeds(values, rng)}
    mean, deviation = normal_over_seeds(values, rng)
    new = np.maximum(mean + deviation * rng.standard_normal(mean.shape), 0.0)
    return {f"{quantity}_mean": mean, f"{quantity}_sd": deviation, quantity: new}


def _complete_lengths(paths: NDArray[Any], steps: NDArray[np.int64], states: int) -> Array:
    """Mean length of each run's complete visits to each state, (S, N, K), in training steps."""
    total, number = np.zeros((2, *paths.shape[:2], states))
    for n, visits in enumerate(visits_by_run(paths)):
        ended = visits.at(visits.target >= 0)
        place = ended.draw, ended.state
        np.add.at(total[:, n], place, ended.lengths(steps[n]))
        np.add.at(number[:, n], place, 1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _intervals(draws: Array, level: float) -> pd.DataFrame:
    """Median and interval of every column; NaN where fewer than half of the draws are known."""
    enough = 2 * (~np.isnan(draws)).sum(axis=0) >= len(draws)
    tails = 0.5, (1 - level) / 2, (1 + level) / 2
    # no interpolation: expected dwells may be infinite
    found = np.nanquantile(np.where(enough, draws, 0.0), tails, axis=0, method="inverted_cdf")
    table = pd.DataFrame(dict(zip(("median", "lower", "upper"), found, strict=True)))
    table.loc[~enough] = np.nan
    return table
