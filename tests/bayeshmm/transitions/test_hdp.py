"""The sticky HDP against its prior simulated, importance sampling and the laws it stands for."""

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from scipy.special import gammaln
from small_designs import design_of, encoded, random_values
from torch.nn.functional import one_hot

from bayeshmm import Gaussian
from bayeshmm.hmm import Prior
from bayeshmm.inference.starts import starting_states
from bayeshmm.inference.variational import CoordinateAscent
from bayeshmm.transitions.chain import (
    expected_log,
    log_normaliser,
    off_diagonal,
    relabelled_jumps,
    sample_dirichlet,
)
from bayeshmm.transitions.hdp import NAMES, RATE, SHARES, HDPRows, StickyHDP

JUMPS = torch.tensor([[0, 7, 2], [3, 0, 0], [1, 0, 0]], dtype=torch.float64)


def weights(values):
    return values["jump_concentration"][..., None] * values["jump_share"]


def summaries(gamma, alpha, beta):
    """Bounded or logged functions of the hyper-parameters; of beta, what is not symmetric."""
    return np.stack([np.log(gamma), np.log(alpha), *np.moveaxis(beta, -1, 0)], -1)


def importance_sampling(square, size=400_000, seed=0):
    """Posterior means from draws of beta, alpha and gamma, and their standard errors.

    The parameters as the model is written, not as the sampler has them, and the probability of the
    jumps as that of draws from an urn.
    """
    rng, K = np.random.default_rng(seed), len(square)
    gamma = rng.gamma(SHARES[0], 1 / SHARES[1], size)
    alpha = rng.gamma(gamma, 1 / RATE)
    logs = np.log(rng.gamma(gamma[:, None] / K + 1.0, size=(size, K)))
    logs += np.log(rng.random((size, K))) * K / gamma[:, None]  # small gammas, without underflow
    beta = np.exp(logs - logs.max(-1, keepdims=True))
    beta /= beta.sum(-1, keepdims=True)
    cells = np.maximum(alpha[:, None] * beta, 1e-290)
    log_weight = np.zeros(size)
    for k, row in enumerate(np.asarray(square)):
        others = [i for i in range(K) if i != k]
        total = cells[:, others].sum(-1)
        log_weight += gammaln(total) - gammaln(total + row[others].sum())
        log_weight += (gammaln(cells[:, others] + row[others]) - gammaln(cells[:, others])).sum(-1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    assert 1 / (weight**2).sum() > 2000
    found = summaries(gamma, alpha, beta)
    mean = weight @ found
    return mean, np.sqrt(weight**2 @ (found - mean) ** 2)


@pytest.mark.parametrize(
    "square", [torch.tensor([[0.0, 5.0], [4.0, 0.0]]).double(), JUMPS, 4 * JUMPS]
)
def test_gibbs_step_has_the_posterior_for_its_law(square):
    """Limit on the largest |z| at 1 % over all statistics of a case."""
    K, chains = len(square), 300
    prior, generator = HDPRows(K), torch.Generator().manual_seed(0)
    counts = off_diagonal(square).expand(chains, 1, K, K - 1)
    values = prior.draw(generator, (chains, 1))
    total = 0.0
    for sweep in range(220):
        values = prior.sample(values, counts, counts, generator)
        if sweep >= 20:
            gamma, alpha = values["share_concentration"], values["jump_concentration"]
            beta = values["jump_share"]
            total = total + summaries(*(part[:, 0].numpy() for part in (gamma, alpha, beta)))
    by_chain = total / 200
    mean, error = importance_sampling(square)
    z = (by_chain.mean(0) - mean) / np.hypot(error, by_chain.std(0) / chains**0.5)
    assert np.abs(z).max() < stats.norm.isf(0.005 / len(z)), z


def test_counts_and_gibbs_steps_leave_the_prior_as_it_is():
    """Geweke: chains that start at the prior, and alternate counts with steps, end at it.

    Two-sample tests of Kolmogorov and Smirnov, with a false-alarm rate of 1 % in all.
    """
    K, size, steps = 4, 3000, 12
    prior, generator = HDPRows(K), torch.Generator().manual_seed(5)
    jumps = torch.tensor([12, 6, 3, 0])[:, None]

    def visible(values):
        rows = sample_dirichlet(prior.cells(values), generator)[:, 0]
        return rows, {
            "gamma": values["share_concentration"][:, 0],
            "alpha": values["jump_concentration"][:, 0],
            "largest share": values["jump_share"][:, 0].amax(-1),
            "first share": values["jump_share"][:, 0, 0],
            "jump": rows[:, 0, 1],
            "jump of a state without counts": rows[:, 3, 0],
        }

    values = prior.draw(generator, (size, 1))
    for _ in range(steps):
        rows, _ = visible(values)
        target = torch.multinomial(rows.flatten(0, 1), 12, True, generator=generator)
        hot = one_hot(target.reshape(size, K, 12), K - 1) * (torch.arange(12) < jumps)[..., None]
        counts = hot.sum(-2)[:, None].double()
        values = prior.sample(values, counts, counts, generator)
    _, reference = visible(prior.draw(generator, (20_000, 1)))
    for name, sample in visible(values)[1].items():
        test = stats.ks_2samp(sample.numpy(), reference[name].numpy())
        assert test.pvalue > 0.01 / len(reference), name


def test_objective_never_falls_and_ends_at_a_mode():
    generator, starts = torch.Generator().manual_seed(0), 4
    prior = HDPRows(5)
    square = torch.rand(starts, 1, 5, 5, generator=generator, dtype=torch.float64) ** 4 * 20
    square[..., 3:] = square[..., 3:, :] = 0.0  # states without rows
    counts = off_diagonal(square)
    law, objectives = prior.start((starts, 1)), []
    for _ in range(1500):
        posterior = prior.expected(law) + counts
        law = prior.updated(law, posterior)
        fit = (expected_log(posterior) * counts).sum((-1, -2))
        objectives.append(fit - prior.divergence(law, posterior))
    assert torch.stack(objectives).diff(dim=0).min() > -1e-9

    # at the end, the log joint density of counts and hyper-parameters has a gradient of zero
    log_weights = weights(law).log().requires_grad_()
    log_gamma = law["share_concentration"].log().requires_grad_()
    point = {
        "jump_share": log_weights.softmax(-1),
        "jump_concentration": log_weights.logsumexp(-1).exp(),
        "share_concentration": log_gamma.exp(),
    }
    cells = prior.cells(point)
    evidence = (log_normaliser(cells) - log_normaliser(cells + counts)).sum()
    (evidence + prior.log_prior(point).sum()).backward()
    assert log_weights.grad.abs().max() < 1e-3
    assert log_gamma.grad.abs().max() < 1e-3


def test_objective_of_a_whole_fit_never_falls():
    values, dwell = random_values(runs=4, rows=30, metrics=2, seed=1), 3
    family = Gaussian(noise="normal", run_effects=False)
    design = design_of(values, family)
    prior = Prior.of(family, 2, 5, StickyHDP(5).prior(5, dwell, 8.0))
    ascent = CoordinateAscent(prior, encoded(design), starting_states(design, 5, 6, 0))
    bounds = torch.stack([ascent.sweep() for _ in range(60)])
    assert bounds.diff(dim=0).min() > -1e-8
    assert (bounds[-1] > bounds[0] + 1.0).all()


def test_log_prior_is_that_of_the_pyro_sites():
    """But for the change of variables, whose Jacobian depends on the shares alone."""
    prior, generator = HDPRows(4), torch.Generator().manual_seed(2)
    values = prior.draw(generator, (1,))
    sites = {name: values[name][0] for name in values}
    ratios = []
    for gamma, alpha in ((0.3, 2.0), (1.7, 0.4)):
        sites |= {
            "share_concentration": torch.tensor(gamma).double(),
            "jump_concentration": torch.tensor(alpha).double(),
        }
        trace = pyro.poutine.trace(pyro.condition(prior.model, data=sites)).get_trace()
        trace.compute_log_prob()
        logs = [trace.nodes[name]["log_prob"] for name in values]
        own = prior.log_prior({name: sites[name][None] for name in values})
        ratios.append(own - sum(logs) - sum(sites[n].log() for n in NAMES[1:]))
    torch.testing.assert_close(*ratios)


def test_values_of_the_pyro_sites_give_the_chain_again():
    prior = StickyHDP(4).prior(4, 3, 20.0)
    chain, values = prior.draw(torch.Generator().manual_seed(0), (1,))
    sites = prior.site_values(chain, values)
    with pyro.poutine.trace() as tracer, pyro.poutine.condition(data=sites):
        again = prior.model()
    sampled = [n for n, s in tracer.trace.nodes.items() if s["type"] == "sample"]
    assert set(sites) == set(sampled) - {"transition"}
    torch.testing.assert_close(again.transition, chain.transition)


def test_with_two_states_jumps_have_no_choice():
    prior = StickyHDP(2).prior(2, 3, 20.0)
    chain, values = prior.draw(torch.Generator().manual_seed(0), (3, 1))
    torch.testing.assert_close(chain.log_jumps, torch.zeros(3, 1, 2, 1).double())
    sites = prior.site_values(chain, values)
    assert set(sites) == {"exit", "exit_mean", "exit_concentration", "initial"}


def test_relabelling():
    prior, order = HDPRows(4), torch.tensor([2, 0, 3, 1])
    values = prior.draw(torch.Generator().manual_seed(0), (2, 1))
    moved = prior.cells(prior.relabelled(values, order))
    torch.testing.assert_close(moved, relabelled_jumps(prior.cells(values), order))


def test_shares_next_to_nothing_stay_finite():
    prior, generator = HDPRows(20), torch.Generator().manual_seed(0)
    values = prior.draw(generator, (2000, 1))
    values["share_concentration"] = values["share_concentration"] * 0 + 1e-3
    counts = torch.zeros(2000, 1, 20, 19, dtype=torch.float64)
    for _ in range(3):
        values = prior.sample(values, counts, counts, generator)
    for part in values.values():
        assert part.isfinite().all()
    assert (prior.cells(values) > 0).all()


def test_few_phases_are_expected_whatever_the_truncation():
    """What `StickyHDP` says of its prior: ten runs that change phase three times each."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for states, low, high in ((10, 3, 8), (20, 3, 10)):
        prior = StickyHDP(states).prior(states, 1, 4.0)
        chain, _ = prior.draw(generator, (3000, 1))
        jumps = off_diagonal(chain.transition[:, 0])
        cumulative = (jumps / jumps.sum(-1, keepdim=True)).cumsum(-1).numpy()
        first = rng.random((3000, 10, 1)) > chain.initial.cumsum(-1).numpy()[..., :-1]
        state = first.sum(-1)
        visited = [state]
        for _ in range(3):
            rows = np.take_along_axis(cumulative[:, None], state[..., None, None], 2)[:, :, 0]
            target = (rng.random((3000, 10, 1)) > rows[..., :-1]).sum(-1)
            state = target + (target >= state)
            visited.append(state)
        hot = np.zeros((3000, states), dtype=bool)
        np.put_along_axis(hot, np.concatenate(visited, 1), True, 1)
        found = np.quantile(hot.sum(-1), [0.05, 0.95], method="inverted_cdf")
        assert abs(found - [low, high]).max() <= 1


@pytest.mark.parametrize("states", [1, 2.5, True])
def test_a_truncation_that_is_none_is_an_error(states):
    with pytest.raises(ValueError, match="max_states must be an integer of at least 2"):
        StickyHDP(states)


def test_other_numbers_of_states_and_dwells_are_errors():
    with pytest.raises(ValueError, match="contradicts StickyHDP\\(max_states=4\\)"):
        StickyHDP(4).prior(3, 2, 10.0)
    with pytest.raises(ValueError, match="expected_dwell must be a positive number"):
        StickyHDP(4, expected_dwell=0.0)
