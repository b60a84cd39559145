"""Forward pseudo-residuals: where each value fell in what the rows before it had predicted.

A residual is ``z = Phi^-1(F(y))``, F being the predictive distribution of one metric in one row
given the rows before it: that of every phase, weighed by how probable the phase is before the row
is seen. Under the model the residuals of a metric are independent standard normals. Memory that a
phase's law lacks shows in their autocorrelation, heavy tails and outliers in their quantiles.

References
----------
Zucchini, MacDonald and Langrock (2016), "Hidden Markov Models for Time Series", section 6.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, ndtri_exp, stdtr
from torch import Tensor

from bayeshmm import decoding, messages
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.layout import Layout
from bayeshmm.encoding import Encoded
from bayeshmm.nested import take
from bayeshmm.runs import Runs
from bayeshmm.transitions import Chain

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

Array = NDArray[np.float64]

DRAWS = 50
"""Posterior draws that predictive distributions are averaged over."""

SMALLEST = 1e-300
"""Tail probability below which a residual is cut off, at 37 standard deviations."""


class ResidualScore(NamedTuple):
    """How far the residuals of a fit are from independent standard normals; 0 is perfect.

    Attributes
    ----------
    autocorrelation
        That of neighbouring rows, of the metric in which it is largest in size. Near 1: phases
        slice a trend.
    normality
        Mean distance between the quantiles of the residuals and those of the standard normal, in
        standard deviations, on average over metrics.
    """

    autocorrelation: float
    normality: float


def pseudo_residuals(posterior: Posterior, runs: Runs | None = None) -> xr.DataArray:
    """Normal scores of every value given the rows before it.

    Predictive distributions are averaged over posterior draws, then made normal scores. The draws
    know all rows of the fitted runs, their run effects too; of new runs nothing is known but the
    rows before each, as in `Posterior.filter`.

    Parameters
    ----------
    posterior
        A fit of one of this package's emissions.
    runs
        The fitted runs by default.

    Returns
    -------
    DataArray
        Over (run, time, metric), with the training step as the coordinate ``step`` (run, time).
        NaN where a value is missing and beyond the end of a run; under a law of motion also where
        a metric of a run is first observed, for phases say nothing of where it starts.

    Raises
    ------
    ValueError
        If the emission is a user's own, whose distribution functions are not known.
    """
    runs = posterior.modelled(runs)
    data, law, chain = decoding.parameters(posterior, runs, joined=False)
    if not isinstance(law, Law) or not isinstance(data, Encoded):
        raise ValueError(
            f"{type(posterior.hmm.emission).__name__} says how probable a value is, and not how "
            "probable a smaller one: residuals need an emission of this package."
        )
    index = decoding.some_draws(len(chain.initial), DRAWS)
    tails = np.zeros((2, *data.design.response.shape))
    for s in index.tolist():
        tails += predictive_tails(data, take(law, s), take(chain, s), posterior.minimum_dwell)
    z = normal_scores(tails / len(index), data.design)
    return xr.DataArray(
        z[..., np.argsort(posterior.encoding.scaling.order)],
        dims=("run", "time", "metric"),
        coords={
            "run": list(runs.names),
            "metric": list(posterior.metrics),
            "step": (("run", "time"), runs.steps),
        },
        name="residual",
    )


def residual_score(data: Encoded, law: Law, chain: Chain, minimum_dwell: int) -> ResidualScore:
    """Score a fit by the residuals that known parameters leave.

    Parameters
    ----------
    data
        N runs.
    law, chain
        Values of the parameters, with an axis of runs of size 1 or N and no other.
    minimum_dwell
        Rows.
    """
    tails = predictive_tails(data, law, data.schedule.of_groups(chain), minimum_dwell)
    z = normal_scores(tails, data.design)
    correlation = autocorrelation(z)
    return ResidualScore(
        float(correlation[np.abs(correlation).argmax()]), float(quantile_distance(z).mean())
    )


def predictive_tails(data: Encoded, law: Law, chain: Chain, minimum_dwell: int) -> Array:
    """Probability of a value below, and above, each one given the rows before it, (2, N, T, D).

    Parameters
    ----------
    data
        N runs.
    law, chain
        Values of the parameters: no axes before that of runs, of size 1 or N.
    minimum_dwell
        Rows.
    """
    log = data.ungrouped().schedule.spread(chain.log, minimum_dwell)
    predicted = messages.predict(
        log.initial,
        log.transition,
        data.rows(law),
        lengths=data.lengths,
        minimum_dwell=minimum_dwell,
    ).state.numpy()[..., None]
    x = standardised(data.design, law).numpy()
    smaller = ndtr(-np.abs(x)) if law.tail is None else stdtr(law.tail.degrees.item(), -np.abs(x))
    below, above = np.where(x < 0, (smaller, 1.0 - smaller), (1.0 - smaller, smaller))
    return np.stack([(predicted * below).sum(-2), (predicted * above).sum(-2)])


def standardised(design: Design, law: Law) -> Tensor:
    """Responses less their mean in each state, over their scale, (N, T, K, D).

    A row's recursive regressions ``T z = C x + e`` have the reduced form ``z = T^-1 (C x + e)``,
    whose marginals are normal, or Student-t with the degrees of freedom of the row.
    """
    own = law.by_run()
    inverse = unmixing(design.layout, own)
    fitted = torch.einsum(
        "ntjp,nkjp->ntkj", design.past, own.coefficients[..., : design.layout.past]
    )
    mean = torch.einsum("nkij,ntkj->ntki", inverse, fitted)
    scale = (inverse.square() / own.precision[..., None, :]).sum(-1).sqrt()
    return (design.response[:, :, None] - mean) / scale[:, None]


def unmixing(layout: Layout, law: Law) -> Tensor:
    """``T^-1`` of every state, (..., K, D, D): what the equations make of their own noise."""
    D, P = layout.metrics, layout.past
    one = torch.eye(D, dtype=torch.float64).expand(*law.precision.shape, D)
    if not layout.full:
        return one
    contrasts = law.coefficients[..., P:] * layout.active[:, P:]
    mixing = one - torch.nn.functional.pad(contrasts, (0, 1))
    return torch.linalg.solve_triangular(mixing, one, upper=False, unitriangular=True)


def normal_scores(tails: Array, design: Design) -> Array:
    """Normal scores of tail probabilities (2, N, T, D), each from its smaller tail; else NaN."""
    lower, upper = np.log(np.maximum(tails, SMALLEST))
    z = np.where(lower < upper, ndtri_exp(lower), -ndtri_exp(upper))
    return np.where(design.observed.numpy(), z, np.nan)


def autocorrelation(z: Array, lag: int = 1, rows: NDArray[np.bool_] | None = None) -> Array:
    """Autocorrelation of every metric, pooled over runs about each run's mean, (D,).

    Parameters
    ----------
    z
        Residuals (N, T, D), NaN where there is none.
    lag
        Rows.
    rows
        Rows that count, (N, T): both of a pair must.
    """
    known = ~np.isnan(z)
    mean = np.where(known, z, 0.0).sum(1, keepdims=True) / np.maximum(
        known.sum(1, keepdims=True), 1
    )
    counted = known if rows is None else known & rows[..., None]
    both = counted[:, lag:] & counted[:, :-lag]
    late, early = ((np.where(both, part - mean, 0.0)) for part in (z[:, lag:], z[:, :-lag]))
    size = np.sqrt((late**2).sum((0, 1)) * (early**2).sum((0, 1)))
    return (late * early).sum((0, 1)) / np.where(size > 0, size, 1.0)


def quantile_distance(z: Array) -> Array:
    """Mean distance of the quantiles of every metric from standard normal ones, (D,)."""
    distances = []
    for column in z.reshape(-1, z.shape[-1]).T:
        found = np.sort(column[~np.isnan(column)])
        expected = ndtri((np.arange(len(found)) + 0.5) / max(len(found), 1))
        distances.append(np.abs(found - expected).mean() if len(found) else 0.0)
    return np.array(distances)
