"""Student-t noise: weights of rows and degrees of freedom, against integrals and brute force.

Draws are compared with their exact law by chi-square tests, each with a false-alarm rate of 1e-3
(the streams are fixed, so that a test that passes goes on passing).
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from scipy.special import digamma, gammaln

from bayeshmm.emissions.law import Tail
from bayeshmm.emissions.tails import HIGHEST, LOWEST, StudentT, row_terms

RATE = 1e-3
SHAPE, DECAY = 2.0, 0.1


@pytest.fixture(scope="module")
def prior():
    return StudentT(SHAPE, DECAY)


def passes(draws, probabilities):
    """Whether counts of categories are as probable as they should be; rare ones are pooled."""
    counts = np.bincount(draws, minlength=len(probabilities))
    expected = probabilities * len(draws)
    common = expected > 8
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    if expected[-1] < 8:
        observed[-2] += observed[-1]
        expected[-2] += expected[-1]
        observed, expected = observed[:-1], expected[:-1]
    assert len(expected) > 5
    return stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > RATE


class TestDegrees:
    def test_the_grid_is_even_in_the_logarithm(self, prior):
        assert prior.grid[0].item() == pytest.approx(LOWEST)
        assert prior.grid[-1].item() == pytest.approx(HIGHEST)
        gaps = prior.grid.log().diff()
        np.testing.assert_allclose(gaps, gaps[0])

    def test_prior_is_the_gamma_law_cut_to_the_grid(self, prior):
        """Per unit of the logarithm, as the points are even in it."""
        grid = prior.grid.numpy()
        density = stats.gamma(SHAPE, scale=1 / DECAY).pdf(grid) * grid
        np.testing.assert_allclose(prior.log_prior.exp(), density / density.sum(), rtol=1e-10)
        assert prior.law((3, 1)).shape == (3, 1, len(grid))

    def test_values_and_expectations(self, prior):
        nu = 7.3
        value = prior.value(torch.tensor([nu], dtype=torch.float64))
        constant = nu / 2 * np.log(nu / 2) - gammaln(nu / 2)
        assert [part.item() for part in value] == pytest.approx([nu, constant])
        law = np.random.default_rng(0).dirichlet(np.ones(len(prior.grid)))
        grid = prior.grid.numpy()
        expected = prior.expected(torch.from_numpy(law).log()[None])
        constants = grid / 2 * np.log(grid / 2) - gammaln(grid / 2)
        assert [part.item() for part in expected] == pytest.approx([law @ grid, law @ constants])

    def test_divergence_is_that_of_two_discrete_laws(self, prior):
        law = np.random.default_rng(0).dirichlet(np.ones(len(prior.grid)))
        expected = stats.entropy(law, prior.log_prior.exp().numpy())
        got = prior.divergence(torch.from_numpy(law).log()[None])
        assert got.shape == (1,)
        assert got.item() == pytest.approx(expected, rel=1e-10)

    def test_update_multiplies_the_laws_of_the_weights(self, prior):
        """Log probabilities are the prior's and the expected log Gamma density of every weight."""
        rng = np.random.default_rng(1)
        scale, log_scale = rng.gamma(3.0, 0.4, 11), rng.normal(-0.2, 0.3, 11)
        half = prior.grid.numpy()[:, None] / 2
        density = half * np.log(half) - gammaln(half) + (half - 1) * log_scale - half * scale
        expected = prior.log_prior.numpy() + density.sum(1)
        expected -= np.logaddexp.reduce(expected)
        total = torch.tensor([(log_scale - scale).sum()])
        got = prior.updated(torch.tensor(11.0, dtype=torch.float64), total)
        np.testing.assert_allclose(got[0], expected, rtol=1e-9, atol=1e-9)


