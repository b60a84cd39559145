"""Change times against the truth: calibrated, and nearly as exact as knowing all parameters.

Worlds of three phases in a row, whose parameters are fixed and not drawn from any prior. The oracle
knows them all: its law of every change is exact.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_runs import PLAIN, tidy

import bayeshmm as bh
from bayeshmm import messages
from bayeshmm.phases import entry_times
from benchmarks.calibration.ranks import band, distance, effective_size, uniform_ranks

# of the few draws that are taken
pytestmark = pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")

STATES, RUNS, ROWS, DWELL, EXIT = 3, 12, 160, 10, 1 / 40
CHAIN = torch.tensor([[1 - EXIT, EXIT, 0], [0, 1 - EXIT, EXIT], [0, 0, 1]], dtype=torch.float64)
DRAWS, CHAINS = 400, 4
LEVELS = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]])
"""Two standard deviations of the noise between neighbouring phases."""
LAWS = np.array([[(-0.6, 0.06), (0.0, 0.2)], [(-0.2, 0.02), (0.0, 0.6)], [(0.2, 0.02), (0.5, 0.2)]])
"""Drift and pull of two metrics: x_t = x_{t-1} + drift - pull x_{t-1} + N(0, 1/16)."""


class World(NamedTuple):
    """One set of runs, the phase of every row, and the log density of every row in every phase."""

    runs: bh.Runs
    paths: np.ndarray
    log_likelihood: torch.Tensor


def paths_of(rng):
    """Phases of every row, (RUNS, ROWS)."""
    visits = DWELL - 1 + rng.geometric(EXIT, (RUNS, STATES - 1))
    return (np.arange(ROWS)[:, None] >= visits.cumsum(axis=1)[:, None]).sum(axis=2)


def density(residuals):
    """Log density of standard normal residuals (..., D), but for a constant."""
    return torch.from_numpy(-0.5 * (residuals**2).sum(-1))


def levels(rng):
    paths = paths_of(rng)
    values = LEVELS[paths] + rng.standard_normal((RUNS, ROWS, 2))
    return world(values, paths, density(values[:, :, None] - LEVELS))


def motion(rng):
    paths = paths_of(rng)
    values = np.zeros((RUNS, ROWS, 2))
    values[:, 0] = [10.0, 0.0]
    for t in range(1, ROWS):
        drift, pull = np.moveaxis(LAWS[paths[:, t]], -1, 0)
        noise = 0.25 * rng.standard_normal((RUNS, 2))
        values[:, t] = values[:, t - 1] + drift - pull * values[:, t - 1] + noise
    drift, pull = LAWS[..., 0], LAWS[..., 1]
    before = values[:, :-1, None]
    residuals = (values[:, 1:, None] - before - drift + pull * before) / 0.25
    first = np.zeros((RUNS, 1, STATES, 2))  # the first values have a law of their own
    return world(values, paths, density(np.concatenate([first, residuals], axis=1)))


def world(values, paths, log_likelihood):
    frames = [tidy(f"seed-{n}", own) for n, own in enumerate(values)]
    return World(bh.Runs.from_dataframe(pd.concat(frames)), paths, log_likelihood)


WORLDS = {
    "levels": (levels, bh.Gaussian(**PLAIN)),
    "motion": (motion, bh.Autoregressive(lags=1, **PLAIN)),
}


def entry_rows(paths):
    """Row of the first entry into the second and third phase, ROWS if never, (..., runs, 2)."""
    inside = paths[..., None] == np.arange(1, STATES)
    return np.where(inside.any(axis=-2), inside.argmax(axis=-2), ROWS)


def oracle_rows(some):
    """Median of the exact law of every entry, ROWS where it is less probable than not."""
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    law = messages.entries(start.log(), CHAIN.log(), some.log_likelihood, minimum_dwell=DWELL)
    below = law[..., 1:].numpy().cumsum(axis=1)  # a phase is entered once at most
    total = below[:, -1:]
    return np.where(total[:, 0] > 0.5, (below < total / 2).sum(axis=1), ROWS)


class Answer(NamedTuple):
    """Of one set of runs: ranks of the truth (2, runs), and the errors of both medians, in rows.

    ``never`` are the entries, as in the table, that are none in truth.
    """

    ranks: np.ndarray
    error: float
    oracle: float
    never: pd.DataFrame


def answer(name, seed):
    simulate, emission = WORLDS[name]
    rng = np.random.default_rng([seed, len(name)])
    some = simulate(rng)
    posterior = bh.fit(
        some.runs,
        STATES,
        emission=emission,
        minimum_dwell=DWELL,
        restarts=8,
        draws=DRAWS,
        inference=bh.Gibbs(chains=CHAINS, warmup=200, thin=1),
        seed=seed,
        progress=False,
    )
    shares = np.stack([(posterior.paths == k).mean(axis=0) for k in range(STATES)], axis=-1)
    named = bh.match_states(np.eye(STATES)[some.paths], shares)
    paths, runs = named[posterior.paths], posterior.runs
    true, drawn = entry_rows(some.paths), entry_rows(paths)
    flat = drawn.reshape(len(drawn), -1)
    sizes = np.clip(effective_size(flat, CHAINS), 10, len(flat)).astype(np.int64)
    ranks = uniform_ranks(true.ravel(), flat, sizes, rng).reshape(true.shape).T
    median = np.quantile(drawn, 0.5, axis=0, method="inverted_cdf")
    counted = true < ROWS - DWELL  # changes that were seen through
    errors = (np.abs(rows - true)[counted].mean() for rows in (median, oracle_rows(some)))
    table = entry_times(paths, runs.steps, runs.names, range(STATES), minimum_dwell=DWELL)
    return Answer(ranks, *errors, table[table["state"] > 0][(true == ROWS).ravel()])


@pytest.fixture(scope="module", params=WORLDS)
def answers(request):
    return [answer(request.param, seed) for seed in range(3)]


def check_uniform(ranks):
    """Ranks (units, changes, alike) stay in the band of uniform ones: a false alarm in 1 %."""
    assert distance(ranks) <= band(ranks, 0.99)


def check_errors(answers):
    """At most half as much again as the oracle's, and half a row."""
    error, oracle = (np.mean([getattr(a, who) for a in answers]) for who in ("error", "oracle"))
    assert error <= 1.5 * oracle + 0.5


def test_ranks_of_the_true_change_are_uniform(answers):
    """Runs are the units, as if independent; they are, but for the parameters that they share."""
    check_uniform(np.concatenate([a.ranks.T[..., None] for a in answers]))


def test_changes_are_found_nearly_as_well_as_if_all_parameters_were_known(answers):
    check_errors(answers)


def test_what_a_run_never_enters_has_no_time(answers):
    never = pd.concat([a.never for a in answers])
    assert len(never) > 3
    assert never["probability"].median() < 0.01
    assert (never["confirmed"] < 0.01).all()
    empty = never[["median", "lower", "upper"]].isna().all(axis=1)
    assert (empty == (never["probability"] < 0.01)).all()


@pytest.mark.calibration
@pytest.mark.parametrize("name", WORLDS)
def test_many_sets_of_runs(name):
    """40 sets of each world, which are the units here."""
    answers = [answer(name, seed) for seed in range(100, 140)]
    check_uniform(np.stack([a.ranks for a in answers]))
    check_errors(answers)
