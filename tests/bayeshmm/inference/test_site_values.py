"""Draws as values of Pyro's sites and back, and the density that Pyro gives them."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small_designs import name, problem, random_values, variants

from bayeshmm import Autoregressive, Gaussian
from bayeshmm.hmm import model, run_log_densities
from bayeshmm.inference import gibbs
from bayeshmm.inference.search import search
from bayeshmm.inference.site_values import site_values, values
from bayeshmm.inference.unconstrained import Unconstrained, isolated
from bayeshmm.nested import mapped


def drawn(family, states, seed=0):
    prior, data = problem(family, states, random_values(runs=3, rows=30, metrics=2, seed=seed))
    fit, _ = search(prior, data, 2, seed=0)
    return prior, data, gibbs.sample(fit, data, 12, chains=2, warmup=5, thin=1)


def leaves(tree, found=None):
    found = [] if found is None else found
    mapped(found.append, tree)
    return found


@pytest.mark.parametrize("states", [1, 2, 3])
@pytest.mark.parametrize("family", variants(), ids=name)
def test_there_and_back(family, states):
    prior, data, draws = drawn(family, states)
    space = Unconstrained(partial(model, prior, data))
    sites = site_values(prior, draws)
    assert set(sites) == set(space.sites)
    points = space.points(sites)
    assert torch.isfinite(points).all()
    back = values(prior, space.values(points), 3)
    active = prior.regression.layout.active
    law = draws.law._replace(coefficients=draws.law.coefficients * active)
    hyper = {name: value for name, value in draws.hyper.items() if name in sites}
    expected = (law, draws.precisions, draws.chain, hyper)
    assert len(leaves(tuple(back))) == len(leaves(expected))
    for one, other in zip(leaves(tuple(back)), leaves(expected), strict=True):
        torch.testing.assert_close(one, other.expand_as(one))


@pytest.mark.parametrize("family", [Gaussian(), Autoregressive(lags=2, noise="normal")], ids=name)
def test_the_density_is_prior_times_likelihood(family):
    """What differs between the data given and no data at all is the runs' density."""
    prior, data, draws = drawn(family, 3)
    points = Unconstrained(partial(model, prior, data)).points(site_values(prior, draws))
    unseen = replace(data.design, observed=torch.zeros_like(data.design.observed))
    silent = replace(data, design=unseen)
    with isolated(0), torch.no_grad():
        whole, nothing = (
            Unconstrained(partial(model, prior, one)).log_density(points) for one in (data, silent)
        )
    runs = run_log_densities(data, draws.law, draws.chain, prior.minimum_dwell).sum(-1)
    torch.testing.assert_close(whole - nothing, runs)


def test_some_runs_keep_their_effects():
    """Effects of all runs are one site, of which a step sees those of its runs."""
    prior, data, draws = drawn(Gaussian(noise="normal"), 2)
    space = Unconstrained(partial(model, prior, data))
    points = space.points(site_values(prior, draws))
    runs = run_log_densities(data, draws.law, draws.chain, prior.minimum_dwell)
    with isolated(0), torch.no_grad():
        whole = space.log_density(points)
        parts = torch.stack([space.log_density(points, subsample_size=1) for _ in range(20)])
    seen = (parts - (whole - runs.sum(-1))) / 3.0
    near = (seen[..., None] - runs).abs() < 1e-6 * runs.abs()
    assert near.any(-1).all()
    assert len(np.unique(near.long().argmax(-1)[:, 0])) == 3
