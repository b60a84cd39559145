"""Synthetic training runs whose phases, and the rows at which they change, are known."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm import Gibbs, Runs

EVERY = 10
"""Training steps between rows."""

LAWS = np.array(
    [
        [(-0.30, 0.00, 0.25), (0.00, 0.30, 0.35), (0.00, 0.20, 0.25)],
        [(-0.05, 0.00, 0.12), (0.25, 0.00, 0.30), (0.00, 0.20, 0.25)],
        [(-0.30, 0.05, 0.30), (0.00, 0.20, 0.20), (0.25, 0.05, 0.25)],
    ]
)
"""Drift, pull and noise of three metrics in three phases, (K, D, 3)."""

START = np.array([10.0, 0.0, 0.0])
"""Where the metrics of `LAWS` start."""


def change_rows(runs: int, seed: int, windows: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """First rows of the later phases, one from each window: (runs, changes)."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(low, high, runs) for low, high in windows], axis=1)


def moving_runs(changes, lengths, laws=LAWS, start=START, seed=0, prefix="seed") -> Runs:
    """Runs that go through laws of motion in order.

    An increment is ``drift - pull * level + noise * N(0, 1)``.
    """
    rng = np.random.default_rng(seed)
    frames = []
    for n, (rows, length) in enumerate(zip(changes, lengths, strict=True)):
        drift, pull, noise = laws[phase_of_rows(rows, length)].transpose(2, 0, 1)
        level = np.empty((length, len(start)))
        level[0] = start + 0.1 * rng.standard_normal(len(start))
        for t in range(1, length):
            shock = noise[t] * rng.standard_normal(len(start))
            level[t] = level[t - 1] + drift[t] - pull[t] * level[t - 1] + shock
        frames.append(tidy(f"{prefix}-{n}", level))
    return Runs.from_dataframe(pd.concat(frames))


def level_runs(changes, lengths, means, covariances, seed=0) -> Runs:
    """Runs whose phases are levels with correlated noise: (K, D) and (K, D, D)."""
    rng = np.random.default_rng(seed)
    frames = []
    for n, (rows, length) in enumerate(zip(changes, lengths, strict=True)):
        phase = phase_of_rows(rows, length)
        values = [rng.multivariate_normal(means[k], covariances[k]) for k in phase]
        frames.append(tidy(f"seed-{n}", np.array(values)))
    return Runs.from_dataframe(pd.concat(frames))


def phase_of_rows(changes: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Phase of every row of a run that goes through the phases in order."""
    return np.searchsorted(changes, np.arange(length), side="right")


def tidy(run: str, values: NDArray[np.float64]) -> pd.DataFrame:
    """Rows of one run; its metrics are ``m0, m1, ...``."""
    columns = {f"m{j}": column for j, column in enumerate(values.T)}
    return pd.DataFrame({"run": run, "step": EVERY * np.arange(len(values)), **columns})


def changed(runs: Runs, **columns) -> Runs:
    """The runs with columns added or replaced: arrays, or functions of the tidy frame."""
    return Runs.from_dataframe(runs.to_dataframe().assign(**columns))


PLAIN = {"noise": "normal", "run_effects": False}
"""Settings of a family whose rows are Gaussian under the same parameters in every run."""

QUICK = {
    "inference": Gibbs(chains=1, warmup=20, thin=1),
    "restarts": 2,
    "draws": 40,
    "minimum_dwell": 4,
    "progress": False,
}
"""Settings of a fit that takes a moment; its draws come from the mode alone."""
