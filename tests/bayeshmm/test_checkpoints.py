"""Runs logged at checkpoints, dense at first and then sparse: what is found per base step."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import bayeshmm as bh
from bayeshmm.simulation import draw_paths
from bayeshmm.transitions import Chain

K, RUNS, DATA_SETS = 3, 12, 48
CHECKPOINTS = [0, 1, 2, 4, 8, 16, 32, *range(64, 800, 32)]
LEVELS = bh.Gaussian(noise="normal", run_effects=False)
EXPECTED = 80
"""Expected dwell in steps per row of the minimum dwell; late rows are 32 steps apart."""


def blank(value=0.0) -> pd.DataFrame:
    names = np.repeat([f"seed-{n}" for n in range(RUNS)], len(CHECKPOINTS))
    return pd.DataFrame({"run": names, "step": np.tile(CHECKPOINTS, RUNS), "level": value})


def recorded(chain, dwell, generator):
    """Runs of levels five deviations apart, and their paths."""
    gaps = torch.from_numpy(np.diff(CHECKPOINTS)).expand(RUNS, -1)
    lengths = np.full(RUNS, len(CHECKPOINTS))
    paths = draw_paths(chain, lengths, dwell, generator, gaps)
    noise = torch.randn(paths.shape, dtype=torch.float64, generator=generator).numpy()
    frame = blank((5.0 * paths + noise).ravel())
    return bh.Runs.from_dataframe(frame, metrics=["level"]), paths


def fitted(runs, dwell, seed, draws=400):
    """A fit by exact draws."""
    return bh.fit(
        runs,
        K,
        emission=LEVELS,
        transition=bh.Dirichlet(expected_dwell=dwell * EXPECTED),
        minimum_dwell=dwell,
        inference="gibbs",
        restarts=4,
        draws=draws,
        seed=seed,
        progress=False,
    )


def in_the_order_of(paths, posterior):
    """Draws of the transition matrix (S, K, K) with the labels of `paths`, and the agreement."""
    together = np.array(
        [[((posterior.paths == i) & (paths == k)).mean() for i in range(K)] for k in range(K)]
    )
    label = linear_sum_assignment(-together)[1]
    transition = posterior.draws.chain.transition[:, 0].numpy()
    return transition[:, label][:, :, label], together[np.arange(K), label].sum()


@pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
@pytest.mark.parametrize("dwell", [1, 3])
def test_exit_probabilities_and_paths_are_recovered(dwell):
    leave = np.array([0.006, 0.012, 0.02])
    transition = np.diag(1 - leave) + leave[:, None] * (1 - np.eye(K)) / 2
    chain = Chain(torch.full((1, K), 1 / K).double(), torch.from_numpy(transition)[None])
    runs, paths = recorded(chain, dwell, torch.Generator().manual_seed(dwell))
    drawn, agreement = in_the_order_of(paths, fitted(runs, dwell, 0))
    low, high = np.quantile(1 - drawn.diagonal(axis1=1, axis2=2), [0.01, 0.99], axis=0)
    assert ((low < leave) & (leave < high)).all()
    assert (high < 10 * leave).all()
    assert agreement > 0.97


@pytest.mark.calibration
@pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
@pytest.mark.parametrize("dwell", [1, 3])
def test_intervals_of_base_step_transitions_cover(dwell):
    """Truth from the prior, so coverage is exact; the limit is 3.3 standard errors (p = .001)."""
    hmm = bh.HMM(K, LEVELS, bh.Dirichlet(expected_dwell=dwell * EXPECTED), dwell)
    prior = hmm.transition_prior(bh.Runs.from_dataframe(blank(), metrics=["level"]))
    shares = []
    for seed in range(DATA_SETS):
        generator = torch.Generator().manual_seed(seed)
        chain, _ = prior.draw(generator)
        runs, paths = recorded(chain, dwell, generator)
        drawn, _ = in_the_order_of(paths, fitted(runs, dwell, seed))
        low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
        true = chain.transition[0].numpy()
        shares.append(((low <= true) & (true <= high)).mean())
    coverage, error = np.mean(shares), np.std(shares, ddof=1) / np.sqrt(DATA_SETS)
    print(f"90 % intervals hold {coverage:.3f} of transition probabilities, +- {error:.3f}")
    assert abs(coverage - 0.9) < 3.3 * error


def histories(seed=0, runs=8):
    """Loss and accuracy of runs that grok, at powers of two and then every 1000 steps."""
    rng = np.random.default_rng(seed)
    steps = np.array([0, *2 ** np.arange(10), *range(1000, 41_000, 1000)])
    frames, late = [], rng.uniform(12_000, 28_000, runs)
    for n, moment in enumerate(late):
        fallen = 1 / (1 + np.exp(-(steps - moment) / 800))
        noise = 0.02 * rng.standard_normal((2, len(steps)))
        loss = np.log(4.0) - 0.25 * np.log1p(steps) - 1.5 * fallen + noise[0]
        norm = 3.0 + 0.4 * np.log1p(steps / 50) - 1.2 * fallen + noise[1]
        rows = {"run": f"seed-{n}", "step": steps, "log_loss": loss, "weight_norm": norm}
        frames.append(pd.DataFrame(rows))
    return bh.Runs.from_dataframe(pd.concat(frames), metrics=["log_loss", "weight_norm"]), late


@pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
def test_a_history_of_checkpoints_fits_as_it_is():
    runs, late = histories()
    with pytest.warns(bh.SpacingWarning, match="'seed-0'.*per logged row"):
        posterior = bh.fit(runs, 3, restarts=4, draws=100, progress=False)
    assert np.isfinite(posterior.log_density(runs)).all()
    changes = posterior.transition_times()
    found = [
        np.abs(own["median"] - moment).min()
        for (_, own), moment in zip(changes.groupby("run"), late, strict=True)
    ]
    assert np.median(found) < 2500  # a fall takes 3500 steps from a tenth to nine tenths
    assert max(found) < 5000
