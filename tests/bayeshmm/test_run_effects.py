"""Seeds that differ in level alone: with run effects the difference is not taken for phases."""

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import change_rows, phase_of_rows, tidy

import bayeshmm as bh

PHASES, RUNS, ROWS, METRICS = 3, 10, 160, 8


def shifted_runs(seed: int, shift: float = 2.0) -> bh.Runs:
    """Levels three noise SDs apart from phase to phase, and a level of every run's own.

    Each run is shifted by N(0, shift^2) noise SDs in every metric, the same in all phases.
    """
    rng = np.random.default_rng([seed, 1])
    changes = change_rows(RUNS, seed, [(40, 64), (92, 116)])
    levels = np.tile([[0, 0, 0, 0], [3, -3, 3, 3], [6, 0, 0, 6]], 2).astype(float)
    frames = []
    for n, rows in enumerate(changes):
        level = levels[phase_of_rows(rows, ROWS)] + shift * rng.standard_normal(METRICS)
        frames.append(tidy(f"seed-{n}", level + rng.standard_normal(level.shape)))
    return bh.Runs.from_dataframe(pd.concat(frames))


def compared(runs: bh.Runs, emission: bh.Gaussian, jobs: int = 1) -> bh.Comparison:
    """One to five phases."""
    settings = {"minimum_dwell": 5, "progress": False, "jobs": jobs}
    return bh.compare(runs, range(1, 6), emission, **settings)


def chosen(comparison: bh.Comparison) -> int:
    """Number of phases of `Comparison.best`, without the draws."""
    return comparison.best_key[1]


def test_without_run_effects_levels_of_runs_become_phases():
    """The score is nats a row worse, and goes on rising past the true number of phases."""
    runs = shifted_runs(0)
    known, unknown = (compared(runs, bh.Gaussian(run_effects=effects)) for effects in (True, False))
    assert chosen(known) == PHASES
    scores, worse = (one.table["elpd"].to_numpy() for one in (known, unknown))
    assert (worse < scores - 3).all()
    assert abs(scores[4] - scores[2]) < 0.1
    assert worse[4] - worse[2] > 0.3


@pytest.mark.calibration
def test_the_true_number_of_phases_is_found_in_18_of_20_sets():
    """With a chance of 0.97 a set, fewer than 18 would come up once in 50 runs."""
    found = [chosen(compared(shifted_runs(seed), bh.Gaussian(), jobs=2)) for seed in range(20)]
    assert sum(K == PHASES for K in found) >= 18, found
