"""Small designs, and the regressions written out without any of the package's shortcuts."""

import itertools
import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from bayeshmm.emissions import Autoregressive, Emission, Gaussian, families
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.hyperpriors import Hyperpriors
from bayeshmm.emissions.law import Effects, Law, Spread
from bayeshmm.emissions.layout import Layout
from bayeshmm.emissions.likelihood import Moments
from bayeshmm.emissions.tails import StudentT
from bayeshmm.encoding import Encoded
from bayeshmm.hmm import Prior
from bayeshmm.transitions import Dirichlet

PASTS = (
    Gaussian,
    partial(Autoregressive, lags=2, half_lives=(2.0,)),
    partial(Autoregressive, lags=2, coupling="full"),
)
"""No past, a metric's own past, and the past of all metrics."""


def variants(
    covariance=("full", "diagonal"), noise=("normal", "student-t"), run_effects=(False, True)
) -> list[Emission]:
    """Every kind of past with every setting of the noise and of the run effects."""
    settings = itertools.product(PASTS, covariance, noise, run_effects)
    return [past(covariance=c, noise=n, run_effects=e) for past, c, n, e in settings]


def name(family: Emission) -> str:
    """Short name of a variant, for the ids of tests."""
    past = "levels"
    if isinstance(family, Autoregressive):
        past = f"{family.coupling}-lags-{family.lags}" + "-averages" * bool(family.half_lives)
    effects = "effects" if family.run_effects else "alike"
    return "-".join([past, family.covariance, family.noise, effects])


