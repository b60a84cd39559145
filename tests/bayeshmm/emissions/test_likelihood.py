"""The fast row densities and moments against loops, and against the Gaussian that they mean."""

import math

import numpy as np
import pytest
import torch
from small_designs import active, by_equation, columns, design_of, random_law, random_values
from torch.distributions import MultivariateNormal

from bayeshmm.emissions import Autoregressive, Gaussian, quadratic
from bayeshmm.emissions.likelihood import Law, log_likelihood, moments

FAMILIES = [
    Gaussian(),
    Gaussian(covariance="diagonal"),
    Autoregressive(lags=3, half_lives=(2.0,)),
    Autoregressive(lags=1, covariance="diagonal"),
]


def joint_gaussian(design, law, n, t, k):
    """Mean and covariance of a row: T^-1 C x and T^-1 S T^-T."""
    D, P = design.layout.metrics, design.layout.past
    coefficients = law.coefficients[0, k]
    T = torch.eye(D, dtype=torch.float64)
    if design.layout.full:
        for j in range(D):
            T[j, :j] -= coefficients[j, P : P + j]
    drift = (coefficients[:, :P] * design.past[n, t]).sum(-1)
    inverse = torch.linalg.inv(T)
    return inverse @ drift, inverse @ torch.diag(1 / law.precision[0, k]) @ inverse.T


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("per_run", [False, True])
def test_expected_log_likelihood_equals_loops(family, per_run):
    design = design_of(random_values(), family, lengths=[12, 9, 5], resolution=0.2)
    law = random_law(design.layout, 2, batch=(3,) if per_run else (4, 1))
    rows, _ = log_likelihood(design, law)
    assert rows.shape == ((3, 12, 2) if per_run else (4, 3, 12, 2))
    first = 1 if family.dynamic else 0
    for n, length in enumerate([12, 9, 5]):
        assert (rows[..., n, length:, :] == 0).all()
        for t in range(first, length):
            for k in range(2):
                total = 0.0
                for j in range(3):
                    x = columns(design, n, t, j)
                    part = (n,) if per_run else (1, 0)
                    b = active(design.layout, law.coefficients[(*part, k, j)], j)
                    V = active(design.layout, law.covariance[(*part, k, j)], j)
                    squared = (design.response[n, t, j] - b @ x) ** 2 + design.rounding[j]
                    expected = law.precision[(*part, k, j)] * squared + x @ V @ x
                    total -= 0.5 * (
                        math.log(2 * math.pi) + law.log_variance[(*part, k, j)] + expected
                    )
                got = rows[n, t, k] if per_run else rows[1, n, t, k]
                assert got.item() == pytest.approx(total.item(), rel=1e-11)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_rows_with_missing_metrics_have_the_marginal_density(family):
    design = design_of(random_values(missing=0.3, seed=3), family)
    assert len(design.patterns) > 2
    law = random_law(design.layout, 2)._replace(covariance=None)
    rows, completions = log_likelihood(design, law)
    for pattern, completion in zip(design.patterns, completions, strict=True):
        seen = pattern.observed
        for i, (n, t) in enumerate(zip(pattern.run.tolist(), pattern.row.tolist(), strict=True)):
            for k in range(2):
                mean, covariance = joint_gaussian(design, law, n, t, k)
                z = design.response[n, t, seen]
                marginal = MultivariateNormal(mean[seen], covariance[seen][:, seen])
                assert rows[n, t, k].item() == pytest.approx(marginal.log_prob(z).item(), rel=1e-10)
                gain = covariance[:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
                guess = mean + gain @ (z - mean[seen])
                missing = pattern.missing
                torch.testing.assert_close(completion.response[i, k][missing], guess[missing])
                left = covariance - gain @ covariance[seen]
                torch.testing.assert_close(
                    completion.covariance[0, k][missing][:, missing], left[missing][:, missing]
                )


def test_rows_without_any_response_are_skipped():
    values = random_values()
    values[1, 4] = np.nan
    design = design_of(values, Gaussian())
    rows, _ = log_likelihood(design, random_law(design.layout, 2))
    assert (rows[1, 4] == 0).all()
    assert (rows[1, 3] != 0).all()


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("by_run", [False, True])
def test_moments_equal_loops(family, missing, by_run):
    design = design_of(random_values(missing=missing, seed=5), family, resolution=0.1)
    layout = design.layout
    law = random_law(layout, 2, batch=(3,) if by_run else (1,))
    _, completions = log_likelihood(design, law)
    weights = torch.rand(3, 12, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    statistics = moments(design, weights, completions, by_run=by_run)
    total, counts, rounding = by_equation(statistics, layout)
    expected = torch.zeros_like(total)
    expected_counts, expected_rounding = torch.zeros_like(counts), torch.zeros_like(counts)
    rows = [(n, t, torch.ones(3, dtype=torch.bool), None, 0) for n, t in design.complete.nonzero()]
    for pattern, completion in zip(design.patterns, completions, strict=True):
        rows += [
            (n, t, pattern, completion, i)
            for i, (n, t) in enumerate(zip(pattern.run, pattern.row, strict=True))
        ]
    for n, t, pattern, completion, i in rows:
        for k in range(2):
            place = (n if by_run else 0, k)
            z = design.response[n, t] if completion is None else completion.response[i, k]
            spread = torch.zeros(3, 3, dtype=torch.float64)
            if completion is not None:
                spread = completion.covariance[place]
            for j in range(3):
                if completion is not None and not pattern.used[j]:
                    continue
                columns_of = [*range(layout.past), *range(layout.past, layout.regressors)]
                u = torch.zeros(layout.regressors + 1, dtype=torch.float64)
                u[: layout.past] = design.past[n, t, j]
                C = torch.zeros(len(columns_of) + 1, 3, dtype=torch.float64)
                if layout.full:
                    for i2 in range(j):
                        C[layout.past + i2, i2] = 1
                C[-1, j] = 1
                u = u + C @ z
                outer = torch.outer(u, u) + C @ spread @ C.T
                if completion is None or pattern.observed[j]:
                    expected_rounding[(*place, j)] += weights[n, t, k] * design.rounding[j]
                expected[(*place, j)] += weights[n, t, k] * outer
                expected_counts[(*place, j)] += weights[n, t, k]
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(counts, expected_counts)
    torch.testing.assert_close(rounding, expected_rounding)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("batch", [(2, 1), (2,)], ids=["shared", "per run"])
@pytest.mark.parametrize("rounding", [0.0, math.inf], ids=["residuals", "products"])
def test_gradients_of_both_orders(family, batch, rounding, monkeypatch):
    monkeypatch.setattr(quadratic, "ROUNDING", rounding)
    design = design_of(random_values(runs=2, rows=5, missing=0.1, seed=2), family, [5, 4], 0.2)
    law = random_law(design.layout, 2, batch=batch)

    def rows(coefficients, precision, log_variance):
        return log_likelihood(design, Law(coefficients, precision, log_variance))[0]

    inputs = [part.clone().requires_grad_() for part in law[:3]]
    assert torch.autograd.gradcheck(rows, inputs, fast_mode=True)
    weights = torch.randn(rows(*inputs).shape, generator=torch.Generator().manual_seed(0))
    weights = weights.double().requires_grad_()
    assert torch.autograd.gradgradcheck(rows, inputs, [weights], fast_mode=True)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("batch", [(5, 1), (3,)], ids=["shared", "per run"])
def test_residuals_and_products_say_the_same(family, batch, monkeypatch):
    """Also where residuals are formed in many small blocks."""
    design = design_of(random_values(rows=90), family, [90, 90, 70], 0.2)
    law = random_law(design.layout, 2, batch=batch)
    monkeypatch.setattr(quadratic, "ROUNDING", math.inf)
    products, _ = log_likelihood(design, law)
    monkeypatch.setattr(quadratic, "ROUNDING", 0.0)
    monkeypatch.setattr(quadratic, "BLOCK", 1)
    residuals, _ = log_likelihood(design, law)
    torch.testing.assert_close(products, residuals, rtol=1e-11, atol=1e-11)
