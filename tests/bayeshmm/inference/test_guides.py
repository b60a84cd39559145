"""Normal laws in blocks, against their dense covariance matrix."""

import pyro
import pytest
import torch
from pyro_models import Normal
from torch.distributions import MultivariateNormal

from bayeshmm.inference.guides import SHRINKAGE, Affine, Fixed, Guide, full_rank, mean_field
from bayeshmm.inference.unconstrained import Unconstrained, isolated

BLOCKS = {
    "full": full_rank(6),
    "mean-field": mean_field(6),
    "blocks": [torch.tensor([[0, 3], [4, 1]]), torch.tensor([[5, 2]])],
}


@pytest.fixture(params=BLOCKS)
def law(request):
    generator = torch.Generator().manual_seed(0)
    blocks, roots = BLOCKS[request.param], []
    for places in blocks:
        size = (*places.shape, places.shape[-1])
        root = torch.randn(size, generator=generator).double().tril(-1)
        roots.append(root + torch.diag_embed(torch.rand(places.shape, generator=generator) + 0.5))
    return Affine(torch.arange(6.0).double(), blocks, roots)


def dense(law):
    """Covariance matrix."""
    covariance = torch.zeros(6, 6, dtype=torch.float64)
    for places, roots in zip(law.blocks, law.roots, strict=True):
        for place, root in zip(places, roots, strict=True):
            covariance[place[:, None], place] = root @ root.T
    return covariance


def test_the_density_is_the_normal_one(law):
    points = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(1)).double()
    expected = MultivariateNormal(law.location, dense(law)).log_prob(points)
    torch.testing.assert_close(law.log_density(points), expected)


def test_noise_becomes_points_of_that_covariance(law):
    noise = torch.eye(6).double()
    linear = law.forward(noise) - law.location
    torch.testing.assert_close(linear.T @ linear, dense(law))
    torch.testing.assert_close(law.inverse(law.forward(noise)), noise)


def test_one_within_the_other_is_both_in_turn(law):
    inner = Affine(torch.full((6,), 0.3).double(), law.blocks, [0.5 * r for r in law.roots])
    noise = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(law.within(inner).forward(noise), law.forward(inner.forward(noise)))


def test_draws_tell_location_and_covariances(law):
    points = law.forward(
        torch.randn(20_000, 6, generator=torch.Generator().manual_seed(2)).double()
    )
    found = Affine.of(points, law.blocks)
    torch.testing.assert_close(found.location, law.location, atol=0.05, rtol=0)
    expected = dense(law)
    within = (expected != 0) & ~torch.eye(6, dtype=torch.bool)
    expected = torch.where(within, (1.0 - SHRINKAGE) * expected, expected)
    torch.testing.assert_close(dense(found), expected, atol=0.06, rtol=0.06)


def test_a_coordinate_that_does_not_vary_keeps_a_scale():
    found = Affine.of(torch.zeros(10, 2).double(), full_rank(2))
    assert (found.roots[0].diagonal(dim1=-2, dim2=-1) > 0).all()


def test_the_curvature_tells_covariances():
    precision = torch.tensor([[2.0, 1.0], [1.0, 3.0]]).double()
    location = torch.zeros(2).double()
    whole = Affine.curved(location, precision, full_rank(2)).roots[0][0]
    torch.testing.assert_close(whole @ whole.T, torch.linalg.inv(precision))
    apart = Affine.curved(location, precision, mean_field(2)).roots[0]
    torch.testing.assert_close(apart.flatten(), precision.diagonal().rsqrt())


def test_gradients_vanish_where_the_posterior_is_the_guide():
    """Draw by draw, not on average: that is what scoring with fixed parameters is for."""
    target = Normal()
    root = torch.linalg.cholesky(target.covariance)[None]
    space = Unconstrained(target)
    guide = Guide(space, Affine(target.mean, full_rank(4), [root]))
    with isolated(0):
        law = Fixed(guide.law())
        points = law.rsample((3,))
        (space.log_density(points) - law.log_prob(points)).sum().backward()
    for part in guide.parameters():
        assert part.grad is not None
        assert part.grad.abs().max() < 1e-10


def test_a_guide_starts_at_its_start(law):
    def model():
        pyro.sample("x", pyro.distributions.Normal(torch.zeros(6).double(), 1.0).to_event(1))

    guide = Guide(Unconstrained(model), law)
    torch.testing.assert_close(dense(guide.law()), dense(law))
    torch.testing.assert_close(guide.law().location, law.location)
