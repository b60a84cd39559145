"""The data that every contender gets: runs through well separated phases, and their law."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

import bayeshmm as bh
from benchmarks.speed.sizes import Size

Array = NDArray[np.float64]

SHORTEST, LONGEST = 20, 80
"""Rows that a phase lasts, drawn uniformly."""

ONWARDS = 0.9
"""Probability that a phase is followed by the next one, and not by any other."""

SPREAD = 0.65
"""Standard deviation of the levels of the phases, in units of the noise within them."""

STAY = 0.98
"""Probability of staying in a phase for another row, under the law that is timed."""


@dataclass(frozen=True)
class Problem:
    """Data, and the hidden Markov model whose messages are timed on them.

    Attributes
    ----------
    size
        N, T, D and K.
    values
        Data, (N, T, D).
    initial, transition
        Law of the chain, (K,) and (K, K), without zeros.
    means, covariances
        Gaussian law of every phase, (K, D) and (K, D, D).
    """

    size: Size
    values: Array
    initial: Array
    transition: Array
    means: Array
    covariances: Array

    @cached_property
    def log_likelihood(self) -> Array:
        """Log density of every row under every phase, (N, T, K)."""
        D = self.size.metrics
        columns = []
        for mean, covariance in zip(self.means, self.covariances, strict=True):
            factor = np.linalg.cholesky(covariance)
            rows = (self.values - mean).reshape(-1, D).T
            squares = (solve_triangular(factor, rows, lower=True) ** 2).sum(0)
            columns.append(
                -0.5 * (squares + D * np.log(2 * np.pi)) - np.log(factor.diagonal()).sum()
            )
        return np.stack(columns, -1).reshape(*self.values.shape[:2], -1)

    @cached_property
    def runs(self) -> bh.Runs:
        """The data as `bayeshmm` reads them."""
        N, T, D = self.values.shape
        frame = pd.DataFrame(self.values.reshape(-1, D), columns=[f"m{d:02d}" for d in range(D)])
        frame.insert(0, "run", np.repeat([f"run-{n:04d}" for n in range(N)], T))
        frame.insert(1, "step", np.tile(np.arange(T), N))
        return bh.Runs.from_dataframe(frame)

    def path_log_density(self, paths: NDArray[np.int64]) -> Array:
        """Joint log density of the data and of one path per run (N, T); (N,)."""
        rows = np.take_along_axis(self.log_likelihood, paths[..., None], -1)[..., 0].sum(1)
        moves = np.log(self.transition)[paths[:, :-1], paths[:, 1:]].sum(1)
        return rows + moves + np.log(self.initial)[paths[:, 0]]


def problem(size: Size, seed: int = 0) -> Problem:
    """Draw runs that go through the phases one after the other, give or take a leap."""
    rng = np.random.default_rng(seed)
    N, T, D, K = size.runs, size.rows, size.metrics, size.states
    means = SPREAD * rng.standard_normal((K, D))
    factors = np.eye(D) + np.tril(0.2 * rng.standard_normal((K, D, D)), -1)
    paths = np.stack([_path(rng, T, K) for _ in range(N)])
    values = rng.standard_normal((N, T, D))
    for k in range(K):
        values[paths == k] = means[k] + values[paths == k] @ factors[k].T
    away = (1 - STAY) / (K - 1)
    return Problem(
        size,
        values=values,
        initial=np.full(K, 1 / K),
        transition=np.full((K, K), away) + (STAY - away) * np.eye(K),
        means=means,
        covariances=factors @ factors.transpose(0, 2, 1),
    )


def _path(rng: np.random.Generator, rows: int, states: int) -> NDArray[np.int64]:
    """Phases of `SHORTEST` to `LONGEST` rows, from the first on, each mostly before the next."""
    path: list[int] = []
    state = 0
    while len(path) < rows:
        path += [state] * int(rng.integers(SHORTEST, LONGEST + 1))
        leap = 1 if rng.random() < ONWARDS else int(rng.integers(1, states))
        state = (state + leap) % states
    return np.array(path[:rows])
