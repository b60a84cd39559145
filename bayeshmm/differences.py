"""How conditions differ: the posterior of every difference between groups of runs.

Two kinds of quantities are compared. Transition probabilities and expected dwells are parameters
of the chain: their draws are those of the posterior. Whether and when a phase is entered is read
off sampled paths, which speak of the runs at hand. What is compared is what all runs of a
condition, those that were not trained too, would do on average, so that the variation from seed to
seed is part of the interval: given each draw's paths, a share of runs is drawn from its Beta law
and a mean entry time from its t law (Gelman et al. 2013, Bayesian Data Analysis, 2.4 and 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm.conditions import condition_index
from bayeshmm.inference_data import expected_dwell
from bayeshmm.phases.population import normal_over_seeds, share_of_seeds
from bayeshmm.phases.visits import check_paths, first_entries

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

Array = NDArray[np.float64]

UNITS = {
    "transition": "probability",
    "dwell": "training steps",
    "entry": "training steps",
    "entered": "probability",
    "used": "probability",
}
"""What is compared, and its units."""


def condition_differences(posterior: Posterior, level: float = 0.9) -> pd.DataFrame:
    """How conditions differ: the posterior of every difference between two of them.

    Returns
    -------
    DataFrame
        A row per ``quantity, first`` and ``second`` condition, and ``place``: ``median, lower,
        upper`` of the second's value less the first's, and ``positive``, the probability that
        it is above 0. The quantities (units are in ``attrs["units"]``) are

        * ``transition``: probability of the change at a base step past the minimum dwell;
        * ``dwell``: expected length of a visit to the phase, in training steps;
        * ``entry``: mean step of the first entry into the phase, of runs that enter it;
        * ``entered``: probability that a run ever enters the phase;
        * ``used``: probability that a run ever makes the change.

        The last three speak of all runs that the condition might have had, so that the
        variation from seed to seed is in their intervals, beside that of the paths: a mean has
        its t law given the runs' steps, a probability its Beta law with Jeffreys' prior. Rows
        are NaN where most draws have fewer than two runs of a condition that enter.

    Raises
    ------
    ValueError
        If the fit has no conditions: it takes ``transition=Grouped(by=...)``.
    """
    calendar = posterior.encoding.calendar
    if calendar.by is None:
        raise ValueError(
            "the runs of this fit all share their transitions: fit it with "
            'transition=Grouped(by="..."), an attribute of the runs'
        )
    conditions, index = condition_index(posterior.runs, calendar.by, calendar.conditions)
    tails = (1 - level) / 2, 0.5, (1 + level) / 2
    tables = []
    for quantity, places, values in _quantities(posterior, index, len(conditions), level):
        for first, second in combinations(range(len(conditions)), 2):
            with np.errstate(invalid="ignore"):  # of two phases that are never left
                difference = values[:, second] - values[:, first]
            known = ~np.isnan(difference)
            enough = 2 * known.sum(axis=0) >= len(known)
            middle = np.where(enough, difference, 0.0)  # no empty columns
            lower, median, upper = np.nanquantile(middle, tails, axis=0)
            table = pd.DataFrame(
                {
                    "median": median,
                    "lower": lower,
                    "upper": upper,
                    "positive": (middle > 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1),
                }
            )
            table.loc[~enough] = np.nan
            table.insert(0, "quantity", quantity)
            table.insert(1, "first", conditions[first])
            table.insert(2, "second", conditions[second])
            table.insert(3, "place", places)
            tables.append(table)
    joined = pd.concat(tables, ignore_index=True)
    joined.attrs = {"units": UNITS, "level": level, "by": calendar.by}
    return joined


def _quantities(
    posterior: Posterior, index: NDArray[np.int64], conditions: int, level: float
) -> Iterator[tuple[str, list[str], Array]]:
    """Name, places and draws (S, G, places) of everything that is compared."""
    names, K = posterior.state_names, posterior.states
    changes = [(k, other) for k in range(K) for other in range(K) if other != k]
    source, target = np.array(changes, dtype=np.int64).reshape(-1, 2).T
    arrows = [f"{names[k]} -> {names[other]}" for k, other in changes]
    if K > 1:
        yield "transition", arrows, posterior.draws.chain.transition.numpy()[..., source, target]
        yield "dwell", list(names), expected_dwell(posterior)
    paths = check_paths(posterior.paths, names, level, posterior.runs.steps)
    entry, used = first_entries(paths, posterior.runs.steps, K)
    rng = np.random.default_rng(posterior.seed)
    groups = [index == g for g in range(conditions)]
    means = np.stack([normal_over_seeds(entry[:, runs], rng)[0] for runs in groups], 1)
    yield "entry", list(names), means
    entered = ~np.isnan(entry)
    shares = np.stack([share_of_seeds(entered[:, runs], rng) for runs in groups], 1)
    yield "entered", list(names), shares
    used = used[..., source, target]
    if len(some := np.flatnonzero(used.any(axis=(0, 1)))):
        shares = np.stack([share_of_seeds(used[:, runs][..., some], rng) for runs in groups], 1)
        yield "used", [arrows[i] for i in some], shares
