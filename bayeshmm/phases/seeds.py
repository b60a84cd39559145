"""How many more seeds a question needs, by simulation from what the fit tells of seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import beta
from scipy.stats import t as student_t

from bayeshmm.phases.population import (
    Seen,
    happens,
    moments,
    normal_over_seeds,
    observed,
    share_of_seeds,
)
from bayeshmm.tidy import listed

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

Array = NDArray[np.float64]

MORE = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 500)
"""Numbers of further runs that are tried."""

SETS = 4000
"""Sets of further runs that are simulated for each."""


def seeds_needed(
    posterior: Posterior,
    quantity: str,
    place: str,
    width: float | None = None,
    level: float = 0.9,
    more: Sequence[int] = MORE,
    seed: int = 0,
) -> pd.DataFrame:
    """How sure one would be with more seeds.

    Sets of further runs are simulated from what the fit tells of seeds, and the interval that they
    and the present runs would give is computed: of the mean over seeds, or of the probability, as
    in `population`. Simulated are not rows but what the question asks for: with parameters drawn
    from their posterior, each further run has the event or not, and a time that is normal over
    seeds. (Paths simulated from the chain would do worse: its dwell times are geometric, with a
    spread about as large as their mean, and those of training runs are not.) Further runs are taken
    to be as unsure of their paths as the present ones, and to be as long; conditions are not told
    apart.

    Parameters
    ----------
    posterior
        The fit.
    quantity
        * ``"entry"``, ``"dwell"``: the mean step of the first entry into a phase, the mean length
          of a visit to it (each over runs that have one);
        * ``"entered"``, ``"used"``, ``"route"``: the probability that a run enters a phase, makes
          a change, takes a route.
    place
        Name of the phase, the change (``"phase 0 -> phase 1"``) or the route.
    width
        An interval that is narrow enough, in training steps or as a probability.
    level
        Probability content of the interval.
    more
        Numbers of further runs.
    seed
        Same seed, same table.

    Returns
    -------
    DataFrame
        A row per number: ``more``, ``runs`` (with the present ones), ``width``, the expected width
        of the interval, ``seen``, the probability that one further run at least has the event, and,
        with `width`, ``enough``: the probability that the interval is no wider. Units are in
        ``attrs["units"]``.

    Raises
    ------
    ValueError
        If there is no such quantity or place, most draws have fewer than two runs with such a time,
        or `level` is not within (0, 1).
    """
    values = _seen(posterior, quantity, place, level)
    if not more or any(n < 0 or n != int(n) for n in more):
        raise ValueError(f"more={more!r} must be whole numbers of runs, none negative")
    rng = np.random.default_rng(seed)
    timed = values.dtype != bool
    draws = np.flatnonzero(happens(values).sum(axis=1) >= (2 if timed else 0))
    sets = values[rng.choice(draws, SETS)]
    simulated = _means(sets, level, rng) if timed else _shares(sets, level, rng)
    sharp = simulated(0)[0].mean()  # as if the paths were known; 0 where all times are the same
    unsure = _present_width(values[draws], level, rng) / sharp if sharp > 0 else 1.0
    records = []
    for further in more:
        widths, new = simulated(further)
        record = {"more": further, "runs": values.shape[1] + further}
        record |= {"width": unsure * widths.mean(), "seen": np.mean(new > 0)}
        if width is not None:
            record["enough"] = np.mean(unsure * widths <= width)
        records.append(record)
    table = pd.DataFrame(records)
    unit = "training steps" if timed else "probability"
    table.attrs = {"units": unit, "level": level, "quantity": quantity, "place": place}
    return table


Widths = Callable[[int], tuple[Array, NDArray[np.int64]]]
"""From a number of further runs to, set by set, the width of the interval and how many have it."""


def _shares(happened: NDArray[np.bool_], level: float, rng: np.random.Generator) -> Widths:
    """Intervals of a probability, of sets (sets, runs)."""
    N, count = happened.shape[1], happened.sum(axis=1)
    probability = share_of_seeds(happened, rng)
    tails = np.array([[(1 - level) / 2], [(1 + level) / 2]])

    def widths(further: int) -> tuple[Array, NDArray[np.int64]]:
        new = rng.binomial(further, probability)
        with_it = count + new
        lower, upper = beta.ppf(tails, with_it + 0.5, N + further - with_it + 0.5)
        return upper - lower, new

    return widths


def _means(times: Array, level: float, rng: np.random.Generator) -> Widths:
    """Intervals of a mean, of sets (sets, runs), NaN where a run has no such time."""
    probability = share_of_seeds(happens(times), rng)
    count, mean, square = moments(times)
    centre, deviation = normal_over_seeds(times, rng)

    def widths(further: int) -> tuple[Array, NDArray[np.int64]]:
        new = rng.binomial(further, probability)
        own = centre + deviation / np.sqrt(np.maximum(new, 1)) * rng.standard_normal(len(new))
        spread = deviation**2 * rng.chisquare(np.maximum(new - 1, 1)) * (new > 1)
        total = count + new
        squares = square + spread + (own - mean) ** 2 * count * new / total
        error = np.sqrt(squares / (total * (total - 1)))
        return 2 * student_t.ppf((1 + level) / 2, total - 1) * error, new

    return widths


def _present_width(values: NDArray[Any], level: float, rng: np.random.Generator) -> float:
    """Width of the interval at hand, the uncertainty of the paths in it."""
    timed = values.dtype != bool
    draws = normal_over_seeds(values, rng)[0] if timed else share_of_seeds(values, rng)
    lower, upper = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(upper - lower)


def _seen(posterior: Posterior, quantity: str, place: str, level: float) -> NDArray[Any]:
    """What the runs do in every draw, (S, N)."""
    seen = observed(posterior, level)
    seen["entered"] = Seen(seen["entry"].places, happens(seen["entry"].values))
    if quantity not in seen:
        raise ValueError(f"quantity={quantity!r} must be one of {', '.join(sorted(seen))}")
    places, values = seen[quantity]
    if place not in places:
        raise ValueError(f"{quantity}: there is no {place!r}, only {listed(places)}")
    found = values[..., places.index(place)]
    if found.dtype != bool and np.mean(happens(found).sum(axis=1) > 1) < 0.5:
        raise ValueError(
            f"{quantity} of {place!r}: fewer than two runs have one, and nothing is known of its "
            "spread over seeds; ask for the probability of it, or train more runs"
        )
    return found
