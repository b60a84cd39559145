"""Blocks of a Gibbs sweep by themselves; whether they make up a sampler: `test_geweke`.

Draws are compared with their exact law by Kolmogorov-Smirnov tests, each with a false-alarm rate
of 1e-3.
"""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import gamma, kstest
from simulation import simulate_paths
from small_designs import (
    design_of,
    encoded,
    name,
    problem,
    random_law,
    random_values,
    values_only,
    variants,
)

from bayeshmm import Autoregressive, Gaussian
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.emissions.tails import StudentT
from bayeshmm.inference import engines, gibbs
from bayeshmm.inference.search import search
from bayeshmm.nested import expanded

RATE = 1e-3
STUDENT = variants(noise=("student-t",), covariance=("full",))


def known_parameters(family, size, seed=0):
    """A design with missing entries, one law for a batch of chains, and paths for each of them."""
    values = random_values(2, 6, 3, seed=3)
    values[0, 2, 0] = values[1, 3, :2] = values[1, 4, 2] = np.nan
    values[0, 4] = np.nan
    design = design_of(values, family, [6, 5])
    law = values_only(random_law(design.layout, 2, batch=(1,), runs=2, degrees=3.0))
    rng = np.random.default_rng(seed)
    transition = np.array([[0.7, 0.3], [0.4, 0.6]])
    paths = [simulate_paths(rng, [0.5, 0.5], transition, [6, 5], 1) for _ in range(size)]
    return design, expanded(law, size), torch.from_numpy(np.stack(paths))


@pytest.mark.parametrize("family", STUDENT, ids=name)
def test_weights_and_missing_entries_are_drawn_from_their_conditionals(family, monkeypatch):
    """Given paths and degrees of freedom: Gamma and normal, and independent of one another."""
    size, nu = 1500, 3.0
    design, law, paths = known_parameters(family, size)
    prior, _ = problem(family, 2, random_values())
    monkeypatch.setattr(StudentT, "sample", lambda self, *_: law.tail)
    monkeypatch.setattr(gibbs.messages, "sample_paths", lambda *_, **__: paths)
    seen = []
    right = gibbs.moments

    def moments(design, states, hidden, **settings):
        seen.append((states, hidden))
        return right(design, states, hidden, **settings)

    monkeypatch.setattr(gibbs, "moments", moments)
    fit, _ = search(*problem(family, 2, random_values(2, 6, 3)), 1, seed=0)
    generator = torch.Generator().manual_seed(0)
    state = gibbs.start(fit, size, generator)._replace(law=law)
    gibbs.sweep(prior, encoded(design), state, generator)
    ((states, filled),) = seen
    _, hidden = log_likelihood(design, law)
    place = paths.clamp_min(0)[..., None]
    assert torch.equal(
        states, torch.nn.functional.one_hot(place[..., 0], 2) * (paths >= 0)[..., None]
    )

    observed = design.observed.any(-1)
    responses = design.responses[observed]
    distance = ((nu + design.responses[..., None]) / hidden.scale - nu).gather(-1, place)[..., 0]
    quantile = gamma((nu + responses) / 2).cdf(
        filled.scale[..., 0][:, observed] * (nu + distance[:, observed]) / 2
    )
    assert kstest(quantile.flatten(), "uniform").pvalue > RATE

    deviations = []
    for pattern, mean, drawn in zip(
        design.patterns, hidden.completions, filled.completions, strict=True
    ):
        gaps = pattern.missing
        assert (drawn.covariance == 0).all()
        torch.testing.assert_close(drawn.response[..., ~gaps], mean.response[..., ~gaps])
        if gaps.any():
            root = torch.linalg.cholesky(mean.covariance[..., gaps, :][..., gaps])[:, 0, None]
            gap = (drawn.response - mean.response)[..., gaps]
            white = torch.linalg.solve_triangular(root, gap[..., None], upper=False)[..., 0]
            weight = filled.scale[:, pattern.run, pattern.row]
            deviations.append((white * weight.sqrt()[..., None]).flatten())
    assert len(deviations) == 2
    assert kstest(torch.cat(deviations), "norm").pvalue > RATE


@pytest.mark.parametrize("family", [Gaussian(), Autoregressive(lags=1, coupling="full")], ids=name)
class TestDraws:
    def fitted(self, family):
        prior, data = problem(family, 2, random_values(3, 20, 2, missing=0.1), [20, 20, 12])
        return search(prior, data, 2, seed=0)[0], data

    @pytest.mark.parametrize(
        "engine",
        [partial(gibbs.sample, chains=2, warmup=4), engines.variational],
        ids=["gibbs", "variational"],
    )
    def test_shapes_and_streams(self, family, engine):
        fit, data = self.fitted(family)
        draws = engine(fit, data, 8, seed=3)
        R = fit.prior.regression.layout.regressors
        assert draws.law.coefficients.shape == (8, 1, 2, 2, R)
        assert draws.law.effects.mean.shape == (8, 3, 2, 2)
        assert draws.law.tail.degrees.shape == (8, 1)
        assert draws.precisions.groups.shape == (8, 1, len(fit.prior.regression.layout.group_names))
        assert draws.chain.transition.shape == (8, 1, 2, 2)
        assert draws.paths.shape == (8, 3, 20)
        within = np.arange(20) < np.array([20, 20, 12])[:, None]
        assert ((draws.paths >= 0) == within).all()
        again, other = engine(fit, data, 8, seed=3), engine(fit, data, 8, seed=4)
        assert torch.equal(draws.law.effects.mean, again.law.effects.mean)
        assert torch.equal(draws.law.tail.degrees, again.law.tail.degrees)
        assert not torch.equal(draws.law.effects.mean, other.law.effects.mean)

    def test_variational_draws_have_the_moments_of_the_posterior(self, family):
        """Within four and a half standard errors, of some fifty statistics."""
        fit, data = self.fitted(family)
        draws = engines.variational(fit, data, 4000, seed=0)
        parameters = fit.parameters
        law = parameters.regression.law
        tail = fit.prior.tail.expected(parameters.tail)
        states = torch.nn.functional.one_hot(torch.from_numpy(draws.paths).long().clamp_min(0), 2)
        active = fit.prior.regression.layout.active
        pairs = [
            (draws.law.precision, law.precision),
            (draws.law.log_variance, law.log_variance),
            (draws.law.coefficients[..., active], law.coefficients[..., active]),
            (draws.law.effects.mean, law.effects.mean),
            (draws.law.tail.degrees, tail.degrees),
            (draws.law.tail.constant, tail.constant),
            (draws.precisions.groups, parameters.shrinkage.expected.groups),
            (draws.precisions.scales, parameters.shrinkage.expected.scales),
            (draws.chain.transition, parameters.chain.mean.transition),
            (states[:, 0, 5:7].double(), fit.states[0, 5:7]),
        ]
        for drawn, expected in pairs:
            error = drawn.std(0) / len(drawn) ** 0.5
            assert ((drawn.mean(0) - expected).abs() < 4.5 * error + 1e-5).all()

    def test_chains_start_apart_and_go_on_together(self, family):
        fit, data = self.fitted(family)
        generator = torch.Generator().manual_seed(0)
        state = gibbs.start(fit, 5, generator)
        assert state.law.effects.mean.shape == (5, 3, 2, 2)
        assert len(state.law.coefficients[:, 0, 0, 0, 0].unique()) == 5
        after = gibbs.sweep(fit.prior, data, state, generator)
        assert after.law.coefficients.shape == state.law.coefficients.shape
        assert after.paths.shape == (5, 3, 20)
        assert torch.isin(after.law.tail.degrees, fit.prior.tail.grid).all()
