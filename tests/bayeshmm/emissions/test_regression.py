"""Conjugate updates of the regressions, and draws of what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest
from small_designs import by_equation, design_of, name, random_values, variants
from torch.distributions import Gamma, InverseGamma, Normal

from bayeshmm.emissions import Gaussian
from bayeshmm.emissions.hyperpriors import Hyperpriors
from bayeshmm.emissions.likelihood import Hidden, moments
from bayeshmm.emissions.regression import Precisions, RegressionPrior
from bayeshmm.nested import take

HYPERPRIORS = Hyperpriors(
    noise_shape=1.5, shrinkage=(0.7, 1.3), run_effects=(1.7, 0.4), scale=(2.0, 0.6)
)


def precisions(layout, seed=0):
    rng = np.random.default_rng(seed)
    return Precisions(
        torch.from_numpy(rng.gamma(2.0, 1.0, (1, len(layout.group_names)))),
        torch.from_numpy(rng.gamma(2.0, 1.0, (1, layout.metrics))),
    )


def fitted(family, states=2, metrics=3, resolution=0.0):
    """A posterior given rows of uncertain states and weights."""
    design = design_of(random_values(metrics=metrics), family, [12, 9, 5], resolution)
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(3, 12, states, generator=generator, dtype=torch.float64)
    weights *= design.complete[..., None]
    prior = RegressionPrior(design.layout, states, HYPERPRIORS)
    return design, weights, prior


@pytest.mark.parametrize("family", variants(noise=("normal",), run_effects=(False,)), ids=name)
def test_updating_in_two_parts_is_updating_at_once(family):
    design, weights, prior = fitted(family)
    values = precisions(design.layout)
    whole = prior.posterior(moments(design, weights, Hidden()), values)
    first, second = weights.clone(), weights.clone()
    first[2:], second[:2] = 0.0, 0.0
    half = prior.posterior(moments(design, first, Hidden()), values)
    later = moments(design, second, Hidden())
    if later.products.shape[-3] == 1:  # what is updated has its moments by equation
        later = by_equation(later, design.layout)
    both = half.updated(later)
    for one, other in zip(whole[:5], both[:5], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("effects", [False, True])
def test_one_factor_serves_all_equations_where_they_share_their_regressors(effects):
    family = Gaussian(run_effects=effects)
    design = design_of(random_values(metrics=4), family, resolution=0.3)
    values = precisions(design.layout)
    weights = torch.rand(5, 3, 12, 2, generator=torch.Generator().manual_seed(0)).double()
    statistics = moments(design, weights, Hidden())
    assert statistics.products.shape == (5, 1, 2, 1, 5, 5)
    prior = RegressionPrior(design.layout, 2)
    joint = prior.posterior(statistics, values)
    apart = prior.posterior(by_equation(statistics, design.layout), values)
    for one, other in zip(joint[:5], apart[:5], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    assert (joint.runs is not None) == effects
    for one, other in zip(joint.runs or (), apart.runs or (), strict=True):
        torch.testing.assert_close(one, other.expand(one.shape), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("family", variants(noise=("normal",)), ids=name)
def test_hyper_parameters_are_conjugate(family):
    """Their log density, from the joint's own factors, differs from the Gamma by a constant."""
    design, weights, prior = fitted(family)
    layout = design.layout
    statistics = moments(design, weights, Hidden())
    law = prior.posterior(statistics, precisions(layout)).sample(torch.Generator().manual_seed(0))
    conditional = prior.posterior_shrinkage(law)

    def log_joint(values):
        a, b, c, d, e, f = (
            torch.tensor(x, dtype=torch.float64)
            for x in (*HYPERPRIORS.shrinkage, *HYPERPRIORS.scale, *HYPERPRIORS.run_effects)
        )
        groups = values.groups[..., : -1 if layout.run_effects else None]
        total = Gamma(a, b).log_prob(groups).sum() + Gamma(c, d).log_prob(values.scales).sum()
        noise = InverseGamma(prior.shapes, values.scales[0] / 2)
        total = total + noise.log_prob(1 / law.precision).sum()
        deviation = (1 / (prior.expand(values)[:, None] * law.precision[..., None])).sqrt()
        normal = Normal(torch.zeros_like(deviation), deviation)
        total = total + (normal.log_prob(law.coefficients) * layout.active).sum()
        if law.effects is not None:
            total = total + Gamma(e, f).log_prob(values.groups[..., -1]).sum()
            deviation = (1 / (values.groups[..., -1] * law.precision)).sqrt()
            shift = Normal(torch.zeros_like(law.effects.mean), deviation)
            total = total + shift.log_prob(law.effects.mean).sum()
        return total

    def log_gamma(values):
        groups = Gamma(conditional.group_shape, conditional.group_rate)
        scales = Gamma(conditional.scale_shape, conditional.scale_rate)
        return groups.log_prob(values.groups).sum() + scales.log_prob(values.scales).sum()

    gaps = [float(log_joint(v) - log_gamma(v)) for v in (precisions(layout, s) for s in range(4))]
    assert gaps == pytest.approx([gaps[0]] * 4, abs=1e-9)


