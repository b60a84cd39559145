"""Simulated runs whose number of phases is known, and runs that drift and have no phase at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm import Autoregressive, Gaussian, Runs
from bayeshmm.emissions import Emission

Array = NDArray[np.float64]
Path = NDArray[np.int64]

RUNS, ROWS, METRICS = 12, 240, 4
"""Size of a set whose runs have phases."""

PHASES = (2, 3, 4, 5)
"""True numbers; set number i has the i-th of them, and so on in turn."""

SHORTEST = 15
"""Rows that every true visit lasts at least: half as much again as the default minimum dwell."""

STEP = 2.0
"""Distance of neighbouring levels, in standard deviations of the noise."""

CARRY = 0.6
"""Share of a deviation from the level that the next row keeps, in `persistent`."""

RATES = np.array([1.0, 3.0, 9.0])
"""Drift per row in `averages`, in standard deviations of the noise: a factor of 3 apart, and the
slow ones as far apart as neighbouring levels are."""

SLOPES = 0.1 * RATES
"""Drift per row of the trends in `noisy_trends`, in standard deviations of the noise."""

PULL = 0.3
"""Share of the distance to each average that a row of `averages` goes back."""

HALF_LIVES = (3, 10, 30)
"""Of the averages, in rows."""


def distinct_walks(phases: int, rungs: int, rng: np.random.Generator) -> Path:
    """Rungs of a ladder in each phase, (phases, METRICS): up or down by one from each to the next.

    No two phases are alike in all metrics: one that came back would be no further phase.
    """
    while True:
        walk = np.empty((phases, METRICS), dtype=np.int64)
        walk[0] = rng.integers(rungs, size=METRICS)
        for before, after in pairwise(walk):
            up = rng.integers(2, size=METRICS) == 1
            up = np.where(before == 0, True, np.where(before == rungs - 1, False, up))
            after[:] = before + np.where(up, 1, -1)
        if len(np.unique(walk, axis=0)) == phases:
            return walk


def paths(phases: int, rng: np.random.Generator) -> Path:
    """Phase of every row, (RUNS, ROWS): in order, for Dirichlet(10) shares of each run."""
    rows = np.arange(ROWS)
    found: list[Path] = []
    while len(found) < RUNS:
        ends = np.rint(ROWS * rng.dirichlet(np.full(phases, 10.0)).cumsum()).astype(np.int64)
        if np.diff(ends, prepend=0).min() >= SHORTEST:
            found.append(np.searchsorted(ends, rows, side="right"))
    return np.stack(found)


def levels(path: Path, phases: int, rng: np.random.Generator) -> Array:
    """Levels, and normal noise."""
    return _level(path, phases, rng) + rng.standard_normal((*path.shape, METRICS))


def heavy_tails(path: Path, phases: int, rng: np.random.Generator) -> Array:
    """Levels, and noise of Student's t with 4 degrees of freedom, scaled to unit variance."""
    return _level(path, phases, rng) + rng.standard_t(4, (*path.shape, METRICS)) / np.sqrt(2)


def persistent(path: Path, phases: int, rng: np.random.Generator) -> Array:
    """A first-order autoregression that is drawn to the level of its phase.

    After a change the metrics approach the new level by 1 - CARRY of the distance a row; levels are
    STEP *stationary* standard deviations apart.
    """
    level = _level(path, phases, rng)
    shocks = rng.standard_normal(level.shape)
    deviation = np.empty_like(level)
    deviation[:, 0] = shocks[:, 0]
    for t in range(1, ROWS):
        moved = deviation[:, t - 1] + level[:, t - 1] - level[:, t]
        deviation[:, t] = CARRY * moved + np.sqrt(1 - CARRY**2) * shocks[:, t]
    return level + deviation


def averages(path: Path, phases: int, rng: np.random.Generator) -> Array:
    """A noisy trend: drawn to its averages, it drifts at three times, or a third of, the last rate.

    An increment is ``drift + PULL * (sum of the averages less the level) + N(0, 1)``.
    """
    drift = _directed(RATES, path, phases, rng)
    shocks = rng.standard_normal(drift.shape)
    values = np.empty_like(drift)
    values[:, 0] = shocks[:, 0]
    decay = 0.5 ** (1.0 / np.asarray(HALF_LIVES))
    total, weight = np.zeros((RUNS, METRICS, len(decay))), np.zeros(len(decay))
    for t in range(1, ROWS):
        last = values[:, t - 1]
        total, weight = decay * (total + last[..., None]), decay * (weight + 1.0)
        away = (total / weight - last[..., None]).sum(-1)
        values[:, t] = last + drift[:, t] + PULL * away + shocks[:, t]
    return values


def noisy_trends(path: Path, phases: int, rng: np.random.Generator) -> Array:
    """White noise about straight lines, three times or a third as steep from phase to phase.

    No family holds the rows after a change: there the averages still show the slope before it.
    """
    trend = _directed(SLOPES, path, phases, rng).cumsum(axis=1)
    return trend + rng.standard_normal(trend.shape)


