"""The picture of how inference went."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

import bayeshmm as bh
from bayeshmm.inference_data import run_log_likelihoods


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def variational(level_posterior):
    """A posterior whose loss is known."""
    found = level_posterior.diagnostics.copy()
    found["k_hat"], found["converged"] = 0.41, True
    losses = 100.0 + 50.0 * np.exp(-np.arange(400) / 20.0)
    return replace(level_posterior, inference="vi", diagnostics=found, losses=losses)


def test_losses_and_their_running_mean(variational):
    ax = bh.plots.convergence(variational)
    losses, means = (line.get_data() for line in ax.lines)
    np.testing.assert_array_equal(losses[0], np.arange(1, 401))
    np.testing.assert_array_equal(losses[1], variational.losses)
    assert means[0][-1] == 400
    assert means[1][-1] == pytest.approx(variational.losses[-50:].mean())
    assert ax.get_ylim()[0] < 100 < ax.get_ylim()[1]
    assert ax.get_title() == "converged; k-hat 0.41, at most 0.7"


def test_fewer_losses_than_a_window(variational):
    found = variational.diagnostics.copy()
    found["converged"], found["k_hat"] = False, 0.9
    short = replace(variational, losses=variational.losses[:7], diagnostics=found)
    ax = bh.plots.convergence(short)
    assert ax.get_title() == "not converged; k-hat 0.90, above 0.7"
    assert len(ax.lines[1].get_xdata()) == 1


def test_chains(level_posterior):
    _, ax = plt.subplots()
    assert bh.plots.convergence(level_posterior, ax=ax) is ax
    total = run_log_likelihoods(level_posterior).sum(1)
    drawn = np.concatenate([line.get_ydata() for line in ax.lines])
    assert len(ax.lines) == level_posterior.draws.chains
    np.testing.assert_allclose(drawn, total)
    assert "R-hat" in ax.get_title()
