"""Conjugate updates against evidences that are known exactly."""

import math

import numpy as np
import pytest
import torch
from evidence import log_evidence
from small_designs import by_equation, design_of, random_values

from bayeshmm.emissions import Autoregressive, Gaussian
from bayeshmm.emissions.likelihood import Moments, log_likelihood, moments
from bayeshmm.emissions.regression import Precisions, RegressionPrior, Shrinkage

FAMILIES = [
    Gaussian(),
    Gaussian(covariance="diagonal"),
    Autoregressive(lags=3, half_lives=(2.0,)),
    Autoregressive(lags=1, covariance="diagonal"),
]


def precisions(layout, seed=0):
    rng = np.random.default_rng(seed)
    return Precisions(
        torch.from_numpy(rng.gamma(2.0, 1.0, (1, len(layout.group_names)))),
        torch.from_numpy(rng.gamma(2.0, 1.0, (1, layout.metrics))),
    )


def fixed_bound(design, values: Precisions):
    """The variational bound of one state with fixed hyper-parameters."""
    prior = RegressionPrior(design.layout, 1)
    weights = design.observed.any(-1)[..., None].to(torch.float64)
    rows, completions = log_likelihood(design, prior_law(prior, values).law)
    posterior = prior.posterior(moments(design, weights, completions), values)
    rows, _ = log_likelihood(design, posterior.law)
    return float(rows.sum() - posterior.divergence(prior_law(prior, values)).sum())


def prior_law(prior, values):
    D, R = prior.layout.metrics, prior.layout.regressors
    nothing = torch.zeros(1, 1, D, R + 1, R + 1, dtype=torch.float64)
    return prior.posterior(Moments(nothing, *[nothing[..., 0, 0]] * 2), values)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_one_state_bound_is_the_evidence(family):
    design = design_of(random_values(), family, lengths=[12, 9, 5])
    values = precisions(design.layout)
    assert fixed_bound(design, values) == pytest.approx(log_evidence(design, values), abs=1e-9)


def test_full_covariance_prior_does_not_depend_on_the_order_of_metrics():
    """With shared regressors the recursion is the matrix-normal-inverse-Wishart's matrix t."""
    data = random_values(metrics=4)
    psi = torch.tensor([[0.5, 1.0, 2.0, 4.0]], dtype=torch.float64)
    scale = torch.tensor([[0.7]], dtype=torch.float64)
    evidences = [
        log_evidence(design_of(data[:, :, order], Gaussian()), Precisions(scale, psi[:, order]))
        for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0])
    ]
    assert evidences[1:] == pytest.approx(evidences[:1] * 2, abs=1e-9)
    bounds = [
        fixed_bound(design_of(data[:, :, order], Gaussian()), Precisions(scale, psi[:, order]))
        for order in ([0, 1, 2, 3], [3, 1, 0, 2])
    ]
    assert bounds == pytest.approx(evidences[:2], abs=1e-9)


def test_updating_in_two_parts_is_updating_at_once():
    design = design_of(random_values(runs=4), Autoregressive(lags=2))
    values = precisions(design.layout)
    prior = RegressionPrior(design.layout, 1)
    weights = design.complete[..., None].to(torch.float64)
    whole = prior.posterior(moments(design, weights, ()), values)
    first, second = weights.clone(), weights.clone()
    first[2:], second[:2] = 0.0, 0.0
    half = prior.posterior(moments(design, first, ()), values)
    both = half.updated(moments(design, second, ()))
    for one, other in zip(whole, both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_one_factor_serves_all_equations_where_they_share_their_regressors():
    design = design_of(random_values(metrics=4), Gaussian(), resolution=0.3)
    values = precisions(design.layout)
    weights = torch.rand(5, 3, 12, 2, generator=torch.Generator().manual_seed(0)).double()
    statistics = moments(design, weights, ())
    assert statistics.products.shape == (5, 1, 2, 1, 5, 5)
    prior = RegressionPrior(design.layout, 2)
    joint = prior.posterior(statistics, values)
    apart = prior.posterior(by_equation(statistics, design.layout), values)
    for one, other in zip(joint, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("full", ["full", "diagonal"])
def test_hyper_parameters_are_conjugate(full):
    """Their log density, from the joint's own factors, differs from the Gamma by a constant."""
    design = design_of(random_values(), Autoregressive(lags=2, covariance=full))
    layout, K = design.layout, 2
    prior = RegressionPrior(layout, K, noise_shape=1.5, group=(0.7, 1.3), scale=(2.0, 0.6))
    generator = torch.Generator().manual_seed(0)
    law = prior_law(prior, precisions(layout)).sample(generator)
    law = type(law)(
        law.coefficients.expand(1, K, -1, -1).clone() * torch.tensor([[[[1.0]], [[2.0]]]]),
        law.precision.expand(1, K, -1) * torch.tensor([[[1.0], [0.3]]]),
        law.log_variance.expand(1, K, -1) - torch.tensor([[[1.0], [0.3]]]).log(),
    )
    conditional = prior.posterior_shrinkage(law)

    def log_joint(values):
        a, b, c, d = torch.tensor([0.7, 1.3, 2.0, 0.6], dtype=torch.float64)
        total = torch.distributions.Gamma(a, b).log_prob(values.groups).sum()
        total = total + torch.distributions.Gamma(c, d).log_prob(values.scales).sum()
        noise = torch.distributions.InverseGamma(prior.shapes, values.scales[0] / 2)
        total = total + noise.log_prob(1 / law.precision).sum()
        deviation = (1 / (prior.expand(values)[:, None] * law.precision[..., None])).sqrt()
        normal = torch.distributions.Normal(torch.zeros_like(deviation), deviation)
        return total + (normal.log_prob(law.coefficients) * layout.active).sum()

    def log_gamma(values):
        groups = torch.distributions.Gamma(conditional.group_shape, conditional.group_rate)
        scales = torch.distributions.Gamma(conditional.scale_shape, conditional.scale_rate)
        return groups.log_prob(values.groups).sum() + scales.log_prob(values.scales).sum()

    gaps = [float(log_joint(v) - log_gamma(v)) for v in (precisions(layout, s) for s in range(4))]
    assert gaps == pytest.approx([gaps[0]] * 4, abs=1e-9)


def test_a_constant_metric_has_a_bounded_density():
    values = random_values(metrics=2)
    values[:, :, 1] = np.where(np.arange(12) < 6, 0.0, 1.0)
    design = design_of(values[:, 6:], Gaussian(covariance="diagonal"), resolution=0.01)
    prior = RegressionPrior(design.layout, 1)
    weights = torch.ones(3, 6, 1, dtype=torch.float64)
    shrinkage = Shrinkage(*(torch.ones_like(part) for part in prior.shrinkage((1,))))
    for _ in range(2000):
        law = prior.posterior(moments(design, weights, ()), shrinkage.expected)
        shrinkage = prior.posterior_shrinkage(law.law)
    rounding = design.rounding[1]
    alone = law.law._replace(precision=law.law.precision * torch.tensor([0.0, 1.0]))
    noise = float(1 / alone.precision[0, 0, 1])
    assert noise > 0.3 * float(rounding)
    density = -0.5 * (math.log(2 * math.pi) + math.log(noise) + float(rounding) / noise)
    assert density < -0.5 * math.log(2 * math.pi * math.e * float(rounding)) + 1e-9
