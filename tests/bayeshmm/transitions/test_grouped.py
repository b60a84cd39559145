"""Partial pooling over conditions against quadrature, and against pooling and not."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy.special import betaln, expit

from bayeshmm.transitions import ChainPosterior, Counts, Grouped
from bayeshmm.transitions.chain import matrix
from bayeshmm.transitions.pooled import PooledExits, PooledJumps

G = 2
COUNTS = {
    "alike": [[6, 60], [5, 55]],
    "unlike": [[20, 100], [20, 900]],
    "one condition seen": [[12, 40], [0, 0]],
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def by_quadrature(counts, concentration, cells_of, points=400):
    """Weights of a grid of (share of the first cell, pooling) given counts (G, 2)."""
    share, pooling = np.meshgrid(
        expit(np.linspace(-9, 6, points)), expit(np.linspace(-18, 18, points)), indexing="ij"
    )
    visits = (1 + pooling) / (1 - pooling)
    first, second = cells_of(visits, share)
    a, b = concentration
    log = a * np.log(share) + b * np.log1p(-share)
    log = log + 0.5 * np.log(pooling) + 0.5 * np.log1p(-pooling)
    for n, m in counts:
        log = log + betaln(first + n, second + m) - betaln(first, second)
    weights = np.exp(log - log.max())
    return share, pooling, weights / weights.sum()


CASES = {
    "exit": (PooledExits(2, 15.0, G), (2, 30), lambda v, mu: (v, v * (1 - mu) / mu)),
    "jump": (PooledJumps(3, G), (1, 1), lambda v, b: (v * b, v * (1 - b))),
}


@pytest.mark.parametrize("seen", COUNTS)
@pytest.mark.parametrize("name", CASES)
def test_a_gibbs_step_has_the_law_that_quadrature_finds(name, seen):
    rows, concentration, cells_of = CASES[name]
    chains, steps = 50, 160
    counts = torch.tensor(COUNTS[seen], dtype=torch.float64)
    counts = counts[:, None].expand(chains, G, *rows.active.shape)
    rng, drawn = generator(), []
    values = rows.draw(rng, (chains, 1))
    for step in range(steps):
        values = rows.sample(values, None, counts, rng)
        if step >= 40:
            drawn.append([values[f"{name}_base"][:, 0, 0, 0], values[f"{name}_pooling"][:, 0, 0]])
    share, pooling = np.array([[part.numpy() for part in step] for step in drawn]).swapaxes(0, 1)
    exact_share, exact_pooling, weights = by_quadrature(COUNTS[seen], concentration, cells_of)
    for function in (
        lambda share, pooling: share,
        lambda share, pooling: np.log(share),
        lambda share, pooling: pooling,
        lambda share, pooling: pooling * share,
        lambda share, pooling: (pooling > 0.5).astype(float),
    ):
        means = function(share, pooling).mean(0)
        exact = (weights * function(exact_share, exact_pooling)).sum()
        error = means.std(ddof=1) / math.sqrt(chains)
        assert abs(means.mean() - exact) < 4.5 * error  # false alarm: 1e-3 over all cases


def simulated_counts(chain, rng):
    """Counts of 20 rows past the dwell in every state and condition."""
    exits, jumps = chain.log_exits[..., 0].exp().numpy(), chain.log_jumps.exp().numpy()
    left = rng.binomial(20, exits.clip(0.0, 1.0))
    possible = jumps.clip(1e-300)  # what underflowed is never left
    to = rng.multinomial(left, possible / possible.sum(-1, keepdims=True))
    transition = matrix(torch.from_numpy(20.0 - left), torch.from_numpy(to).double())
    return Counts(torch.zeros(len(left), 1, left.shape[-1]).double(), transition)


def test_the_gibbs_step_leaves_the_prior_invariant():
    """Geweke (2004): counts given the chain, then the chain and its hyper-parameters given them."""
    prior, chains, sweeps = Grouped().prior(3, 2, 8.0, G), 800, 10
    rng, numbers = generator(3), np.random.default_rng(3)

    def statistics(chain, values):
        both = chain.transition[:, 0] * chain.transition[:, 1]
        parts = [*values.values(), chain.transition, both]
        found = torch.cat([part.flatten(1) for part in parts], -1)
        return torch.cat([found.sqrt(), found.clamp_min(1e-4).log()], -1)

    direct = statistics(*prior.draw(rng, (20_000, 1)))
    chain, values = prior.draw(rng, (chains, 1))
    total = 0.0
    for _ in range(sweeps):
        chain, values = prior.sample(chain, values, simulated_counts(chain, numbers), rng)
        total = total + statistics(chain, values) / sweeps
    error = (total.var(0) / chains + direct.var(0) / len(direct)).sqrt()
    z = ((total.mean(0) - direct.mean(0)) / error).abs()
    assert z.max() < 4.5  # 90 statistics: false alarm below 1e-3


def random_counts(K, starts=3):
    rng = generator(1)
    draw = torch.rand(starts, G, K, K, generator=rng, dtype=torch.float64) * 12
    first = torch.rand(starts, 1, K, generator=rng, dtype=torch.float64)
    return Counts(first, draw + 60 * torch.eye(K))


@pytest.mark.parametrize("K", [1, 2, 4])
def test_the_objective_never_falls(K):
    prior, counts = Grouped().prior(K, 3, 20.0, G), random_counts(K)
    law, last = prior.start((3, 1)), torch.full((3,), -torch.inf)
    for sweep in range(40):
        posterior, law = prior.update(law, counts)
        log = posterior.expected_log
        explained = sum(
            torch.where(count > 0, count * part, 0.0).flatten(1).sum(-1)
            for count, part in zip(counts, log, strict=True)
        )
        objective = explained - prior.divergence(posterior, law)[:, 0]
        assert (objective > last - 1e-10).all()
        if sweep:
            rise = objective - last
        last = objective
    assert (rise < 1e-3).all()


def test_the_point_is_a_maximum_along_every_coordinate():
    rows = PooledExits(3, 15.0, G)
    log_rows = torch.tensor([[0.05, 0.95], [0.02, 0.98]], dtype=torch.float64).log()
    law, posterior = rows.start((1,)), 300 * log_rows[:, None].exp().expand(G, 3, 2)
    for _ in range(200):
        law = rows.updated(law, posterior)
    between = float(torch.exp(log_rows[:, 0].mean()))
    assert between * 0.7 < float(law["exit_base"][0, 0, 0]) < between * 1.3
    point, top = rows._point(law), rows.divergence(law, posterior)
    for p in range(2):
        for step in (-0.3, 0.3):
            moved = point.clone()
            moved[..., p] += step
            moved_law = rows._named(*rows._base_and_pooling(moved))
            assert (rows.divergence(moved_law, posterior) > top).all()


@pytest.mark.parametrize("K", [2, 4])
def test_relabelling_is_relabelling_of_the_rows(K):
    prior = Grouped().prior(K, 3, 20.0, G)
    _, values = prior.draw(generator(), (3, 1))
    order = torch.randperm(K, generator=generator(5))
    expected = prior.given(values).relabelled(order)
    for part, other in zip(prior.given(prior.relabelled(values, order)), expected, strict=True):
        torch.testing.assert_close(part, other)


def log_exits(exits, stays, sweeps=250, chains=30):
    """Draws of the log exit probability of both conditions in the first of two states."""
    prior = Grouped().prior(2, 1, 20.0, G)
    transition = torch.zeros(G, 2, 2, dtype=torch.float64)
    for g in range(G):
        transition[g] = torch.tensor([[stays[g], exits[g]], [20.0, 300.0]])
    counts = Counts(torch.ones(1, 2).double(), transition)
    counts = Counts(*(part.expand(chains, *part.shape) for part in counts))
    rng, drawn = generator(2), []
    chain, values = prior.draw(rng, (chains, 1))
    for sweep in range(sweeps):
        chain, values = prior.sample(chain, values, counts, rng)
        if sweep >= 50:
            drawn.append(chain.log_exits[:, :, 0, 0])
    return torch.stack(drawn).flatten(0, 1)


def test_conditions_that_are_alike_are_pooled():
    visits, rate = 200, 0.05
    drawn = log_exits([visits] * G, [visits / rate - visits] * G)
    between = (drawn[:, 1] - drawn[:, 0]).std()
    apart = math.sqrt(2 * (1 - rate) / visits)
    assert between < 0.85 * apart
    assert abs(float(drawn.mean()) - math.log(rate)) < 0.02
    assert drawn[:, 0].std() < 0.95 * math.sqrt((1 - rate) / visits)


def test_conditions_that_differ_are_left_apart():
    drawn = log_exits([200, 200], [200 / 0.10 - 200, 200 / 0.02 - 200])
    difference = drawn[:, 1] - drawn[:, 0]
    assert abs(float(difference.mean()) - math.log(0.02 / 0.10)) < 0.05


def test_one_group_alone_is_learned_from_its_counts():
    rows = PooledJumps(3, 1)
    counts = torch.tensor([300.0, 100.0], dtype=torch.float64).expand(30, 1, 3, 2)
    rng = generator()
    values, drawn = rows.draw(rng, (30, 1)), []
    for _ in range(100):
        values = rows.sample(values, None, counts, rng)
        parameters = rows.cells(values) + counts
        drawn.append((parameters / parameters.sum(-1, keepdim=True))[..., 0])
    assert abs(float(torch.stack(drawn).mean()) - 0.75) < 0.01


@pytest.mark.parametrize("K", [1, 2, 3])
def test_sites_of_the_model_have_the_density_of_the_prior(K):
    prior = Grouped().prior(K, 3, 20.0, G)
    chain, values = prior.draw(generator(), (1,))
    sites = {
        **prior.exits.site_values(values, chain.log_exits.exp()),
        **prior.jumps.site_values(values, chain.log_jumps.exp()),
    }
    names = {1: [], 2: ["exit"], 3: ["exit", "jump"]}[K]
    assert set(sites) == {part for n in names for part in (n, f"{n}_base", f"{n}_pooling")}
    for rows, name, log_rows in (
        (prior.exits, "exit", chain.log_exits),
        (prior.jumps, "jump", chain.log_jumps),
    ):
        own = {site: value for site, value in sites.items() if site.startswith(name)}
        trace = poutine.trace(poutine.condition(rows.model, own)).get_trace()
        expected = 0.0
        if name in names:
            point = rows._point(values)
            base, pooling = (values[part] for part in rows.names)
            jacobian = base.log().sum() + (pooling * (1 - pooling)).log().sum()
            expected = rows._log_joint(point, log_rows).sum() - jacobian
            drawn = trace.nodes["_RETURN"]["value"]
            torch.testing.assert_close(drawn, log_rows.exp(), atol=1e-12, rtol=1e-9)
        assert float(trace.log_prob_sum()) == pytest.approx(float(expected))


def test_sites_are_drawn_for_many_particles_at_once():
    rows = PooledJumps(3, G)
    with pyro.plate("particles", 5, dim=-2):
        drawn = rows.model()
    assert drawn.shape == (5, G, 3, 2)
    torch.testing.assert_close(drawn.sum(-1), torch.ones(5, G, 3).double())


def test_the_initial_law_is_shared():
    chain, _ = Grouped().prior(3, 2, 10.0, G).draw(generator())
    assert chain.initial.shape == (1, 3)
    assert chain.transition.shape == (G, 3, 3)


def test_the_variational_start_is_a_chain_posterior():
    law = Grouped().prior(3, 2, 10.0, G)
    assert isinstance(law.prior_law(law.start((1,))), ChainPosterior)


def test_an_expected_dwell_is_a_positive_number_of_steps():
    with pytest.raises(ValueError, match="expected_dwell must be a positive number"):
        Grouped(expected_dwell=0.0)
