"""hmmlearn: its C++ messages, called run by run as it calls them, and an iteration of its EM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from hmmlearn import _hmmc
from hmmlearn.hmm import GaussianHMM
from numpy.typing import NDArray

from benchmarks.speed.contenders import Answer, Contender
from benchmarks.speed.problem import Problem
from benchmarks.speed.works import HMMLEARN, HMMLEARN_SCALED, Work

Array = NDArray[np.float64]


def contenders(problem: Problem) -> Iterator[Contender]:
    """In logarithms, which is its default, and in scaled probabilities, which can underflow."""
    law = problem.initial, problem.transition
    runs = list(problem.log_likelihood)

    def log_marginal() -> list[float]:
        return [_hmmc.forward_log(*law, rows)[0] for rows in runs]

    def scaled_log_marginal() -> list[float]:
        return [_hmmc.forward_scaling(*law, np.exp(rows))[0] for rows in runs]

    def filtered() -> list[Array]:
        return [normalised(_hmmc.forward_log(*law, rows)[1]) for rows in runs]

    def viterbi() -> list[tuple[float, Array]]:
        return [_hmmc.viterbi(*law, rows) for rows in runs]

    def counts() -> list[tuple[float, Array, Array]]:
        results = []
        for rows in runs:
            density, ahead = _hmmc.forward_log(*law, rows)
            behind = _hmmc.backward_log(*law, rows)
            moves = np.exp(_hmmc.compute_log_xi_sum(ahead, problem.transition, behind, rows))
            results.append((density, normalised(ahead + behind), moves))
        return results

    def scaled_counts() -> list[tuple[float, Array, Array]]:
        results = []
        for rows in runs:
            likelihood = np.exp(rows)
            density, ahead, scales = _hmmc.forward_scaling(*law, likelihood)
            behind = _hmmc.backward_scaling(*law, likelihood, scales)
            moves = _hmmc.compute_scaling_xi_sum(ahead, problem.transition, behind, likelihood)
            states = ahead * behind
            results.append((density, states / states.sum(1, keepdims=True), moves))
        return results

    def marginal(run: Callable[[], list[float]]) -> Answer:
        return {"log density": np.array(run())}

    def counted(run: Callable[[], list[tuple[float, Array, Array]]]) -> Answer:
        density, states, moves = zip(*run(), strict=True)
        return {
            "log density": np.array(density),
            "states": np.stack(states),
            "transitions": np.sum(moves, axis=0),
        }

    for library, run in ((HMMLEARN, log_marginal), (HMMLEARN_SCALED, scaled_log_marginal)):
        yield Contender(library, Work.LOG_MARGINAL, run, partial(marginal, run))
    for library, collect in ((HMMLEARN, counts), (HMMLEARN_SCALED, scaled_counts)):
        yield Contender(library, Work.COUNTS, collect, partial(counted, collect))
    yield Contender(
        HMMLEARN,
        Work.VITERBI,
        viterbi,
        lambda: {"path": problem.path_log_density(np.stack([path for _, path in viterbi()]))},
    )
    yield Contender(HMMLEARN, Work.FILTER, filtered, lambda: {"states": np.stack(filtered())})
    yield iteration(problem, HMMLEARN, "log")
    yield iteration(problem, HMMLEARN_SCALED, "scaling")


def normalised(log_weights: Array) -> Array:
    """Probabilities along the last axis."""
    weights = np.exp(log_weights - log_weights.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def iteration(problem: Problem, library: str, implementation: str) -> Contender:
    """``GaussianHMM.fit`` with ``n_iter=1``, from the problem's own law."""
    N, T, D = problem.values.shape
    data, lengths = problem.values.reshape(-1, D), [T] * N
    hmm = GaussianHMM(
        problem.size.states, "full", n_iter=1, init_params="", implementation=implementation
    )

    def run() -> GaussianHMM:
        hmm.startprob_, hmm.transmat_ = problem.initial, problem.transition
        hmm.means_, hmm.covars_ = problem.means, problem.covariances
        return hmm.fit(data, lengths)

    def answer() -> Answer:
        return {"total": np.asarray(run().monitor_.history[-1]), "means": hmm.means_}

    return Contender(library, Work.SWEEP, run, answer)