class TestConditional:
    """Of the degrees of freedom given what the rows are at, the weights integrated out."""

    responses = torch.tensor([[2.0, 3.0, 0.0, 1.0], [3.0, 3.0, 2.0, 0.0]], dtype=torch.float64)

    def squares(self, chains=1):
        """Distances of a few rows, one of them an outlier, two without responses."""
        rng = np.random.default_rng(2)
        distance = rng.chisquare(self.responses.numpy() + 1e-9, (chains, 2, 4))
        distance[:, 0, 1] = 60.0
        return torch.from_numpy(distance * (self.responses.numpy() > 0))

    def exact(self, prior, distance):
        """By the densities of the rows: t laws of as many dimensions as there are responses."""
        log = prior.log_prior.numpy().copy()
        for n, t in (self.responses > 0).nonzero().tolist():
            place = np.zeros(int(self.responses[n, t]))
            place[0] = math.sqrt(distance[n, t])
            log += [
                stats.multivariate_t(df=nu, shape=np.eye(len(place))).logpdf(place)
                for nu in prior.grid.tolist()
            ]
        return np.exp(log - np.logaddexp.reduce(log))

    @pytest.mark.parametrize("block", [1, 1 << 17])
    def test_it_is_the_law_that_the_densities_give(self, prior, block, monkeypatch):
        monkeypatch.setattr("bayeshmm.emissions.tails.BLOCK", block)
        seen = []
        monkeypatch.setattr(prior, "drawn", lambda law, generator: seen.append(law) or law)
        distance = self.squares(chains=2)
        prior.sample(distance, self.responses, torch.Generator())
        assert seen[0].shape == (2, 1, len(prior.grid))
        for law, d in zip(seen[0][:, 0].exp(), distance, strict=True):
            np.testing.assert_allclose(law, self.exact(prior, d), rtol=1e-8, atol=1e-14)

    def test_draws_are_from_it(self, prior):
        distance = self.squares()
        many = distance.expand(4000, -1, -1)
        drawn = prior.sample(many, self.responses, torch.Generator().manual_seed(0))
        assert drawn.degrees.shape == (4000, 1)
        place = torch.searchsorted(prior.grid, drawn.degrees[:, 0] - 1e-9).numpy()
        exact = self.exact(prior, distance[0])
        assert passes(place, exact)
        assert not passes(place, prior.log_prior.exp().numpy())
        half = drawn.degrees / 2
        torch.testing.assert_close(drawn.constant, half * half.log() - torch.lgamma(half))

    def test_same_stream_same_draws(self, prior):
        first, again = (
            prior.sample(self.squares(5), self.responses, torch.Generator().manual_seed(3)).degrees
            for _ in range(2)
        )
        assert torch.equal(first, again)


class TestRows:
    """Of one row: the weight's law, and what is left of the row's density without it."""

    @pytest.mark.parametrize("responses", [1, 3])
    @pytest.mark.parametrize("degrees", [1.5, 20.0])
    def test_kernel_and_weight_are_integrals_over_the_weight(self, responses, degrees):
        """Also where only expectations of functions of the degrees of freedom are known."""
        law = np.random.default_rng(0).dirichlet(np.ones(2))
        grid = np.array([degrees, degrees + 2.0])
        tail = Tail(
            torch.tensor([law @ grid]),
            torch.tensor([law @ (grid / 2 * np.log(grid / 2) - gammaln(grid / 2))]),
        )
        distance = 5.3

        def density(u, power=0, log=0):
            prior = [
                x / 2 * np.log(x / 2) - gammaln(x / 2) + (x / 2 - 1) * np.log(u) - x / 2 * u
                for x in grid
            ]
            kernel = np.exp(law @ np.array(prior) + responses / 2 * np.log(u) - u * distance / 2)
            return kernel * u**power * np.log(u) ** log

        def integral(**powers):
            return quad(
                density,
                0,
                np.inf,
                args=tuple(powers.get(n, 0) for n in ("power", "log")),
                epsabs=0,
                epsrel=1e-10,
            )[0]

        counts = torch.tensor([[float(responses), 0.0]], dtype=torch.float64)
        log_normal = torch.tensor([[[-distance / 2], [0.0]]], dtype=torch.float64)
        kernel, scale, log_scale = row_terms(tail, counts, log_normal)
        assert kernel[0, 0].item() == pytest.approx(np.log(integral()), rel=1e-8)
        assert scale[0, 0].item() == pytest.approx(integral(power=1) / integral(), rel=1e-8)
        assert log_scale[0, 0].item() == pytest.approx(integral(log=1) / integral(), rel=1e-7)
        assert kernel[0, 1].item() == 0.0

    def test_a_large_nu_is_normal_noise(self):
        tail = StudentT.value(torch.tensor([1e9], dtype=torch.float64))
        counts = torch.tensor([[4.0]], dtype=torch.float64)
        kernel, scale, log_scale = row_terms(tail, counts, torch.tensor([[[-3.5]]]).double())
        assert kernel.item() == pytest.approx(-3.5, abs=1e-5)
        assert scale.item() == pytest.approx(1.0, abs=1e-7)
        assert log_scale.item() == pytest.approx(0.0, abs=1e-7)

    def test_weights_fall_with_the_distance(self):
        tail = StudentT.value(torch.tensor([4.0], dtype=torch.float64))
        counts = torch.full((1, 3), 2.0, dtype=torch.float64)
        _, scale, log_scale = row_terms(
            tail, counts, torch.tensor([[[0.0], [-1.0], [-30.0]]]).double()
        )
        np.testing.assert_allclose(scale[0, :, 0], [6 / 4, 6 / 6, 6 / 64])
        np.testing.assert_allclose(log_scale[0, :, 0], digamma(3) - np.log([2, 3, 32]))