def offsets(path: Path, phases: int, rng: np.random.Generator) -> Array:
    """Levels with normal noise; each run is off by N(0, 1) in each metric, in all phases alike."""
    return levels(path, phases, rng) + rng.standard_normal((RUNS, 1, METRICS))


def _level(path: Path, phases: int, rng: np.random.Generator) -> Array:
    """Level of every row, (RUNS, ROWS, METRICS)."""
    rungs = distinct_walks(phases, 2 * phases, rng)
    return STEP * rungs[path].astype(np.float64)


def _directed(rates: Array, path: Path, phases: int, rng: np.random.Generator) -> Array:
    """Drift of every row, upwards or downwards for good in each metric."""
    rungs = distinct_walks(phases, len(rates), rng)
    directions: Array = rng.choice(np.array([-1.0, 1.0]), METRICS)
    return (directions * rates[rungs])[path]


AVERAGES = Autoregressive(lags=1, half_lives=HALF_LIVES)

FAMILIES: dict[str, Emission] = {
    "levels": Gaussian(),
    "AR(1)": Autoregressive(lags=1),
    "AR(5)": Autoregressive(),
    "averages": AVERAGES,
}
"""Families that are compared, by the name in the tables."""


@dataclass(frozen=True)
class World:
    """A way to make runs with phases.

    Attributes
    ----------
    values
        From the phase of every row, the number of phases and a generator: (RUNS, ROWS, METRICS).
    right
        Name of the family that it belongs to.
    exact
        Whether that family holds its law, change of phase and all. Where not, states beyond the
        true number may be worth something: they are counted, but nothing is claimed.
    """

    values: Callable[[Path, int, np.random.Generator], Array]
    right: str
    exact: bool = True


WORLDS: dict[str, World] = {
    "levels": World(levels, "levels"),
    "Student-t": World(heavy_tails, "levels"),
    "AR(1)": World(persistent, "AR(1)"),
    "noisy trends": World(noisy_trends, "averages", exact=False),
    "run offsets": World(offsets, "levels"),
    "averages": World(averages, "averages"),
}
"""Worlds with phases."""


def true_phases(number: int) -> int:
    """True number of phases of set `number`."""
    return PHASES[number % len(PHASES)]


def with_phases(world: str, number: int) -> Runs:
    """Set `number` of a world with phases.

    Parameters
    ----------
    world
        One of `WORLDS`.
    number
        Of the set.
    """
    rng = np.random.default_rng([list(WORLDS).index(world), number])
    phases = true_phases(number)
    return _runs(WORLDS[world].values(paths(phases, rng), phases, rng))


DRIFT_ROWS, DRIFT_METRICS = 160, 3
"""Size of a run that drifts."""

SPREAD = 0.3
"""Standard deviation of the logarithm of a run's rate of decay."""

NOISES = (0.1, 0.5, 2.0)
"""Standard deviations of the noise, in ranges of the decay."""

SHAPES: dict[str, Callable[[Array], Array]] = {
    "exponential": lambda age: np.exp(-age),
    "power law": lambda age: 1.0 / (1.0 + age),
}
"""Height above the floor at an age, in time constants."""

TIME_CONSTANTS = (10.0, 40.0)
"""Rows: range from which those of the metrics are drawn, log-uniformly, for each set."""

DRIFTS = [f"{shape}, noise {noise:.0%}" for shape in SHAPES for noise in NOISES] + ["no change"]
"""Worlds that drift, by name; set number i is of the i-th, and so on in turn."""

SEEDS = (8, 20, 60)
"""Numbers of runs; the first runs are the same whatever the number."""


def drift(number: int) -> str:
    """Name of the world of set `number`."""
    return DRIFTS[number % len(DRIFTS)]


def without_phases(number: int, runs: int) -> Runs:
    """The first runs of set `number` of those that drift.

    Parameters
    ----------
    number
        Of the set.
    runs
        How many.
    """
    shortest, longest = np.log(TIME_CONSTANTS)
    rng = np.random.default_rng([number])
    constants = np.exp(rng.uniform(shortest, longest, DRIFT_METRICS))
    shape, _, noise = drift(number).partition(", noise ")
    values = np.empty((runs, DRIFT_ROWS, DRIFT_METRICS))
    for n, run in enumerate(values):
        rng = np.random.default_rng([number, n])
        own = np.exp(SPREAD * rng.standard_normal())
        run[:] = rng.standard_normal(run.shape)
        if shape in SHAPES:
            age = own * np.arange(DRIFT_ROWS)[:, None] / constants
            run[:] = SHAPES[shape](age) + float(noise.rstrip("%")) / 100 * run
    return _runs(values)


def _runs(values: Array) -> Runs:
    """Runs from (N, T, D), ten steps from row to row."""
    N, T, D = values.shape
    frame = pd.DataFrame(values.reshape(N * T, D), columns=[f"m{d}" for d in range(D)])
    frame.insert(0, "run", np.repeat([f"seed-{n}" for n in range(N)], T))
    frame.insert(1, "step", np.tile(10 * np.arange(T), N))
    return Runs.from_dataframe(frame)
