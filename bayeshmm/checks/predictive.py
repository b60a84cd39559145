"""Posterior predictive checks: are runs that the model makes like the runs it was fitted to.

Every posterior draw makes a path for each run, with the same rows, from its own chain, and what is
read off it is compared with what is read off the draw's path of the observed run: paths are not
known, and that uncertainty is in the comparison. Values are replicated row by row, each given the
observed rows before it, with run effects drawn anew: a law of motion is one of the step from one
row to the next, and hundreds of its own steps on it would be where no run has been.

References
----------
Gelman, Meng and Stern (1996), "Posterior predictive assessment of model fitness via realized
discrepancies".
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeshmm import decoding, messages
from bayeshmm.checks.residuals import unmixing
from bayeshmm.emissions.conjugate import standard_gamma
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.law import Law
from bayeshmm.inference_data import DRAWS_AT_ONCE
from bayeshmm.nested import take
from bayeshmm.phases.visits import first_entries, visits_by_run

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

Array = NDArray[np.float64]
Statistics = dict[tuple[str, str], Array]
"""Values in every draw, (S,), NaN in draws without one, by statistic and place."""

REPLICATES = 400
"""Posterior draws that make replicates."""

UNITS = {
    "mean dwell": "training steps",
    "shortest dwell": "training steps",
    "changes per run": "number",
    "most common route": "share of runs",
    "runs that return": "share of runs",
    "before": "share of the runs that enter both",
    "spread between runs": "root mean squares of the metric's increments, of levels of itself",
}
"""What is compared, and its units."""


def predictive_checks(posterior: Posterior, level: float = 0.9) -> pd.DataFrame:
    """Compare the fitted runs with runs that the model makes.

    Every draw makes a path for each run, with the same rows, from its own chain; what is read off
    it is compared with the same read off the draw's path of the observed run.

    Parameters
    ----------
    level
        Probability content of the intervals.

    Returns
    -------
    DataFrame
        Indexed by (statistic, place): ``observed, observed_lower, observed_upper, replicated,
        replicated_lower, replicated_upper`` and ``p``, the probability that a replicate is larger
        (ties count half). The statistics are the mean and the shortest dwell (of visits that end
        before their run does), changes per run, the share of runs on the most common route, the
        share that returns to a phase, which of two phases comes before the other, and the spread
        between runs of each metric (given the observed past, run effects drawn anew). NaN where
        most draws have no such thing. Units are in ``attrs``.

    Raises
    ------
    ValueError
        If `level` is not within (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    index = decoding.some_draws(len(posterior.paths), REPLICATES)
    observed = path_statistics(posterior, posterior.paths[index])
    replicated = path_statistics(posterior, replicated_paths(posterior, index))
    if isinstance(posterior.draws.law, Law) and len(posterior.runs) > 1:
        spreads = _spreads(posterior, index)
        observed, replicated = observed | spreads[0], replicated | spreads[1]
    rows = []
    for (statistic, place), values in observed.items():
        others = replicated[statistic, place]
        both = ~np.isnan(values) & ~np.isnan(others)
        record: dict[str, object] = {"statistic": statistic, "place": place}
        # where either has no such thing in most draws, there is nothing to compare
        if 2 * both.sum() >= len(index):
            values, others = values[both], others[both]
            for name, some in ("observed", values), ("replicated", others):
                low, middle, high = np.quantile(some, ((1 - level) / 2, 0.5, (1 + level) / 2))
                record |= {name: middle, f"{name}_lower": low, f"{name}_upper": high}
            record["p"] = (others > values).mean() + 0.5 * (others == values).mean()
        rows.append(record)
    table = pd.DataFrame(rows).set_index(["statistic", "place"])
    table.attrs = {"units": UNITS, "level": level, "replicates": len(index)}
    return table


def replicated_paths(posterior: Posterior, index: Tensor) -> NDArray[np.int64]:
    """A path of every fitted run from the chain of each of some draws, (S, N, T)."""
    data = posterior.encoding.encode(posterior.runs)
    generator = torch.Generator().manual_seed(posterior.seed)
    N, T, dwell = *posterior.runs.steps.shape, posterior.minimum_dwell
    paths = []
    for some in index.split(DRAWS_AT_ONCE):
        log = data.schedule.spread(take(posterior.draws.chain, some).log, dwell)
        # rows that tell nothing leave the posterior of a path at its prior
        rows = torch.zeros(len(some), N, T, posterior.states, dtype=torch.float64)
        uniforms = torch.rand(rows.shape[:-1], dtype=torch.float64, generator=generator)
        settings = {"lengths": data.lengths, "minimum_dwell": dwell, "uniforms": uniforms}
        paths.append(messages.sample_paths(log.initial, log.transition, rows, **settings))
    return torch.cat(paths).numpy()


def path_statistics(posterior: Posterior, paths: NDArray[np.integer]) -> Statistics:
    """What is read off paths (S, N, T): dwell, changes, order and recurrence.

    Dwell times are those of visits that end before their run does; the same are left out of
    replicates.
    """
    steps, names = posterior.runs.steps, posterior.state_names
    (S, N, _), K = paths.shape, posterior.states
    total, count, shortest = np.zeros(S * K), np.zeros(S * K), np.full(S * K, np.inf)
    changes, returns = np.zeros(S), np.zeros(S)
    routes: list[list[bytes]] = []
    for n, visits in enumerate(visits_by_run(paths)):
        ends = visits.draw[1:] == visits.draw[:-1]
        entered = steps[n, visits.row]
        dwell = np.diff(entered)[ends]
        cell = (visits.draw * K + visits.state)[:-1][ends]
        total += np.bincount(cell, dwell, S * K)
        count += np.bincount(cell, minlength=S * K)
        np.minimum.at(shortest, cell, dwell)
        number = np.bincount(visits.draw, minlength=S)
        distinct = np.bincount(visits.entries().draw, minlength=S)
        changes += number - 1
        returns += number > distinct
        route = np.split(visits.state, number.cumsum()[:-1])
        routes.append([one.tobytes() for one in route])
    some = count > 0
    mean = np.where(some, total / np.maximum(count, 1), np.nan).reshape(S, K)
    shortest = np.where(some, shortest, np.nan).reshape(S, K)
    common = [max(map(one.count, one)) for one in map(list, zip(*routes, strict=True))]
    found: Statistics = {("mean dwell", name): mean[:, k] for k, name in enumerate(names)}
    found |= {("shortest dwell", name): shortest[:, k] for k, name in enumerate(names)}
    found["changes per run", ""] = changes / N
    found["most common route", ""] = np.array(common) / N
    found["runs that return", ""] = returns / N
    entry, _ = first_entries(paths, steps, K)
    for i, j in combinations(range(K), 2):
        both = ~np.isnan(entry[..., i]) & ~np.isnan(entry[..., j])
        first = (both & (entry[..., i] < entry[..., j])).sum(1)
        share = np.where(both.any(1), first / np.maximum(both.sum(1), 1), np.nan)
        found["before", f"{names[i]} before {names[j]}"] = share
    return found


def _spreads(posterior: Posterior, index: Tensor) -> tuple[Statistics, Statistics]:
    """Spread between runs of every metric, less what phases explain: observed and replicated."""
    design = posterior.encoding.encode(posterior.runs).design
    generator = torch.Generator().manual_seed(posterior.seed + 1)
    paths = torch.from_numpy(posterior.paths).long()
    precision = posterior.draws.precisions.groups[..., -1].flatten()
    values = np.array(
        [
            _spread(design, take(posterior.draws.law, s), precision[s], paths[s], generator)
            for s in index.tolist()
        ]
    )
    values = values[..., np.argsort(posterior.encoding.scaling.order)]
    places = [("spread between runs", metric) for metric in posterior.metrics]
    observed, replicated = values.transpose(1, 2, 0)
    return dict(zip(places, observed, strict=True)), dict(zip(places, replicated, strict=True))


def _spread(
    design: Design, law: Law, run_precision: Tensor, path: Tensor, generator: torch.Generator
) -> tuple[Array, Array]:
    """Standard deviation over runs of their mean deviation from the law that all share, (D,) each.

    Once of the responses, once of replicates about the same pasts and in the same phases, whose
    run effects are new.
    """
    (N, T, D), P = design.response.shape, design.layout.past
    place = path.clamp_min(0)
    inverse = unmixing(design.layout, law)[0]
    own = law.coefficients[0, place, :, :P]
    shared = torch.einsum("ntij,ntjp,ntjp->nti", inverse[place], own, design.past)
    deviation = law.precision[0].rsqrt()
    noise = torch.randn(N, T, D, dtype=torch.float64, generator=generator)
    if law.tail is not None:
        half = 0.5 * law.tail.degrees.expand(N, T)
        noise = noise / (standard_gamma(half, generator) / half).sqrt()[..., None]
    noise = noise * deviation[place]
    if law.effects is not None:
        effects = torch.randn(N, *deviation.shape, dtype=torch.float64, generator=generator)
        effects = effects * deviation * run_precision.rsqrt()
        noise = noise + effects[torch.arange(N)[:, None], place]
    replicate = torch.einsum("ntij,ntj->nti", inverse[place], noise)
    count = design.observed.sum(1).clamp_min(1)

    def spread(deviations: Tensor) -> Array:
        return ((deviations * design.observed).sum(1) / count).std(0).numpy()

    return spread(design.response - shared), spread(replicate)
