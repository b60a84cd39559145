"""Variational inference of any Pyro model, against posteriors that are known."""

import numpy as np
import pytest
import torch
from pyro_models import Normal, TwoUnknowns, both

from bayeshmm.inference import svi
from bayeshmm.inference.guides import Affine, full_rank, mean_field
from bayeshmm.inference.settings import VI
from bayeshmm.inference.unconstrained import Unconstrained


def unit(blocks, size, location=0.0):
    """A start that knows nothing."""
    roots = [torch.eye(places.shape[-1]).double().expand(len(places), -1, -1) for places in blocks]
    return Affine(torch.full((size,), location).double(), blocks, roots)


@pytest.fixture(scope="module")
def hidden():
    model = TwoUnknowns()
    space = Unconstrained(model)
    start = unit(full_rank(2), 2, 1.0)
    return model, space, svi.approximate(space, start, VI(), seed=0)


class TestOfAHiddenMarkovModel:
    def test_the_guide_has_the_posterior_s_moments(self, hidden):
        model, space, found = hidden
        noise = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)).double()
        values = both(space, found.law.forward(noise))
        mean, deviation = model.moments
        assert found.converged
        torch.testing.assert_close(
            values.std(0) / deviation, torch.ones(2).double(), atol=0.1, rtol=0
        )
        assert ((values.mean(0) - mean).abs() < 0.15 * deviation).all()

    def test_weighed_draws_have_them_too(self, hidden):
        model, space, found = hidden
        weighed = svi.weighed(found, 4000, seed=0, at_once=1000)
        values = both(space, weighed.points)
        mean, deviation = model.moments
        assert weighed.k_hat < 0.7
        assert weighed.effective_draws > 1000
        assert ((values.mean(0) - mean).abs() < 5 * deviation / weighed.effective_draws**0.5).all()
        torch.testing.assert_close(
            values.std(0) / deviation, torch.ones(2).double(), atol=0.06, rtol=0
        )

    def test_same_seed_same_result(self, hidden):
        _, space, _ = hidden
        start = unit(full_rank(2), 2)
        one, same, other = (
            svi.approximate(space, start, VI(steps=20), seed=seed) for seed in (1, 1, 2)
        )
        assert np.array_equal(one.losses, same.losses)
        assert torch.equal(one.law.location, same.law.location)
        assert not np.array_equal(one.losses, other.losses)
        assert not one.converged


class TestOfANormalPosterior:
    @pytest.mark.parametrize("particles", [2, 8])
    def test_full_rank_is_exact(self, particles):
        target = Normal()
        space = Unconstrained(target)
        start = unit(full_rank(4), 4)
        found = svi.approximate(space, start, VI(particles=particles), seed=0)
        root = found.law.roots[0][0]
        torch.testing.assert_close(root @ root.T, target.covariance, atol=0.05, rtol=0.05)
        torch.testing.assert_close(found.law.location, target.mean, atol=0.1, rtol=0)
        weighed = svi.weighed(found, 500, seed=0, at_once=500)
        assert weighed.elbo == pytest.approx(0.0, abs=0.01)  # the evidence is 1
        assert weighed.effective_draws > 450

    def test_mean_field_is_too_narrow_and_k_hat_says_so(self):
        """Of the normal law with least divergence, deviations are those given the others."""
        target = Normal()
        space = Unconstrained(target)
        found = svi.approximate(space, unit(mean_field(4), 4), VI(), seed=0)
        conditional = torch.linalg.inv(target.covariance).diagonal().rsqrt()
        torch.testing.assert_close(found.law.roots[0].flatten(), conditional, rtol=0.05, atol=0)
        weighed = svi.weighed(found, 500, seed=0, at_once=500)
        assert weighed.k_hat > 0.7
        assert np.isnan(weighed.effective_draws)
        assert weighed.elbo < -0.5


def test_losses_fall_to_minus_the_evidence(hidden):
    _, _, found = hidden
    assert found.losses[-50:].mean() < found.losses[:10].mean() - 1.0
    last, before = found.losses[-50:], found.losses[-100:-50]
    error = np.hypot(last.std(), before.std()) / 50**0.5
    assert abs(last.mean() - before.mean()) < 4 * error
