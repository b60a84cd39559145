"""What a check measures, from where on it is a finding, and what would mend it.

Thresholds are of two kinds. A measure has to be large enough to matter, which is in `THRESHOLDS`,
and that of residuals larger than chance makes it where there are few.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, poisson

from bayeshmm.checks.predictive import UNITS
from bayeshmm.checks.residuals import autocorrelation, quantile_distance
from bayeshmm.emissions.families import Autoregressive
from bayeshmm.metric_checks import MOSTLY_CONSTANT, saturated_metrics
from bayeshmm.phases import modal_path

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

Array = NDArray[np.float64]

THRESHOLDS = {
    "chains": 1.05,
    "restarts": 5.0,
    "stands still": MOSTLY_CONSTANT,
    "autocorrelation": 0.2,
    "tails": 0.01,
    "normality": 0.2,
    "run": 1.5,
    **dict.fromkeys(UNITS, 0.01),
}
"""From where on a measure is a finding.

=================== ===========================================================================
``chains``          above: largest R-hat
``restarts``        below: nats between the best start and one that agrees with it on less than
                    nine rows in ten
``stands still``    above: share of rows in which a metric does; its residuals are passed over
``autocorrelation`` above, in size: that of the residuals of neighbouring rows
``tails``           above: share of residuals beyond three standard deviations; 0.0027 expected
``normality``       above: mean distance of the residuals' quantiles from standard normal ones,
                    in standard deviations
``run``             above: mean squared residual of a run, in those of the median run
the others          below: two-sided p-value of a predictive check; one-sided for the spread
                    between runs, which may well be smaller than run effects let it be
