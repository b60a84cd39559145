"""Exits, jumps and their hyper-parameters against the laws that they stand for."""

import math

import pyro
import pytest
import torch
from torch.distributions import Beta
from torch.distributions import Dirichlet as DirichletLaw

from bayeshmm.transitions import Chain, Counts, Dirichlet, LeftToRight
from bayeshmm.transitions.chain import chain_of, log_density

STRUCTURES = [Dirichlet(), LeftToRight(), LeftToRight(skips=False)]


def counts(K, seed=0, prior=None):
    """Random counts, of what the structure of `prior` allows."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(1, K, K, generator=generator, dtype=torch.float64) * 5
    first = torch.rand(1, K, generator=generator, dtype=torch.float64)
    if prior is not None:
        allowed = prior.given(prior.draw(torch.Generator().manual_seed(0))[1]).mean
        draw, first = draw * (allowed.transition > 0), first * (allowed.initial > 0)
    return Counts(first, draw)


def fitted(structure, K, dwell=3, expected=20.0, seed=0):
    prior = structure.prior(K, dwell, expected)
    found = counts(K, seed, prior)
    return prior, found, *prior.update(prior.start((1,)), found)


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("K", [1, 2, 4])
def test_draws_are_stochastic_matrices_with_the_posterior_mean(K, structure):
    _, _, posterior, _ = fitted(structure, K)
    draws = posterior.sample(torch.Generator().manual_seed(0), (4000,))
    assert draws.transition.shape == (4000, 1, K, K)
    torch.testing.assert_close(draws.transition.sum(-1), torch.ones(4000, 1, K).double())
    torch.testing.assert_close(draws.initial.sum(-1), torch.ones(4000, 1).double())
    spread = draws.transition.std(0) / 4000**0.5
    gap = (draws.transition.mean(0) - posterior.mean.transition).abs()
    assert (gap <= 5 * spread + 1e-12).all()  # false alarm: 6e-7 an entry


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("K", [2, 4])
def test_expected_logs_are_those_of_draws(K, structure):
    _, _, posterior, _ = fitted(structure, K, seed=1)
    logs = posterior.sample(torch.Generator().manual_seed(0), (20000,)).log.transition
    expected = posterior.expected_log.transition
    possible = expected[0] > -torch.inf
    assert torch.equal(possible.expand(20000, 1, K, K), logs > -torch.inf)
    logs, expected = logs[..., possible], expected[..., possible]
    assert ((logs.mean(0) - expected).abs() <= 5 * logs.std(0) / 20000**0.5 + 1e-12).all()


def test_grid_law_is_proportional_to_prior_times_likelihood():
    prior = Dirichlet().prior(3, 3, 20.0)
    chain, values = prior.draw(torch.Generator().manual_seed(3))
    assert set(values) == {"exit_mean", "exit_concentration", "jump_concentration"}
    exits, jumps = prior.exits, prior.jumps
    a, b = exits.grid[:, 0].unbind(-1)
    expected = exits.log_prior + sum(Beta(a, b).log_prob(e) for e in chain.log_exits[0, :, 0].exp())
    torch.testing.assert_close(exits._given(chain.log_exits)[0], expected - expected.logsumexp(0))
    torch.testing.assert_close(exits.log_density(chain.log_exits)[0], expected.logsumexp(0))
    expected = jumps.log_prior + sum(
        DirichletLaw(jumps.grid[:, 0]).log_prob(row) for row in chain.log_jumps[0].exp()
    )
    torch.testing.assert_close(jumps._given(chain.log_jumps)[0], expected - expected.logsumexp(0))


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_divergence_is_the_expected_log_ratio(structure):
    prior, _, posterior, law = fitted(structure, 3, 2, 12.0, 2)
    generator = torch.Generator().manual_seed(0)
    S = 20000
    draws = posterior.sample(generator, (S,))

    def at(laws):
        exits = log_density(laws.exit, draws.log_exits).sum(-1)
        return exits + log_density(laws.jump, draws.log_jumps).sum(-1)

    total = (at(posterior) + log_density(posterior.initial, draws.initial.log()))[:, 0]
    total = total - log_density(prior.initial, draws.initial.log())[:, 0]
    points = {}
    for rows in (prior.exits, prior.jumps):
        weights = law[f"{rows.name}_log_weights"][0]
        index = torch.multinomial(weights.exp(), S, True, generator=generator)
        total = total + weights[index] - rows.log_prior[index]
        points |= {n: rows.points[index, i, None] for i, n in enumerate(rows.names)}
    total = total - at(prior.given(points))[:, 0]
    exact = float(prior.divergence(posterior, law)[0])
    assert abs(float(total.mean()) - exact) < 5 * float(total.std()) / S**0.5


def test_relabelling_moves_rows_and_columns():
    _, _, posterior, _ = fitted(Dirichlet(), 4)
    order = torch.tensor([2, 0, 3, 1])
    moved = posterior.relabelled(order)
    mean = posterior.mean.transition
    torch.testing.assert_close(moved.mean.transition, mean[:, order][:, :, order])
    torch.testing.assert_close(moved.mean.initial, posterior.mean.initial[:, order])


def test_a_chain_is_taken_apart_and_put_together():
    chain, _ = Dirichlet().prior(5, 3, 20.0).draw(torch.Generator().manual_seed(0), (2, 1))
    rebuilt = chain_of(chain.initial, chain.log_exits.exp(), chain.log_jumps.exp())
    torch.testing.assert_close(chain.transition, rebuilt.transition)
    assert isinstance(chain, Chain)


def test_counts_are_taken_apart():
    found = counts(3)
    torch.testing.assert_close(found.exits.sum(-1), found.transition.sum(-1))
    torch.testing.assert_close(found.jumps.sum(-1), found.exits[..., 0])


def test_prior_expected_dwell_is_the_one_asked_for():
    """The median of the prior of the mean dwell lies near it."""
    prior = Dirichlet().prior(3, 10, 100.0)
    dwell = 10 - 1 + 1 / prior.exits.points[:, 0]
    order = dwell.argsort()
    cumulative = prior.exits.log_prior.exp()[order].cumsum(0)
    median = float(dwell[order][(cumulative < 0.5).sum()])
    assert 60 < median < 200


class TestLeftToRight:
    def test_only_later_phases_follow(self):
        chain, _ = LeftToRight().prior(4, 2, 20.0).draw(torch.Generator().manual_seed(0))
        assert torch.equal(chain.initial[0], torch.tensor([1.0, 0.0, 0.0, 0.0]).double())
        assert (chain.transition[0].tril(-1) == 0).all()
        assert (chain.transition[0] > 0).sum() == 10
        assert chain.transition[0, 3, 3] == 1.0

    def test_without_skips_the_next_one_follows(self):
        chain, _ = LeftToRight(skips=False).prior(4, 2, 20.0).draw(torch.Generator().manual_seed(0))
        assert (chain.transition[0] > 0).sum() == 7
        assert (chain.transition[0].diagonal(1) > 0).all()

    def test_labels_mean_something(self):
        assert LeftToRight().prior(4, 2, 20.0).label_symmetries() == 0.0
        exchangeable = Dirichlet().prior(4, 2, 20.0)
        assert exchangeable.label_symmetries() == pytest.approx(math.log(24))
        assert exchangeable.label_symmetries(occupied=2) == pytest.approx(math.log(12))

    def test_logs_have_finite_gradients(self):
        chain, _ = LeftToRight().prior(3, 2, 20.0).draw(torch.Generator().manual_seed(0))
        transition = chain.transition.requires_grad_()
        log = Chain(chain.initial, transition).log.transition
        log[log > -torch.inf].sum().backward()
        assert transition.grad.isfinite().all()

    def test_a_dwell_that_is_none_is_an_error(self):
        with pytest.raises(ValueError, match="expected_dwell must be a positive number"):
            LeftToRight(expected_dwell=-1.0)


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("K", [1, 2, 4])
class TestPyroSites:
    def test_values_of_the_sites_give_the_chain_again(self, structure, K):
        prior = structure.prior(K, 3, 20.0)
        chain, values = prior.draw(torch.Generator().manual_seed(0), (1,))
        sites = prior.site_values(chain, values)
        with pyro.poutine.trace() as tracer, pyro.poutine.condition(data=sites):
            again = prior.model()
        sampled = [n for n, s in tracer.trace.nodes.items() if s["type"] == "sample"]
        assert set(sites) == {n for n in sampled if n != "transition"}
        torch.testing.assert_close(again.transition, chain.transition)
        torch.testing.assert_close(again.initial, chain.initial)

    def test_density_of_the_sites_is_that_of_the_parameters(self, structure, K):
        prior = structure.prior(K, 3, 20.0)
        generator = torch.Generator().manual_seed(1)
        values = prior.draw(generator, (1,))[1]
        ratios = []
        for seed in range(2):
            chain = prior.given(values).sample(torch.Generator().manual_seed(seed))
            sites = prior.site_values(chain, values)
            traced = pyro.poutine.trace(pyro.condition(prior.model, data=sites)).get_trace()
            law = prior.given(values)
            own = log_density(law.exit, chain.log_exits).sum(-1)
            own = own + log_density(law.jump, chain.log_jumps).sum(-1)
            own = own + log_density(law.initial, chain.initial.clamp_min(1e-300).log())
            ratios.append(traced.log_prob_sum() - own[0])
        # hyper-parameters are the same, and so is all that they contribute
        torch.testing.assert_close(ratios[0], ratios[1])
