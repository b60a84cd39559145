"""The search for modes of any Pyro model."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import Normal, TwoUnknowns, of

from bayeshmm.inference import modes
from bayeshmm.inference.unconstrained import Unconstrained, isolated


def test_the_mode_and_curvature_of_a_normal_law():
    target = Normal()
    space = Unconstrained(target)
    points, log_density = modes.find_modes(space, 3, seed=0, at_once=2)
    torch.testing.assert_close(points, target.mean.expand(3, -1), atol=0.3, rtol=0)
    torch.testing.assert_close(log_density, space.log_density(points))
    precision = modes.curvature(space, target.mean, at_once=3)
    expected = torch.linalg.inv(target.covariance).double()
    torch.testing.assert_close(precision, expected, atol=1e-6, rtol=1e-6)


def test_starts_find_different_modes_and_the_better_is_known():
    def model():
        x = pyro.sample("x", dist.Normal(of(0.0)[0], 3.0))
        mixture = torch.stack(
            [dist.Normal(-4.0, 0.5).log_prob(x), 1 + dist.Normal(4.0, 0.5).log_prob(x)]
        )
        pyro.factor("modes", mixture.logsumexp(0))

    space = Unconstrained(model)
    points, log_density = modes.find_modes(space, 8, seed=0, at_once=100)
    assert points.min() < -3
    assert float(points[log_density.argmax(), 0]) == pytest.approx(4.0, abs=0.2)


def test_draws_of_the_prior():
    space = Unconstrained(TwoUnknowns())
    with isolated(0):
        values = space.values(modes.prior_points(space, 4000))
    assert float(values["level"].std()) == pytest.approx(5.0, rel=0.06)
    assert float(values["stay"].mean()) == pytest.approx(0.5, abs=0.02)


def test_where_a_density_cannot_be_told_it_is_nil():
    space = Unconstrained(Normal(1))
    smooth = space.log_density

    def broken(points, **settings):
        if (points > 1).any():
            raise ValueError("NaN")
        return smooth(points, **settings)

    space.log_density = broken
    found = modes._densities(space, torch.tensor([[0.0], [2.0]]).double(), 10)
    assert torch.isfinite(found).tolist() == [True, False]


def test_flat_directions_keep_a_scale():
    def model():
        pyro.sample("x", dist.Normal(torch.zeros(2).double(), of(1.0, 1e6)).to_event(1))

    precision = modes.curvature(Unconstrained(model), torch.zeros(2).double(), at_once=10)
    torch.testing.assert_close(precision, torch.diag(of(1.0, modes.FLATTEST)), atol=1e-6, rtol=0)