=================== ===========================================================================
"""

AGREEMENT = 0.9
"""Share of rows below which a start has reached other phases than the best."""

FAR = 3.0
"""Standard deviations beyond which a residual is in the tails."""

FEWEST = 30
"""Residuals of a metric in a phase below which the phase is not looked at by itself."""

CHANCE = 1e-5
"""About the probability with which a measure of independent normal residuals is a finding."""


class Measure(NamedTuple):
    """One number, and what it would mean beyond its threshold.

    Attributes
    ----------
    measure
        A key of `THRESHOLDS`.
    subject
        The metric, the run, the phase or what else it is of.
    value, threshold
        The number, and from where on it is a finding.
    what, mend
        What is wrong then, and what to try.
    phase
        Whose rows alone count; empty for all rows.
    below
        Whether it is found below the threshold.
    """

    measure: str
    subject: str
    value: float
    threshold: float
    what: str
    mend: str
    phase: str = ""
    below: bool = False

    @property
    def severity(self) -> float:
        """The larger, the worse, among the same measures."""
        return -self.value if self.below else abs(self.value)

    @property
    def found(self) -> bool:
        """Whether it is beyond its threshold."""
        return self.value < self.threshold if self.below else abs(self.value) > self.threshold


def of_sampling(posterior: Posterior) -> Iterator[Measure]:
    """Chains that disagree, and starts that found other phases."""
    r_hat = float(posterior.diagnostics.get("r_hat", math.nan))
    worst = str(posterior.diagnostics.get("worst", ""))
    yield Measure(
        "chains",
        worst,
        r_hat,
        THRESHOLDS["chains"],
        f"chains disagree: R-hat {r_hat:.2f} at the {worst}",
        "Take more draws (draws=), more starts (restarts=) or fewer states",
    )
    behind = posterior.restarts["objective"].max() - posterior.restarts["objective"]
    for i in np.flatnonzero(posterior.restarts["agreement"] < AGREEMENT):
        start, agreement = posterior.restarts.loc[i, ["start", "agreement"]]
        yield Measure(
            "restarts",
            f"start {start:g}",
            float(behind[i]),
            THRESHOLDS["restarts"],
            f"start {start:g} is {behind[i]:.1f} nats behind the best, with other phases: they "
            f"agree on {agreement:.0%} of rows",
            "The runs do not tell these phases apart: take more runs, or the fewest states that "
            "bayeshmm.compare lets pass, and look at both segmentations (seed=)",
            below=True,
        )


def of_residuals(posterior: Posterior, z: Array) -> Iterator[Measure]:
    """Memory and tails that the laws lack, by metric and phase; runs that are predicted worst.

    Parameters
    ----------
    posterior
        A fit.
    z
        Residuals of the fitted runs, (N, T, D).
    """
    path, still = modal_path(posterior.paths), saturated_metrics(posterior.runs)
    for metric, share in still.items():
        yield Measure(
            "stands still",
            metric,
            share,
            THRESHOLDS["stands still"],
            f"{metric} stands still in {share:.0%} of the rows, which no law of noise describes",
            "Leave it out with metrics=, or log a finer measure of the same thing",
        )
    cells = [("", path >= 0)]
    if posterior.states > 1:
        cells += [(name, path == k) for k, name in enumerate(posterior.state_names)]
    for phase, rows in cells:
        correlations = autocorrelation(z, rows=rows)
        for j, metric in enumerate(posterior.metrics):
            some = z[rows, j][~np.isnan(z[rows, j])]
            if metric not in still and len(some) >= FEWEST:
                yield from _of_cell(posterior, metric, phase, some, float(correlations[j]))
    for j, metric in enumerate(posterior.metrics):
        some = z[~np.isnan(z[..., j]), j]
        if metric not in still and len(some) >= FEWEST:
            distance = float(quantile_distance(some[:, None])[0])
            yield Measure(
                "normality",
                metric,
                distance,
                # that of n normal numbers is 1.3 / sqrt(n) on average, and seldom three times that
                max(THRESHOLDS["normality"], 4.0 / math.sqrt(len(some))),
                f"the noise of {metric} has another law: the quantiles of its residuals are "
                f"{distance:.2f} standard deviations off on average",
                _other_noise(posterior),
            )
    seen = ~np.isnan(z)
    squares = (np.where(seen, z, 0.0) ** 2).sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1)
    ratios = squares / np.median(squares)
    for name, ratio, number in zip(posterior.runs.names, ratios, seen.any(2).sum(1), strict=True):
        yield Measure(
            "run",
            name,
            float(ratio),
            max(THRESHOLDS["run"], 1.0 + 5.0 * math.sqrt(2.0 / max(number, 1))),
            f"{name} is predicted worst: its squared residuals are {ratio:.1f} times those of the "
            "median run",
            f"Look at bayeshmm.plots.phases(posterior, run={name!r}); a run of another kind is "
            "left out with runs.subset([...])",
        )


def _of_cell(
    posterior: Posterior, metric: str, phase: str, z: Array, correlation: float
) -> Iterator[Measure]:
    """Memory and tails of the residuals of one metric, in one phase or in all."""
    n, place = len(z), f"{metric} in {phase}" if phase else metric
    yield Measure(
        "autocorrelation",
        metric,
        correlation,
        max(THRESHOLDS["autocorrelation"], norm.isf(CHANCE / 2) / math.sqrt(n)),
        f"residuals of {place} are autocorrelated: {correlation:.2f} at lag 1",
        _longer_memory(posterior),
        phase,
    )
    share, expected = float((np.abs(z) > FAR).mean()), 2 * norm.sf(FAR)
    yield Measure(
        "tails",
        metric,
        share,
        max(THRESHOLDS["tails"], poisson.isf(CHANCE, n * expected) / n),
        f"{share:.1%} of the residuals of {place} are beyond {FAR:g} standard deviations, where "
        f"{expected:.1%} are expected",
        _other_noise(posterior),
        phase,
    )


def of_replicates(posterior: Posterior, checks: pd.DataFrame) -> Iterator[Measure]:
    """What the runs have and runs that the model makes have not, by `predictive_checks`."""
    for row in checks.dropna().reset_index().to_dict("records"):
        statistic, place, p = row["statistic"], row["place"], row["p"]
        observed, usual = row["observed"], row["replicated"]
        what = (
            f"{statistic}{' of ' * bool(place)}{place}: {observed:.4g} is observed, and the model "
            f"makes {row['replicated_lower']:.4g} to {row['replicated_upper']:.4g} "
            f"({UNITS[statistic]})"
        )
        if statistic == "spread between runs":
            what = f"runs differ in {place}: {observed / usual:.1f} times as much as the model's"
        else:
            p = 2.0 * min(p, 1.0 - p)
        yield Measure(
            statistic,
            place,
            p,
            THRESHOLDS[statistic],
            what,
            _other_structure(posterior, statistic),
            below=True,
        )


def _longer_memory(posterior: Posterior) -> str:
    family = posterior.hmm.family
    if not family.dynamic:
        return 'Levels slice a trend: try emission="autoregressive"'
    if isinstance(family, Autoregressive) and not family.half_lives:
        return (
            "The law forgets too soon: try Autoregressive(half_lives=(3, 10, 30)), more lags= or "
            'coupling="full"'
        )
    return 'The law leaves something out: try coupling="full", or more states'


def _other_noise(posterior: Posterior) -> str:
    if posterior.hmm.family.noise == "normal":
        return 'Noise has heavier tails than a normal law: try noise="student-t"'
    return (
        "The noise is not of one size within a phase: try more states, or the logarithm of a "
        "metric that spans decades, log=[...]"
    )


def _other_structure(posterior: Posterior, statistic: str) -> str:
    if statistic == "spread between runs":
        if not posterior.hmm.family.run_effects:
            return "Runs differ in level or drift: try run_effects=True"
        return "Runs differ by more than run effects have it: compare kinds of runs, Grouped(by=)"
    if "dwell" in statistic:
        return (
            "Visits do not end with a constant probability. The times of the observed changes "
            "hardly depend on it, but simulated runs do: where visits are too regular, a longer "
            "minimum_dwell= is nearer to them"
        )
    return (
        "The order of phases is not that of a Markov chain: simulated runs are unlike these. Try "
        "LeftToRight() where all runs take one way, Grouped(by=) where kinds of runs differ"
    )