@pytest.mark.parametrize("family", variants(noise=("normal",), covariance=("full",)), ids=name)
def test_draws_have_the_law_that_they_are_of(family):
    """Whitened by their own law they are independent normals: false-alarm rate 1e-3 each."""
    design, weights, prior = fitted(family, states=1)
    layout, size = design.layout, 4000
    posterior = prior.posterior(moments(design, weights, Hidden()), precisions(layout))
    drawn = posterior.sample(torch.Generator().manual_seed(1), (size,))
    torch.testing.assert_close(drawn.log_variance, -drawn.precision.log())
    expected = posterior.law
    for j in range(3):
        rate, shape = posterior.rate[0, 0, j].item(), posterior.shape[0, 0, j].item()
        quantile = drawn.precision[:, 0, 0, j].numpy() * rate
        assert kstest(quantile, "gamma", args=(shape,)).pvalue > 1e-3
        used = layout.active[j]
        b, V = drawn.coefficients[:, 0, 0, j, used], expected.covariance[0, 0, j][used][:, used]
        mean = expected.coefficients[0, 0, j, used]
        if drawn.effects is not None:
            effects, spread = expected.effects
            cross = -spread.leverage[:, 0, j, used]
            # of two runs' effects given the coefficients: independent, so only through these
            runs = torch.einsum("nu,uv,mv->nm", cross, torch.linalg.inv(V), cross)
            own = runs - torch.diag(runs.diagonal()) + torch.diag(spread.variance[:, 0, j])
            V = torch.cat([torch.cat([V, cross.T], 1), torch.cat([cross, own], 1)])
            b = torch.cat([b, drawn.effects.mean[:, :, 0, j]], 1)
            mean = torch.cat([mean, effects[:, 0, j]])
        deviation = (b - mean) * drawn.precision[:, 0, 0, j, None].sqrt()
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(V), deviation.T, upper=False)
        n = len(white)
        # sums of squares, means and correlations of what should be independent normals
        assert kstest(white.square().sum(0), "chi2", args=(n,)).pvalue > 1e-3
        assert size * white.mean(1).square().sum() < chi2.isf(1e-3, n)
        correlation = np.atleast_2d(np.corrcoef(white))[np.tril_indices(n, -1)]
        assert size * (correlation**2).sum() <= chi2.isf(1e-3, max(1, len(correlation)))


@pytest.mark.parametrize("family", variants(noise=("normal",), run_effects=(True,)), ids=name)
class TestEffectsOfRuns:
    def posterior(self, family):
        design, weights, prior = fitted(family)
        statistics = moments(design, weights, Hidden())
        return prior, prior.posterior(statistics, precisions(design.layout))

    def test_a_run_that_was_not_fitted_has_one_more_constant(self, family):
        """Its effect is a column with a prior of its own, the sum with the constant one column."""
        _, posterior = self.posterior(family)
        precision = torch.tensor([0.6], dtype=torch.float64)
        wide = posterior.widened(precision)
        expected = posterior.covariance.clone()
        expected[..., 0, 0] += 1 / 0.6
        torch.testing.assert_close(wide.covariance, expected)
        torch.testing.assert_close(wide.log_det, torch.logdet(expected), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(wide.mean, posterior.mean)
        assert wide.runs is None

    def test_relabelling_moves_them_with_their_states(self, family):
        prior, posterior = self.posterior(family)
        order = torch.tensor([1, 0])
        law, moved = posterior.law, posterior.relabelled(order).law
        torch.testing.assert_close(moved.effects.mean, law.effects.mean[:, order])
        torch.testing.assert_close(
            moved.effects.spread.variance, law.effects.spread.variance[:, order]
        )
        torch.testing.assert_close(
            moved.effects.spread.leverage, law.effects.spread.leverage[:, order]
        )
        for one, other in zip(
            prior.posterior_shrinkage(law), prior.posterior_shrinkage(moved), strict=True
        ):
            torch.testing.assert_close(one, other)

    def test_a_batch_is_each_of_its_members(self, family):
        design, weights, prior = fitted(family)
        values = precisions(design.layout)
        both = torch.stack([weights, weights.flip(-1) ** 2])
        batch = prior.posterior(moments(design, both, Hidden()), values)
        for b in range(2):
            alone = prior.posterior(moments(design, both[b], Hidden()), values)
            one, other = take(batch.law, b), alone.law
            torch.testing.assert_close(one.effects.mean, other.effects.mean)
            torch.testing.assert_close(one.effects.spread, other.effects.spread)
            torch.testing.assert_close(one.coefficients, other.coefficients)
            torch.testing.assert_close(
                take(prior.divergence(batch, prior.posterior_shrinkage(batch.law)), b),
                prior.divergence(alone, prior.posterior_shrinkage(other)),
            )

    def test_no_effect_is_left_where_they_are_surely_small(self, family):
        """With an infinite precision the posterior is that of runs which are alike."""
        design, weights, prior = fitted(family)
        values = precisions(design.layout)
        values.groups[..., -1] = 1e14
        law = prior.posterior(moments(design, weights, Hidden()), values).law
        alike = replace(design.layout, run_effects=False)
        values = values._replace(groups=values.groups[..., :-1])
        statistics = moments(replace(design, layout=alike), weights, Hidden())
        expected = RegressionPrior(alike, 2, HYPERPRIORS).posterior(statistics, values).law
        torch.testing.assert_close(law.coefficients, expected.coefficients, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(law.precision, expected.precision, rtol=1e-8, atol=1e-8)
        assert law.effects.mean.abs().max() < 1e-10


def test_precisions_of_own_and_cross_coefficients_are_apart():
    """Coupled: the constant, then every metric's features; a cross one for another metric's."""
    family = variants(("full",), ("normal",), (True,))[2]
    layout = design_of(random_values(), family).layout
    assert layout.group_names == (
        "intercept",
        "level",
        "difference 1",
        "cross level",
        "cross difference 1",
        "run",
    )
    prior = RegressionPrior(layout, 1)
    values = Precisions(
        torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]).double(),
        torch.tensor([[7.0, 8.0, 9.0]]).double(),
    )
    expected = [
        [1, 2, 3, 4, 5, 4, 5, 1, 1],
        [1, 4, 5, 2, 3, 4, 5, 7, 1],
        [1, 4, 5, 4, 5, 2, 3, 7, 8],
    ]
    assert prior.expand(values)[0].tolist() == expected
