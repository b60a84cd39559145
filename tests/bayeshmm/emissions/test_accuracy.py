"""Metrics that are nearly functions of one another, against formulae in extended precision.

The covariance of the metrics' noise has condition number 1e8, and the laws are those that such
data teach: residuals are up to ten thousand times smaller than the metrics themselves.
"""

import numpy as np
import pytest
import torch
from small_designs import by_equation, design_of, regressors

from bayeshmm.emissions import Autoregressive, Gaussian
from bayeshmm.emissions.likelihood import log_likelihood, moments
from bayeshmm.emissions.regression import Precisions, RegressionPrior

FAMILIES = [
    Gaussian(),
    Gaussian(covariance="diagonal"),
    Autoregressive(lags=3, half_lives=(2.0,)),
    Autoregressive(lags=2, covariance="diagonal"),
]
N, T, D, K = 3, 40, 5, 2
CONDITION = 1e8
pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).eps > 1e-18, reason="no floats longer than double here"
)


def extended(x):
    return x.numpy().astype(np.longdouble)


def problem(family, missing, by_run):
    """A design, state probabilities, the law that they teach, and what it completes."""
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
    law = prior.posterior(moments(complete, weights, (), by_run=by_run), hyper).law
    assert law.precision.max() > (1e5 if design.layout.full else 10)
    return design, weights, law


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("by_run", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_complete_rows(family, by_run, known):
    """To 1e-9 nats: ten times better than a quadratic form in the products would be."""
    design, _, law = problem(family, 0.0, by_run)
    law = law._replace(covariance=None) if known else law
    equations = extended(regressors(design)).reshape(D, N, T, -1)
    expected = np.zeros((N, T, K), dtype=np.longdouble)
    for n in range(N):
        part = n if by_run else 0
        for k, j in np.ndindex(K, D):
            X, z = equations[j, n, :, :-1], equations[j, n, :, -1]
            residual = z - X @ extended(law.coefficients[part, k, j])
            squared = residual**2 + extended(design.rounding[j])
            spread = 0.0 if known else X @ extended(law.covariance[part, k, j])
            expected[n, :, k] -= 0.5 * (
                np.log(2 * np.pi)
                + extended(law.log_variance[part, k, j])
                + extended(law.precision[part, k, j]) * squared
                + (spread * X).sum(-1)
            )
    expected *= design.complete.numpy()[:, :, None]
    rows, _ = log_likelihood(design, law)
    assert np.abs(rows.numpy() - expected).max() < 1e-9


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("by_run", [False, True])
def test_rows_with_missing_entries(family, by_run):
    """To 1e-7, relative where values are large: their precision matrix is formed."""
    design, _, law = problem(family, 0.2, by_run)
    law = law._replace(covariance=None, log_variance=-law.precision.log())
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
                inverse = np.eye(D, dtype=np.longdouble)
                for j in range(D if design.layout.full else 0):
                    mean[j] += b[j, past : past + j] @ mean[:j]
                    inverse[j] += b[j, past : past + j] @ inverse[:j]
                covariance = (inverse / extended(law.precision[place])) @ inverse.T
                z = extended(design.response[n, t])[seen] - mean[seen]
                expected = gaussian(z, covariance[np.ix_(seen, seen)])
                rounding = extended(law.precision[place] * design.rounding)[seen].sum()
                expected -= 0.5 * rounding
                assert abs(rows[n, t, k].item() - expected) < 1e-7 * max(1, abs(expected))


def gaussian(z, covariance):
    """Log density at `z`, mean zero, by elimination in the precision given."""
    total, rest, left = -0.5 * len(z) * np.log(2 * np.pi), covariance.copy(), z.copy()
    while len(left):
        pivot, column = rest[0, 0], rest[1:, 0] / rest[0, 0]
        total -= 0.5 * (np.log(pivot) + left[0] ** 2 / pivot)
        rest = rest[1:, 1:] - np.outer(column, rest[0, 1:])
        left = left[1:] - column * left[0]
    return total


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("by_run", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_statistics(family, by_run, missing):
    """To 1e-14 of the sizes of the two columns that a moment is of."""
    design, weights, law = problem(family, missing, by_run)
    layout, (_, completions) = design.layout, log_likelihood(design, law)
    got = by_equation(moments(design, weights, completions, by_run=by_run), layout).products
    expected = np.zeros(got.shape, dtype=np.longdouble)
    equations = extended(regressors(design)).reshape(D, N, T, -1)
    for n, k, j in np.ndindex(N, K, D):
        X = equations[j, n]
        expected[n if by_run else 0, k, j] += (X.T * extended(weights[n, :, k])) @ X
    past, R = layout.past, layout.regressors
    for pattern, completion in zip(design.patterns, completions, strict=True):
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
                    weight = extended(weights[n, t, k])
                    expected[part, k, j] += weight * (np.outer(u, u) + spread)
    size = np.sqrt(np.einsum("...ii->...i", expected))
    scale = size[..., :, None] * size[..., None, :] + np.finfo(float).tiny
    assert (np.abs(got.numpy() - expected) / scale).max() < 1e-14
