"""Exits, jumps and their hyper-parameters against the laws that they stand for."""

import pytest
import torch
from torch.distributions import Beta, Dirichlet

from bayeshmm.transitions import (
    Chain,
    ChainPosterior,
    Counts,
    TransitionPrior,
    chain_logs,
)


def counts(K, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(1, K, K, generator=generator, dtype=torch.float64) * 5
    return Counts(torch.rand(1, K, generator=generator, dtype=torch.float64), draw)


@pytest.mark.parametrize("K", [1, 2, 4])
def test_draws_are_stochastic_matrices_with_the_posterior_mean(K):
    prior = TransitionPrior(K, 3, 20.0)
    posterior, _ = prior.update(prior.grid((1,)), counts(K))
    draws = posterior.sample(torch.Generator().manual_seed(0), (4000,))
    assert draws.transition.shape == (4000, 1, K, K)
    torch.testing.assert_close(draws.transition.sum(-1), torch.ones(4000, 1, K).double())
    spread = draws.transition.std(0) / 4000**0.5
    gap = (draws.transition.mean(0) - posterior.mean.transition).abs()
    assert (gap <= 5 * spread + 1e-12).all()  # false alarm: 6e-7 an entry


@pytest.mark.parametrize("K", [2, 4])
def test_expected_logs_are_those_of_draws(K):
    prior = TransitionPrior(K, 3, 20.0)
    posterior, _ = prior.update(prior.grid((1,)), counts(K, 1))
    logs = posterior.sample(torch.Generator().manual_seed(0), (20000,)).log.transition
    gap = (logs.mean(0) - posterior.expected_log.transition).abs()
    assert (gap <= 5 * logs.std(0) / 20000**0.5 + 1e-12).all()


def test_grid_law_is_proportional_to_prior_times_likelihood():
    prior = TransitionPrior(3, 3, 20.0)
    chain = prior.prior_law(prior.grid((1,))).sample(torch.Generator().manual_seed(3))
    log_exits, log_jumps = chain_logs(chain)
    grid = prior.posterior_grid(log_exits, log_jumps)
    a, b = prior.exit_grid.unbind(-1)
    exits = log_exits[0, :, 0].exp()
    expected = prior.log_exit_prior + sum(Beta(a, b).log_prob(e) for e in exits)
    torch.testing.assert_close(grid.persistence[0], expected - expected.logsumexp(0))
    cells = (prior.jump_grid / 2)[:, None].expand(-1, 2)
    expected = prior.log_jump_prior + sum(
        Dirichlet(cells).log_prob(row) for row in log_jumps[0].exp()
    )
    torch.testing.assert_close(grid.concentration[0], expected - expected.logsumexp(0))


def test_divergence_is_the_expected_log_ratio():
    prior = TransitionPrior(3, 2, 12.0)
    posterior, grid = prior.update(prior.grid((1,)), counts(3, 2))
    generator = torch.Generator().manual_seed(0)
    draws = posterior.sample(generator, (20000,))
    log_exits, log_jumps = chain_logs(draws)

    def laws(law: ChainPosterior):
        exits = Dirichlet(law.exit).log_prob(log_exits.exp()).sum(-1)
        jumps = Dirichlet(law.jump).log_prob(log_jumps.exp()).sum(-1)
        return exits + jumps + Dirichlet(law.initial).log_prob(draws.initial)

    def grid_terms(points, log_prior, law, values, normal):
        index = torch.multinomial(law[0].exp(), 20000, True, generator=generator)
        ratio = law[0, index] - log_prior[index]
        return ratio - normal(points[index], values).sum(-1)

    total = laws(posterior)[:, 0] - Dirichlet(torch.ones(3).double()).log_prob(draws.initial)[:, 0]
    total = total + grid_terms(
        prior.exit_grid, prior.log_exit_prior, grid.persistence, log_exits.exp()[:, 0],
        lambda p, v: Dirichlet(p[:, None, :]).log_prob(v),
    )  # fmt: skip
    total = total + grid_terms(
        prior.jump_grid, prior.log_jump_prior, grid.concentration, log_jumps.exp()[:, 0],
        lambda p, v: Dirichlet((p / 2)[:, None, None].expand(-1, 1, 2)).log_prob(v),
    )  # fmt: skip
    exact = float(prior.divergence(posterior, grid)[0])
    assert abs(float(total.mean()) - exact) < 5 * float(total.std()) / 20000**0.5


def test_relabelling_moves_rows_and_columns():
    prior = TransitionPrior(4, 3, 20.0)
    posterior, _ = prior.update(prior.grid((1,)), counts(4))
    order = torch.tensor([2, 0, 3, 1])
    moved = posterior.relabelled(order)
    mean = posterior.mean.transition
    torch.testing.assert_close(moved.mean.transition, mean[:, order][:, :, order])
    torch.testing.assert_close(moved.mean.initial, posterior.mean.initial[:, order])


def test_a_chain_is_taken_apart_and_put_together():
    prior = TransitionPrior(5, 3, 20.0)
    chain = prior.prior_law(prior.grid((1,))).sample(torch.Generator().manual_seed(0))
    log_exits, log_jumps = chain_logs(chain)
    rebuilt = log_exits[..., 0].exp()[..., None] * log_jumps.exp()
    off = ~torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(chain.transition[0][off].reshape(5, 4), rebuilt[0])
    assert isinstance(chain, Chain)


def test_prior_expected_dwell_is_the_one_asked_for():
    """The median of the prior of the mean dwell lies near it."""
    prior = TransitionPrior(3, 10, 100.0)
    a, b = prior.exit_grid.unbind(-1)
    mean_exit = a / (a + b)
    dwell = 10 - 1 + 1 / mean_exit
    order = dwell.argsort()
    cumulative = prior.log_exit_prior.exp()[order].cumsum(0)
    median = float(dwell[order][(cumulative < 0.5).sum()])
    assert 60 < median < 200
