"""The two matrix products that a sweep cannot do without, alone: rows, and their statistics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.contenders import Answer, Contender
from benchmarks.speed.problem import Problem
from benchmarks.speed.works import PRODUCTS, Work

Array = NDArray[np.float64]


def contenders(problem: Problem) -> Iterator[Contender]:
    """Features (N T, M) times weights (M, K), and states (K, N T) times features.

    The M = (D + 1) (D + 2) / 2 features of a row are the products of 1 and its metrics, in which
    a Gaussian log density is linear.
    """
    N, T, D = problem.values.shape
    K = problem.size.states
    augmented = np.concatenate([np.ones((N * T, 1)), problem.values.reshape(-1, D)], 1)
    left, right = np.triu_indices(D + 1)
    features = augmented[:, left] * augmented[:, right]
    weights = gaussian_weights(problem)[:, left, right].T.copy()
    likelihood = np.exp(problem.log_likelihood - problem.log_likelihood.max(-1, keepdims=True))
    states = (likelihood / likelihood.sum(-1, keepdims=True)).reshape(-1, K).T.copy()

    def run() -> tuple[Array, Array]:
        return features @ weights, states @ features

    def answer() -> Answer:
        return {"rows": run()[0].reshape(N, T, K)}

    yield Contender(PRODUCTS, Work.SWEEP, run, answer)


def gaussian_weights(problem: Problem) -> Array:
    """Upper triangles (K, D+1, D+1) whose sum over products of (1, y) is the log density of y."""
    K, D = problem.means.shape
    precision = np.linalg.inv(problem.covariances)
    linear = np.einsum("kij,kj->ki", precision, problem.means)
    constant = D * np.log(2 * np.pi) + np.linalg.slogdet(problem.covariances)[1]
    constant = constant + np.einsum("ki,ki->k", problem.means, linear)
    form = np.zeros((K, D + 1, D + 1))
    form[:, 0, 0] = -0.5 * constant
    form[:, 0, 1:] = linear
    form[:, 1:, 1:] = -np.triu(precision, 1) - 0.5 * precision * np.eye(D)
    return form
