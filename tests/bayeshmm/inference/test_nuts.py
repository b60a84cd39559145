"""The No-U-Turn sampler, against posteriors that are known."""

import numpy as np
import torch
from pyro_models import Normal, TwoUnknowns, both

from bayeshmm._arviz import az
from bayeshmm.inference import nuts
from bayeshmm.inference.guides import Affine, full_rank
from bayeshmm.inference.settings import NUTS
from bayeshmm.inference.unconstrained import Unconstrained


def scores(draws, mean):
    """Distances from means in Monte-Carlo standard errors; draws (chains, draws, M)."""
    errors = [az.mcse(draws[..., i]).item() for i in range(draws.shape[-1])]
    return (draws.mean((0, 1)) - np.asarray(mean)) / np.array(errors)


def test_means_of_a_hidden_markov_model():
    model = TwoUnknowns()
    space = Unconstrained(model)
    mean, deviation = model.moments
    start = Affine(
        torch.tensor([2.0, 3.0]).double(), full_rank(2), [0.4 * torch.eye(2).double()[None]]
    )
    found = nuts.sample(space, start, 200, NUTS(chains=2, warmup=60), seed=0)
    draws = both(space, found.points).reshape(2, 200, 2).numpy()
    assert found.divergences == 0
    assert np.abs(scores(draws, mean)).max() < 4  # false alarm: 1e-4
    np.testing.assert_allclose(draws.std((0, 1)) / deviation.numpy(), 1.0, atol=0.2)
    assert max(float(az.rhat(draws[..., i])) for i in range(2)) < 1.05


def test_a_start_far_from_round_is_no_bias():
    target = Normal(3)
    space = Unconstrained(target)
    start = Affine(target.mean + 1.0, full_rank(3), [torch.eye(3).double()[None]])
    found = nuts.sample(space, start, 200, NUTS(chains=2, warmup=60), seed=0)
    draws = found.points.reshape(2, 200, 3).numpy()
    assert np.abs(scores(draws, target.mean)).max() < 4  # false alarm: 2e-4
    again = nuts.sample(space, start, 5, NUTS(chains=1, warmup=5), seed=0)
    same = nuts.sample(space, start, 5, NUTS(chains=1, warmup=5), seed=0)
    assert torch.equal(again.points, same.points)


def test_a_cliff_is_a_divergence():
    """A potential that a step leaps over, and one that cannot be computed beyond a point."""

    target = Normal(2, 0.0)
    space = Unconstrained(target)
    smooth = space.log_density

    def broken(points, **settings):
        if (points.abs() > 2.5).any():
            raise ValueError("NaN")
        return smooth(points, **settings)

    space.log_density = broken
    start = Affine(torch.zeros(2).double(), full_rank(2), [torch.eye(2).double()[None]])
    found = nuts.sample(space, start, 100, NUTS(chains=1, warmup=20), seed=0)
    assert found.divergences > 0
    assert (found.points.abs() <= 2.5).all()
