"""Metrics that are nearly functions of one another, against formulae in extended precision.

The covariance of the metrics' noise has condition number 1e8, and the laws are those that such
data teach: residuals are up to ten thousand times smaller than the metrics themselves.
"""

import math

import numpy as np
import pytest
import torch
from small_designs import by_equation, design_of, name, regressors, values_only, variants

from bayeshmm.emissions import quadratic
from bayeshmm.emissions.likelihood import Hidden, log_likelihood, moments
from bayeshmm.emissions.regression import Precisions, RegressionPrior
from bayeshmm.emissions.tails import StudentT

ALIKE = [(family, by_run) for family in variants(run_effects=(False,)) for by_run in (False, True)]
EFFECTS = [(family, False) for family in variants(run_effects=(True,))]
CASES = pytest.mark.parametrize(
    ("family", "by_run"),
    [*ALIKE, *EFFECTS],
    ids=[name(family) + "-by-run" * by_run for family, by_run in [*ALIKE, *EFFECTS]],
)
N, T, D, K = 3, 30, 5, 2
CONDITION, DEGREES = 1e8, 4.0
pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).eps > 1e-18, reason="no floats longer than double here"
)


def extended(x):
    return x.numpy().astype(np.longdouble)


def problem(family, missing, by_run):
    """A design, state probabilities, and the law that they teach."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((D, D)))[0]
    root = rotation * np.sqrt(np.geomspace(1.0, 1.0 / CONDITION, D))
    values = rng.standard_normal((N, T, D)) @ root.T
    if family.dynamic:
        values = values.cumsum(axis=1)
    complete = design_of(values, family)
    values[rng.random(values.shape) < missing] = np.nan
    design = design_of(values, family, resolution=1e-5)
    weights = torch.rand(N, T, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = RegressionPrior(design.layout, K)
    n = N if by_run else 1
    hyper = Precisions(
        torch.ones(n, len(design.layout.group_names), dtype=torch.float64),
        torch.full((n, D), 1e-2 / CONDITION, dtype=torch.float64),
    )
    law = prior.posterior(moments(complete, weights, Hidden(), by_run=by_run), hyper).law
    assert law.precision.max() > (1e5 if design.layout.full else 10)
    if family.noise == "student-t":
        law = law._replace(tail=StudentT.value(torch.tensor([DEGREES], dtype=torch.float64)))
    return design, weights, law


def kernel(law, squares, responses):
    """What the noise makes of squared distances of rows with so many responses."""
    if law.tail is None:
        return -0.5 * squares
    half = 0.5 * (DEGREES + responses)
    constant = law.tail.constant.item() + math.lgamma(half)
    return constant - half * np.log(0.5 * (DEGREES + squares))


@CASES
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("rounding", [0.0, quadratic.ROUNDING], ids=["residuals", "either"])
def test_complete_rows(family, by_run, known, rounding, monkeypatch):
    """To 1e-9 nats by residuals, and to what is promised where products might have done."""
    monkeypatch.setattr(quadratic, "ROUNDING", rounding)
    design, _, law = problem(family, 0.0, by_run)
    law = law._replace(covariance=None) if known else law
    if known and law.effects is not None:
        law = law._replace(effects=law.effects._replace(spread=None))
    equations = extended(regressors(design)).reshape(D, N, T, -1)
    squares, expected = np.zeros((2, N, T, K), dtype=np.longdouble)
    for n, k, j in np.ndindex(N, K, D):
        place = (n if by_run else 0, k, j)
        X, z = equations[j, n, :, :-1], equations[j, n, :, -1]
        residual = z - X @ extended(law.coefficients[place])
        if law.effects is not None:
            residual = residual - extended(law.effects.mean[n, k, j])
        squares[n, :, k] += extended(law.precision[place]) * (
            residual**2 + extended(design.rounding[j])
        )
        if law.covariance is not None:
            squares[n, :, k] += ((X @ extended(law.covariance[place])) * X).sum(-1)
        if law.effects is not None and law.effects.spread is not None:
            leverage, variance = (extended(part[n, k, j]) for part in law.effects.spread)
            squares[n, :, k] += variance - 2 * X @ leverage
        expected[n, :, k] -= 0.5 * (np.log(2 * np.pi) + extended(law.log_variance[place]))
    expected = (expected + kernel(law, squares, D)) * design.complete.numpy()[:, :, None]
    rows, _ = log_likelihood(design, law)
    assert np.abs(rows.numpy() - expected).max() < max(rounding, 1e-9)


@CASES
def test_rows_with_missing_entries(family, by_run):
    """To 1e-7, relative where values are large: their precision matrix is formed."""
    design, _, law = problem(family, 0.2, by_run)
    law = values_only(law)
    rows, _ = log_likelihood(design, law)
    assert len(design.patterns) > 3
    past = design.layout.past
    for pattern in design.patterns:
        seen = np.flatnonzero(pattern.observed.numpy())
        for n, t in zip(pattern.run.tolist(), pattern.row.tolist(), strict=True):
            for k in range(K):
                place = (n if by_run else 0, k)
                b = extended(law.coefficients[place])
                mean = (b[:, :past] * extended(design.past[n, t])).sum(-1)
                if law.effects is not None:
                    mean = mean + extended(law.effects.mean[n, k])
                inverse = np.eye(D, dtype=np.longdouble)
                for j in range(D if design.layout.full else 0):
                    mean[j] += b[j, past : past + j] @ mean[:j]
                    inverse[j] += b[j, past : past + j] @ inverse[:j]
                covariance = (inverse / extended(law.precision[place])) @ inverse.T
                z = extended(design.response[n, t])[seen] - mean[seen]
                constant, distance = gaussian(z, covariance[np.ix_(seen, seen)])
                distance += extended(law.precision[place] * design.rounding)[seen].sum()
                expected = constant + kernel(law, distance, len(seen))
                assert abs(rows[n, t, k].item() - expected) < 1e-7 * max(1, abs(expected))


def gaussian(z, covariance):
    """Log density at the mean, and the squared distance of `z`, by elimination."""
    constant, distance = -0.5 * len(z) * np.log(2 * np.pi), np.longdouble(0)
    rest, left = covariance.copy(), z.copy()
    while len(left):
        pivot, column = rest[0, 0], rest[1:, 0] / rest[0, 0]
        constant -= 0.5 * np.log(pivot)
        distance += left[0] ** 2 / pivot
        rest = rest[1:, 1:] - np.outer(column, rest[0, 1:])
        left = left[1:] - column * left[0]
    return constant, distance


@CASES
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_statistics(family, by_run, missing):
    """To 1e-14 of the sizes of the two columns that a moment is of."""
    design, states, law = problem(family, missing, by_run)
    layout, (_, hidden) = design.layout, log_likelihood(design, law)
    got = by_equation(moments(design, states, hidden, by_run=by_run), layout)
    expected = np.zeros(got.products.shape, dtype=np.longdouble)
    first = np.zeros((N, K, D, layout.regressors + 1), dtype=np.longdouble)
    equations = extended(regressors(design)).reshape(D, N, T, -1)
    weights = extended(states)
    if hidden.scale is not None:
        weights = weights * extended(hidden.scale)
    for n, k, j in np.ndindex(N, K, D):
        X = equations[j, n]
        expected[n if by_run else 0, k, j] += (X.T * weights[n, :, k]) @ X
        first[n, k, j] += weights[n, :, k] @ X
    past, R = layout.past, layout.regressors
    for pattern, completion in zip(design.patterns, hidden.completions, strict=True):
        for i, (n, t) in enumerate(zip(pattern.run.tolist(), pattern.row.tolist(), strict=True)):
            for k, j in np.ndindex(K, D):
                if pattern.used[j]:
                    part = n if by_run else 0
                    pick = np.zeros((R + 1, D), dtype=np.longdouble)
                    pick[R, j] = 1
                    pick[past:R, : R - past] = np.diag(layout.active[j, past:].numpy())
                    u = pick @ extended(completion.response[i, k])
                    u[:past] += extended(design.past[n, t, j])
                    spread = pick @ extended(completion.covariance[part, k]) @ pick.T
                    certain = extended(states[n, t, k])
                    expected[part, k, j] += weights[n, t, k] * np.outer(u, u) + certain * spread
                    first[n, k, j] += weights[n, t, k] * u
    size = np.sqrt(np.einsum("...ii->...i", expected))
    scale = size[..., :, None] * size[..., None, :] + np.finfo(float).tiny
    assert (np.abs(got.products.numpy() - expected) / scale).max() < 1e-14
    if got.first is not None:
        scale = np.sqrt(weights.sum((0, 1)))[:, None, None] * size[0] + np.finfo(float).tiny
        assert (np.abs(got.first.numpy() - first) / scale).max() < 1e-14
