"""The law of a chain with a minimum dwell, by listing every path: the oracle of these tests.

Written from the definition of the law alone: no recursion, one run at a time, sums in the widest
floating point that the machine has.
"""

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

Real = np.longdouble
EPS = float(np.finfo(Real).eps)


class Paths(NamedTuple):
    """Paths of n rows that the dwell allows, in lexicographic order; all (paths, n)."""

    states: np.ndarray
    entry: np.ndarray  # a visit starts in this row
    free: np.ndarray  # the visit has lasted its dwell


@lru_cache(maxsize=256)
def list_paths(n: int, K: int, dwell: tuple[int, ...]) -> Paths:
    states = np.indices((K,) * n).reshape(n, -1).T
    age = np.ones_like(states)
    for t in range(1, n):
        age[:, t] += np.where(states[:, t] == states[:, t - 1], age[:, t - 1], 0)
    entry, free = age == 1, age >= np.array(dwell)[states]
    allowed = (free[:, :-1] | ~entry[:, 1:]).all(1)
    return Paths(states[allowed], entry[allowed], free[allowed])


class Law:
    """The joint law of the paths and rows of one run.

    Parameters
    ----------
    log_initial : array
        (K,).
    log_transition : array
        (n-1, K, K), a matrix for every step.
    log_likelihood : array
        (n, K).
    dwell : tuple of int
    """

    def __init__(self, log_initial, log_transition, log_likelihood, dwell):
        self.inputs = (log_initial, log_transition, log_likelihood)
        self.dwell = tuple(dwell)
        self.n, self.K = log_likelihood.shape
        self.paths = list_paths(self.n, self.K, self.dwell)
        initial, steps, rows = (np.asarray(x, Real) for x in self.inputs)
        z, _, free = self.paths
        t = np.arange(self.n)
        moves = np.where(free[:, :-1], steps[t[:-1], z[:, :-1], z[:, 1:]], 0)
        self.log_weight = initial[z[:, 0]] + rows[t, z].sum(1) + moves.sum(1)

    @cached_property
    def log_marginal(self) -> Real:
        top = self.log_weight.max()
        return top if top == -np.inf else top + np.log(np.exp(self.log_weight - top).sum())

    @property
    def possible(self) -> bool:
        return bool(self.log_marginal > -np.inf)

    @cached_property
    def probability(self) -> np.ndarray:
        """(paths,), zeros for an impossible run."""
        if not self.possible:
            return np.zeros(len(self.log_weight))
        return np.exp(self.log_weight - self.log_marginal).astype(float)

    @property
    def initial(self) -> np.ndarray:
        """(K,), P(z_0)."""
        return self.state[0]

    @cached_property
    def transition(self) -> np.ndarray:
        """(n-1, K, K), stays and changes that the matrix of a step ruled."""
        z, _, free = self.paths
        cell = z[:, :-1] * self.K + z[:, 1:]
        return self._tally(cell, free[:, :-1], self.K**2).reshape(-1, self.K, self.K)

    @cached_property
    def state(self) -> np.ndarray:
        """(n, K), P(z_t)."""
        return self._tally(self.paths.states, True, self.K)

    @cached_property
    def entry(self) -> np.ndarray:
        """(n, K), P(a visit starts at t)."""
        return self._tally(self.paths.states, self.paths.entry, self.K)

    def _tally(self, cell, counted, cells: int) -> np.ndarray:
        """Sum probabilities by row and cell, over paths where it is counted."""
        weight = np.where(counted, self.probability[:, None], 0.0)
        rows = np.arange(cell.shape[1])
        return np.bincount(
            (rows * cells + cell).ravel(),
            np.broadcast_to(weight, cell.shape).ravel(),
            minlength=len(rows) * cells,
        ).reshape(len(rows), cells)

    @cached_property
    def prefixes(self) -> "list[Law]":
        """The laws of the first 1, 2, ..., n rows."""
        initial, steps, rows = self.inputs
        shorter = [Law(initial, steps[:t], rows[: t + 1], self.dwell) for t in range(self.n - 1)]
        return [*shorter, self]

    @property
    def filtered(self) -> np.ndarray:
        """(n, K), P(z_t | rows up to t)."""
        return np.array([law.state[-1] for law in self.prefixes])

    @property
    def log_marginals(self) -> np.ndarray:
        """(n,), log density of the first rows, for every prefix."""
        return np.array([law.log_marginal for law in self.prefixes])

    @property
    def predicted(self) -> np.ndarray:
        """(n, K), P(z_t | rows before t): the last row of each prefix is taken as missing."""
        initial, steps, rows = self.inputs
        unseen = [np.concatenate([rows[:t], np.zeros((1, self.K))]) for t in range(self.n)]
        return np.array(
            [Law(initial, steps[:t], x, self.dwell).state[-1] for t, x in enumerate(unseen)]
        )

    @property
    def first_impossible_row(self) -> int:
        return int(np.argmax(np.isneginf(self.log_marginals)))

    @cached_property
    def best(self) -> tuple[int, ...]:
        """The lexicographically smallest of the best paths."""
        return tuple(self.paths.states[np.argmax(self.log_weight)].tolist())

    def log_weight_of(self, path) -> Real:
        """Joint log density of a path and the rows; -inf if the dwell forbids it."""
        which = (self.paths.states == np.asarray(path)).all(1)
        return self.log_weight[which].max(initial=-np.inf)

    def conditionals(self, path) -> Iterator[np.ndarray]:
        """Yield P(z_t | the path's earlier states, all rows), (K,), for every row t."""
        states, log_weight = self.paths.states, self.log_weight
        for t, k in enumerate(path):
            weight = np.exp(log_weight - log_weight.max())
            shares = np.array([weight[states[:, t] == j].sum() for j in range(self.K)])
            yield (shares / shares.sum()).astype(float)
            here = states[:, t] == k
            states, log_weight = states[here], log_weight[here]