def random_values(runs=3, rows=12, metrics=3, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((runs, rows, metrics)).cumsum(axis=1)
    values[rng.random(values.shape) < missing] = np.nan
    return values


def design_of(values, emission, lengths=None, resolution=0.0) -> Design:
    N, T, D = values.shape
    lengths = np.full(N, T) if lengths is None else np.asarray(lengths)
    values = np.where(np.arange(T)[None, :, None] < lengths[:, None, None], values, np.nan)
    return families.design(
        emission,
        values,
        lengths,
        np.ones(D),
        np.full(D, resolution),
        families.feature_scale(emission, values),
    )


def problem(family, states, values, lengths=None, dwell=2, expected=5.0) -> tuple[Prior, Encoded]:
    """Model and data in units of one, the first values left aside."""
    design = design_of(values, family, lengths)
    chain = Dirichlet().prior(states, dwell, expected)
    prior = replace(Prior.of(family, values.shape[2], states, chain), entry=None)
    return prior, encoded(design)


def encoded(design: Design) -> Encoded:
    """Runs in units of one, evenly spaced."""
    return Encoded(design, None, torch.zeros(len(design.lengths), dtype=torch.float64))


POINT = (1e8, 1e8)
"""A Gamma law that is a point at one."""


def known(family: Emission, degrees: float | None = None) -> Emission:
    """The family with hyper-parameters of one, and degrees of freedom of `degrees`."""
    settings = {"scale": POINT, "shrinkage": POINT, "run_effects": POINT}
    if degrees is not None:
        settings["degrees"] = (1e6, 1e6 / degrees)
    return replace(family, hyperpriors=Hyperpriors(**settings))


def random_law(layout, states, seed=0, batch=(1,), runs=None, degrees=None) -> Law:
    """Expectations under a posterior that no data made.

    Parameters
    ----------
    batch
        Leading axes of the parameters, that of runs the last of them.
    runs
        Number of runs with an effect each, where the layout has effects.
    degrees
        Of freedom, of Student-t noise.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, states, layout.metrics)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    root = 0.3 * normal(*shape, layout.regressors, layout.regressors)
    active = layout.active[:, :, None] & layout.active[:, None, :]
    eye = torch.eye(layout.regressors, dtype=torch.float64)
    covariance = torch.where(active, root @ root.transpose(-1, -2) + 0.1 * eye, 0.0)
    coefficients = 0.5 * normal(*shape, layout.regressors) * layout.active
    variance = normal(*shape).exp()
    law = Law(coefficients, 1 / variance, variance.log(), covariance)
    if layout.run_effects and runs is not None:
        means = normal(*batch[:-1], runs, *shape[-2:], layout.regressors) * layout.active
        leverage = torch.einsum("...kjuv,...rkjv->...rkju", covariance.squeeze(-5), means)
        spread = Spread(leverage, (leverage * means).sum(-1) + 0.2)
        law = law._replace(effects=Effects(normal(*leverage.shape[:-1]), spread))
    if degrees is not None:
        value = torch.full((*batch[:-1], 1), degrees, dtype=torch.float64)
        law = law._replace(tail=StudentT.value(value))
    return law


def values_only(law: Law) -> Law:
    """The same numbers as values of known parameters."""
    effects = None if law.effects is None else Effects(law.effects.mean)
    return law._replace(covariance=None, log_variance=-law.precision.log(), effects=effects)


def regressors(design: Design) -> torch.Tensor:
    """Regressors and response of every equation, (D, N*T, R+1); zero in incomplete rows."""
    layout = design.layout
    D, P, R = layout.metrics, layout.past, layout.regressors
    present = design.response.reshape(-1, D)
    columns = torch.zeros(D, len(present), R + 1, dtype=torch.float64)
    columns[:, :, :P] = design.past.reshape(-1, D, P).transpose(0, 1)
    columns[:, :, P:R] = present[:, : R - P]
    columns[:, :, :R] *= layout.active[:, None, :]
    columns[:, :, R] = present.T
    return columns * design.complete.reshape(1, -1, 1)


def by_equation(statistics: Moments, layout: Layout) -> Moments:
    """The same with the moments of every equation written out, where one matrix holds them all."""
    joint = statistics.products
    D, P, R = layout.metrics, layout.past, layout.regressors
    if joint.shape[-3] == D and joint.shape[-1] == R + 1:
        return statistics
    products = torch.zeros(*joint.shape[:-3], D, R + 1, R + 1, dtype=torch.float64)
    first = statistics.first
    if first is not None:
        first = torch.zeros(*first.shape[:-2], D, R + 1, dtype=torch.float64)
    for j in range(D):
        places = torch.tensor([*range(P + j), R])
        products[..., j, places[:, None], places] = joint[..., 0, : P + j + 1, : P + j + 1]
        if statistics.first is not None:
            first[..., j, places] = statistics.first[..., 0, : P + j + 1]
    return statistics._replace(products=products, first=first)


def columns(design: Design, n: int, t: int, j: int, z: torch.Tensor) -> torch.Tensor:
    """Regressors of equation j in one row whose responses are z, inactive ones left out."""
    past = design.past[n, t, j]
    return torch.cat([past, z[:j]]) if design.layout.full else past


def active(layout, values: torch.Tensor, j: int) -> torch.Tensor:
    """The active regressors' part of the last axis (or the last two, for a matrix)."""
    size = layout.past + (j if layout.full else 0)
    return values[:size, :size] if values.ndim == 2 else values[:size]


def used(design: Design, n: int, t: int) -> list[int]:
    """Equations that a row bears on: with contrasts, all up to its last observed metric."""
    seen = design.observed[n, t].nonzero()[:, 0].tolist()
    return list(range(seen[-1] + 1)) if design.layout.full and seen else seen


def distance(design: Design, law: Law, n: int, t: int, k: int, z: torch.Tensor) -> torch.Tensor:
    """Expected squared residuals of a row with responses z: all that it bears on, term by term."""
    layout, total = design.layout, torch.zeros((), dtype=torch.float64)
    for j in used(design, n, t):
        place = (n if law.coefficients.shape[-4] > 1 else 0, k, j)
        x = columns(design, n, t, j, z)
        residual = z[j] - active(layout, law.coefficients[place], j) @ x
        if law.effects is not None:
            residual = residual - law.effects.mean[n, k, j]
        total = total + law.precision[place] * residual**2
        if design.observed[n, t, j]:
            total = total + law.precision[place] * design.rounding[j]
        if law.covariance is not None:
            total = total + x @ active(layout, law.covariance[place], j) @ x
        if law.effects is not None and law.effects.spread is not None:
            spread = law.effects.spread
            leverage = active(layout, spread.leverage[n, k, j], j)
            total = total + spread.variance[n, k, j] - 2.0 * x @ leverage
    return total


class Row(NamedTuple):
    """One row under one state, by definition: what `log_likelihood` says of it."""

    log_likelihood: float
    distance: float
    response: torch.Tensor
    covariance: torch.Tensor


def row(design: Design, law: Law, n: int, t: int, k: int) -> Row:
    """Integrate what a row misses out of its expected density.

    The squared residuals are a quadratic form in the missing responses, known from its values.
    """
    D = design.layout.metrics
    equations = used(design, n, t)
    gaps = [j for j in equations if not design.observed[n, t, j]]
    z = torch.where(design.observed[n, t], design.response[n, t], 0.0)
    unit = torch.eye(D, dtype=torch.float64)
    at = partial(distance, design, law, n, t, k)
    base = at(z)
    curvature = torch.zeros(len(gaps), len(gaps), dtype=torch.float64)
    for (a, i), (b, j) in itertools.product(enumerate(gaps), repeat=2):
        curvature[a, b] = at(z + unit[i] + unit[j]) - at(z + unit[i]) - at(z + unit[j]) + base
    slope = [at(z + unit[j]) - base - 0.5 * curvature[a, a] for a, j in enumerate(gaps)]
    covariance = torch.zeros(D, D, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    if gaps:
        precision = 0.5 * curvature
        z = z.index_add(
            0,
            torch.tensor(gaps),
            -0.5 * torch.linalg.solve(precision, torch.stack(slope)),
        )
        covariance[np.ix_(gaps, gaps)] = torch.linalg.inv(precision)
        total = 0.5 * len(gaps) * math.log(2 * math.pi) - 0.5 * torch.logdet(precision)
    for j in equations:
        place = (n if law.coefficients.shape[-4] > 1 else 0, k, j)
        total = total - 0.5 * (math.log(2 * math.pi) + law.log_variance[place])
    smallest, seen = at(z), int(design.observed[n, t].sum())
    if law.tail is None:
        total = total - 0.5 * smallest
    elif seen:
        nu, constant = (float(part.squeeze()) for part in law.tail)
        half = 0.5 * (nu + seen)
        total = total + constant + math.lgamma(half) - half * torch.log(0.5 * (nu + smallest))
    return Row(float(total), float(smallest), z, covariance)
