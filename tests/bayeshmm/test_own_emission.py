"""An emission of a user's own: a prior in Pyro and a log-likelihood are all it takes."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_sample
from synthetic_runs import EVERY, change_rows, phase_of_rows

import bayeshmm as bh

DWELL = 5


class Accuracies:
    """Accuracies that are Beta within a phase, as the documentation has them."""

    def prior(self, states, metrics):
        one = torch.ones(states, len(metrics), dtype=torch.float64)
        mean = pyro.sample("mean", dist.Beta(one, one).to_event(2))
        size = pyro.sample("size", dist.LogNormal(3 * one, one).to_event(2))
        return mean, size

    def log_likelihood(self, parameters, values):
        mean, size = (part[..., None, :, :] for part in parameters)
        inside = values.clamp(1e-3, 1 - 1e-3)[:, :, None, :]
        rows = dist.Beta(mean * size, (1 - mean) * size).log_prob(inside.nan_to_num(0.5))
        return torch.where(inside.isnan(), 0.0, rows).sum(-1)


@pytest.fixture(autouse=True)
def _scoped():
    state = pyro.util.get_rng_state()
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(0)
        yield
    pyro.util.set_rng_state(state)


@pytest.fixture(scope="module")
def changes():
    return change_rows(6, 0, [(15, 25)])


@pytest.fixture(scope="module")
def runs(changes):
    """Six runs whose two accuracies rise at once, with some rows missing."""
    rng = np.random.default_rng(1)
    levels = np.array([[0.2, 0.1], [0.9, 0.7]])
    frames = []
    for n, rows in enumerate(changes):
        mean = levels[phase_of_rows(rows, 40)]
        values = rng.beta(30 * mean, 30 * (1 - mean))
        values[rng.random(values.shape) < 0.1] = np.nan
        step = EVERY * np.arange(40)
        frame = {"run": f"seed-{n}", "step": step, "train": values[:, 0], "test": values[:, 1]}
        frames.append(pd.DataFrame(frame))
    return bh.Runs.from_dataframe(pd.concat(frames))


def fitted(hmm, runs, **settings):
    guide = AutoNormal(hmm, init_loc_fn=init_to_sample)  # medians cannot tell states apart
    svi = SVI(hmm, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(runs, **settings) for _ in range(300)]
    return guide, losses


def test_it_finds_the_phases(runs, changes):
    hmm = bh.HMM(2, Accuracies(), minimum_dwell=DWELL)
    guide, losses = fitted(hmm, runs)
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 100
    draws = Predictive(
        hmm, guide=guide, num_samples=20, return_sites=["initial", "transition", "mean", "size"]
    )(runs)
    values = torch.tensor(runs.values)
    rows = Accuracies().log_likelihood((draws["mean"], draws["size"]), values)
    probability = bh.messages.smooth(
        draws["initial"].log(), draws["transition"].log(), rows, minimum_dwell=DWELL
    ).mean(0)
    late = draws["mean"].mean(0)[0, :, 0].argmax()
    entered = (probability[..., late] > 0.5).double().argmax(1).numpy()
    np.testing.assert_array_equal(entered, changes[:, 0])


def test_runs_may_be_subsampled_and_particles_batched(runs):
    hmm = bh.HMM(2, Accuracies(), minimum_dwell=DWELL)
    guide = AutoNormal(hmm)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(hmm, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    assert np.isfinite([svi.step(runs, subsample_size=2) for _ in range(3)]).all()


@pytest.mark.parametrize(("call", "states"), [(bh.fit, 2), (bh.compare, [2])])
def test_what_needs_conjugate_updates_says_what_to_do(runs, call, states):
    with pytest.raises(ValueError, match=r"Accuracies has no conjugate updates.*SVI"):
        call(runs, states, emission=Accuracies())


def test_a_class_is_not_an_emission(runs):
    with pytest.raises(ValueError, match="an emission of your own"):
        bh.HMM(2, Accuracies)
