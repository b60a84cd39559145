"""Chains that start at two modes, under the same labels."""

import numpy as np
import pytest
import torch
from small_designs import design_of, encoded, name, variants

from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.hmm import Prior
from bayeshmm.inference import gibbs
from bayeshmm.inference.restarts import dispersed, matched, origin
from bayeshmm.inference.search import refine
from bayeshmm.nested import take
from bayeshmm.transitions import StickyHDP

LEVELS = [f for f in variants(covariance=("diagonal",)) if name(f).startswith("levels")]
MEANS = np.array([[0.0, 6.0], [6.0, 0.0], [-6.0, -6.0]])
ORDER = torch.tensor([3, 1, 4, 0, 2])


@pytest.fixture(params=LEVELS, ids=name)
def fits(request):
    """A fit with three of five states in use, and one with two of them as one state."""
    rng = np.random.default_rng(0)
    phase = np.arange(30) // 10
    values = MEANS[phase] + rng.standard_normal((4, 30, 2))
    data = encoded(design_of(values, request.param))
    prior = Prior.of(request.param, 2, 5, StickyHDP(5).prior(5, 3, 10.0))
    hot = torch.eye(5, dtype=torch.float64)
    three, two = hot[phase].expand(4, -1, -1), hot[np.minimum(phase, 1)].expand(4, -1, -1)
    return data, refine(prior, data, three, 20), refine(prior, data, two, 3)


def densities(state, data):
    """Of every row, in every state of every chain."""
    return log_likelihood(data.design, state.law)[0]


def test_labels_are_matched(fits):
    data, three, _ = fits
    again = matched(three, three.relabelled(ORDER))
    torch.testing.assert_close(again.states[..., :3], three.states[..., :3])
    for first, second in zip(three.parameters.chain.mean, again.parameters.chain.mean, strict=True):
        torch.testing.assert_close(first[..., :3], second[..., :3], atol=1e-6, rtol=0)
    assert len(data.design.lengths) == 4


def test_each_half_of_the_chains_starts_at_its_mode(fits):
    data, three, two = fits
    moved = two.relabelled(ORDER)
    state = dispersed(three, moved, 5, torch.Generator().manual_seed(0))
    assert origin(5).tolist() == [0, 0, 0, 1, 1]
    expected = gibbs.start(three, 5, torch.Generator().manual_seed(0))
    for kept, whole in zip(
        (densities(state, data), state.chain.transition, state.hyper["jump_share"]),
        (densities(expected, data), expected.chain.transition, expected.hyper["jump_share"]),
        strict=True,
    ):
        assert kept.shape == whole.shape
        torch.testing.assert_close(kept[:3], whole[:3])
    # the first level is a state of its own in both; an empty state may fit a row better by chance
    likeliest = densities(take(state, slice(3, 5)), data)[..., :10, :].argmax(-1)
    assert (likeliest == 0).double().mean() > 0.75


def test_a_sweep_goes_on_from_there(fits):
    data, three, two = fits
    state = dispersed(three, two, 4, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        state = gibbs.sweep(three.prior, data, state, generator)
    counted = torch.nn.functional.one_hot(state.paths, 5).sum((1, 2))
    assert counted.sum(-1).tolist() == [120] * 4
    assert (counted[:2, :3] > 30).all()


@pytest.mark.parametrize("chains", [1, 2, 4])
def test_one_chain_starts_at_the_first_mode(chains):
    found = origin(chains)
    assert found[0] == 0
    assert found.sum() == chains // 2
