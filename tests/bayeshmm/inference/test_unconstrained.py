"""A Pyro model as a density on the reals: the same numbers as Pyro's, any number at once."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TwoUnknowns, of

from bayeshmm.inference.unconstrained import Unconstrained, isolated


def everything():
    """Sites of every kind: a simplex, scalars, a vector, and one in a plate; data in the plate."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2, 3).double()).to_event(1))
    scale = pyro.sample("scale", dist.Gamma(of(2.0)[0], of(1.0)[0]))
    centre = pyro.sample("centre", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
    with pyro.plate("groups", 4):
        own = pyro.sample("own", dist.Normal(torch.zeros(4).double(), scale))
        total = own + (weights * centre[..., None, :]).sum((-1, -2))
        pyro.sample("data", dist.Normal(total, scale), obs=of(0.1, 0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def space():
    return Unconstrained(everything)


@pytest.fixture(scope="module")
def points(space):
    return torch.randn(5, space.size, generator=torch.Generator().manual_seed(0)).double()


def test_sites_follow_one_another(space):
    assert list(space.sites) == ["weights", "scale", "centre", "own"]
    assert (space.size, space.nesting) == (4 + 1 + 3 + 4, 1)
    places = torch.cat([space.places(name).flatten() for name in space.sites])
    assert torch.equal(places, torch.arange(space.size))
    assert space.places("weights").shape == (2, 2)


def test_values_and_points_are_one_another_s_inverse(space, points):
    values = space.values(points)
    assert {name: tuple(value.shape) for name, value in values.items()} == {
        "weights": (5, 2, 3),
        "scale": (5,),
        "centre": (5, 3),
        "own": (5, 4),
    }
    torch.testing.assert_close(space.points(values), points)


def test_the_density_is_pyro_s(space, points):
    """Point by point: the log joint of the trace, and the log Jacobian by differences."""
    found = space.log_density(points)
    for point, density in zip(points, found, strict=True):
        held = {name: value[0] for name, value in space.values(point[None]).items()}
        trace = poutine.trace(poutine.condition(everything, held)).get_trace()

        def free(at):  # the simplex less its last part, so that the Jacobian is square
            values = space.values(at[None])
            return torch.cat([values["weights"][0, :, :-1].flatten(), values["scale"]])

        moved = torch.autograd.functional.jacobian(free, point)[:, :5]
        expected = trace.log_prob_sum() + moved.det().abs().log()
        torch.testing.assert_close(density, expected)


def test_axes_in_front_are_kept(space, points):
    found = space.log_density(points[:4].reshape(2, 2, -1))
    torch.testing.assert_close(found, space.log_density(points[:4]).reshape(2, 2))


def test_some_of_the_data_stand_for_all():
    rows = torch.arange(6.0).double()

    def model(size=None):
        mean = pyro.sample("mean", dist.Normal(of(0.0)[0], 1.0))
        with pyro.plate("rows", 6, subsample_size=size) as index:
            pyro.sample("row", dist.Normal(mean, 1.0), obs=rows[index])

    space = Unconstrained(model)
    assert list(space.sites) == ["mean"]
    points = torch.zeros(3, 1).double()
    prior = dist.Normal(0.0, 1.0).log_prob(torch.zeros(3))
    whole = space.log_density(points) - prior
    with isolated(0):
        parts = torch.stack([space.log_density(points, size=2) - prior for _ in range(600)])
    error = parts[:, 0].std() / 600**0.5
    assert abs(parts[:, 0].mean() - whole[0]) < 4 * error  # false alarm: 6e-5


def test_a_model_without_unknowns_is_refused():
    with pytest.raises(ValueError, match="no latent sites"):
        Unconstrained(lambda: pyro.sample("data", dist.Normal(0.0, 1.0), obs=torch.zeros(())))


def test_nothing_global_is_touched():
    pyro.set_rng_seed(5)
    before = pyro.util.get_rng_state()
    with pyro.get_param_store().scope():
        pyro.param("mine", torch.ones(()))
        with isolated(3):
            first = torch.rand(2), random.random()
            pyro.param("theirs", torch.ones(()))
            dist.Normal(0.0, -1.0)  # not checked here
        Unconstrained(TwoUnknowns())
        assert list(pyro.get_param_store()) == ["mine"]
    with pytest.raises(ValueError, match="scale"):
        dist.Normal(0.0, -1.0)
    with isolated(3):
        assert torch.equal(torch.rand(2), first[0])
        assert random.random() == first[1]
    after = pyro.util.get_rng_state()
    assert torch.equal(after["torch"], before["torch"])
    assert after["random"] == before["random"]
    assert np.array_equal(after["numpy"][1], before["numpy"][1])
