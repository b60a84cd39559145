"""The evidence of fitted models, against formulae, quadrature and sums over all paths."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from evidence import log_evidence, path_log_joints
from scipy.stats import gamma, multivariate_normal
from small_designs import POINT, problem, random_values
from synthetic_runs import PLAIN, tidy

import bayeshmm as bh
from bayeshmm.emissions.regression import Precisions
from bayeshmm.evidence import EvidenceWarning, evidence
from bayeshmm.hmm import model, parameters
from bayeshmm.inference import gibbs
from bayeshmm.inference.bridge import Part, bridge
from bayeshmm.inference.site_values import site_values
from bayeshmm.inference.unconstrained import Unconstrained
from bayeshmm.inference.variational import CoordinateAscent
from bayeshmm.nested import take


def one_level(seed):
    """Two runs of a metric with one level."""
    rng = np.random.default_rng(seed)
    values = 3.0 + rng.standard_normal((2, 12, 1))
    return bh.Runs.from_dataframe(pd.concat([tidy(f"{n}", values[n]) for n in (0, 1)]))


def by_quadrature(posterior):
    """Evidence of one state, one metric: the two hyper-parameters integrated on a grid."""
    data = posterior.encoding.encode(posterior.runs)
    design = replace(data.design, rounding=torch.zeros_like(data.design.rounding))
    points = np.exp(np.linspace(-12.0, 6.0, 50))
    law = gamma(0.5, scale=2.0)
    log_prior = law.logpdf(points) + np.log(points) + math.log(18.0 / 49)
    terms = [
        float(
            log_evidence(design, Precisions(torch.tensor([[shrinkage]]), torch.tensor([[scale]])))
        )
        + one
        + other
        for (shrinkage, one), (scale, other) in itertools.product(
            zip(points, log_prior, strict=True), repeat=2
        )
    ]
    return np.logaddexp.reduce(terms) + float(data.log_jacobian.sum())


@pytest.mark.parametrize("seed", range(2))
def test_one_state_by_quadrature(seed):
    family = bh.Gaussian(**PLAIN)
    posterior = bh.fit(one_level(seed), 1, emission=family, draws=2000, progress=False)
    found = evidence(posterior)
    assert found.error < 0.05
    assert found.k_hat < 0.7
    assert abs(found.log_evidence - by_quadrature(posterior)) < 4 * found.error + 1e-3
    assert found.bound < found.log_evidence
    assert (found.label_term, found.dimensions) == (0.0, 4)


@pytest.mark.parametrize("run_effects", [False, True])
def test_two_states_by_the_sum_over_all_paths(run_effects):
    """Hyper-parameters of the rows are points, and those of the chain are on a grid there."""
    points = bh.Hyperpriors(scale=POINT, shrinkage=POINT, run_effects=POINT)
    family = bh.Gaussian(noise="normal", run_effects=run_effects, hyperpriors=points)
    prior, data = problem(family, 2, random_values(2, 5, 1, seed=1), dwell=2)
    ones = Precisions(torch.ones(1, 1 + run_effects).double(), torch.ones(1, 1).double())
    _, log_joints = path_log_joints(data.design, prior.transition, ones)
    states = torch.full((1, 2, 5, 2), 0.5, dtype=torch.float64)
    states[..., :2, 0] += 0.1
    ascent = CoordinateAscent(prior, data, states / states.sum(-1, keepdim=True))
    ascent.run(30, 1e-8)
    draws = gibbs.sample(ascent.fit(0), data, 4000, chains=4, warmup=100, thin=1, seed=0)
    space = Unconstrained(lambda: model(prior, data))
    points = space.points(site_values(prior, draws)).unflatten(0, (4, -1))
    found = bridge(Part(space, lambda: parameters(prior, 2), points), seed=0, at_once=2000)
    assert found.error < 0.1
    assert abs(found.value - float(log_joints.logsumexp(-1))) < 4 * found.error + 0.03
    assert float(ascent.bound[0]) < found.value


class TestOfFits:
    @pytest.fixture(scope="class")
    @classmethod
    def alike(cls, moving):
        """Three phases of runs that are alike."""
        family = bh.Autoregressive(lags=2, run_effects=False)
        return bh.fit(
            moving, 3, emission=family, minimum_dwell=5, restarts=4, draws=800, progress=False
        )

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, alike):
        return evidence(alike)

    def test_it_lies_above_the_bound(self, alike, found, level_posterior):
        data = alike.encoding.encode(alike.runs)
        assert found.bound == alike.mode.bound + float(data.log_jacobian.sum())
        assert found.log_evidence > found.bound + 3 * found.error
        levels = evidence(level_posterior)
        assert levels.log_evidence > levels.bound + 3 * levels.error
        assert levels.log_evidence < levels.bound + 3.0  # the bound is good there

    def test_what_it_says(self, found):
        assert found.label_term == pytest.approx(math.log(6))
        said = repr(found)
        for number in (found.log_evidence, found.error, found.bound, found.k_hat):
            assert f"{number:.2f}" in said
        assert "+1.79 for the labels" in said
        assert f"{found.dimensions} dimensions" in said

    def test_units_shift_it_by_the_jacobian(self, level_posterior):
        """A metric in other units: draws, and all else, are the same."""
        runs = level_posterior.runs
        frame = runs.to_dataframe()
        other = bh.Runs.from_dataframe(frame.assign(m1=100.0 * frame["m1"] - 3.0))
        scaling = level_posterior.encoding.scaling
        sd, mean = scaling.sd * [1.0, 100.0], scaling.mean * [1.0, 100.0] - [0.0, 3.0]
        encoding = replace(level_posterior.encoding, scaling=replace(scaling, sd=sd, mean=mean))
        changed = replace(level_posterior, runs=other, encoding=encoding)
        one, two = evidence(level_posterior), evidence(changed)
        rows = int(runs.lengths.sum())
        assert two.log_evidence == pytest.approx(one.log_evidence - rows * math.log(100), abs=1e-4)
        assert two.bound == pytest.approx(one.bound - rows * math.log(100))

    def test_few_draws_are_an_error(self, posterior):
        few = replace(posterior, draws=replace(posterior.draws, paths=posterior.paths[:99]))
        with pytest.raises(ValueError, match="99 draws do not tell the evidence: fit with draws="):
            evidence(few)

    def test_draws_of_a_poor_approximation_are_an_error(self, level_posterior):
        poor = replace(level_posterior, diagnostics=pd.Series({"k_hat": 0.9}))
        with pytest.raises(ValueError, match=r"k-hat calls poor.*0\.90.*gibbs"):
            poor.evidence()

    def test_draws_that_do_not_tell_it_are_warned_of(self, posterior):
        """A hundred, in 179 dimensions."""
        draws = posterior.draws
        some = {
            part: take(getattr(draws, part), slice(None, None, 4))
            for part in ("law", "precisions", "chain", "hyper")
        }
        few = replace(posterior, draws=replace(draws, paths=draws.paths[::4], **some))
        with pytest.warns(EvidenceWarning, match=r"(?s)log evidence .*Take more draws"):
            evidence(few)


class Level:
    """Rows with unit noise about one level."""

    def prior(self, states, metrics):
        one = torch.ones(states, len(metrics), dtype=torch.float64)
        return pyro.sample("level", dist.Normal(0.0 * one, 5.0).to_event(2))

    def log_likelihood(self, parameters, values):
        away = values[:, :, None, :] - parameters[..., None, :, :]
        return dist.Normal(0.0, 1.0).log_prob(away).sum(-1)


def test_an_emission_of_a_users_own():
    runs = one_level(0)
    posterior = bh.fit(runs, 1, emission=Level(), inference="vi", draws=1000, progress=False)
    found = evidence(posterior)
    values = runs.values.reshape(-1)
    covariance = np.eye(len(values)) + 25.0
    expected = multivariate_normal(np.zeros(len(values)), covariance).logpdf(values)
    assert abs(found.log_evidence - expected) < 4 * found.error + 1e-3
    assert found.error < 0.02
    assert math.isnan(found.bound)
