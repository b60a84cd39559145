"""pomegranate: `DenseHMM`, batched over runs in torch.

It keeps its backward messages in float32 whatever it is given, and its EM works in float32 only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from pomegranate.distributions import Normal
from pomegranate.hmm import DenseHMM
from torch import Tensor

from benchmarks.speed.contenders import Answer, Contender
from benchmarks.speed.problem import Problem
from benchmarks.speed.works import POMEGRANATE, Work


def contenders(problem: Problem) -> Iterator[Contender]:
    """Messages in float64 where it allows that, and an iteration of EM in float32."""
    hmm = dense(problem, torch.float64)
    rows = torch.from_numpy(problem.log_likelihood)

    def log_marginal() -> Tensor:
        return hmm.forward(emissions=rows)[:, -1].logsumexp(-1)

    def filtered() -> Tensor:
        return hmm.forward(emissions=rows).softmax(-1)

    def viterbi() -> Tensor:
        return hmm.viterbi(emissions=rows)

    def counts() -> tuple[Tensor, Tensor, Tensor]:
        transitions, log_states, _, _, density = hmm.forward_backward(emissions=rows)
        return density, log_states.exp(), transitions

    def counted() -> Answer:
        density, states, transitions = counts()
        return {
            "log density": density.numpy(),
            "states": states.numpy(),
            "transitions": transitions.sum(0).numpy(),
        }

    yield Contender(
        POMEGRANATE,
        Work.LOG_MARGINAL,
        log_marginal,
        lambda: {"log density": log_marginal().numpy()},
    )
    yield Contender(POMEGRANATE, Work.COUNTS, counts, counted, single_precision=True)
    yield Contender(
        POMEGRANATE,
        Work.VITERBI,
        viterbi,
        lambda: {"path": problem.path_log_density(viterbi().numpy())},
    )
    yield Contender(POMEGRANATE, Work.FILTER, filtered, lambda: {"states": filtered().numpy()})
    yield iteration(problem)


def dense(problem: Problem, dtype: torch.dtype) -> DenseHMM:
    """The problem's own law; runs may end anywhere."""

    def tensor(x: np.ndarray) -> Tensor:
        return torch.as_tensor(x, dtype=dtype)

    laws = zip(problem.means, problem.covariances, strict=True)
    return DenseHMM(
        [Normal(tensor(mean), tensor(covariance)) for mean, covariance in laws],
        edges=tensor(problem.transition),
        starts=tensor(problem.initial),
        ends=tensor(np.ones(problem.size.states)),
    )


def iteration(problem: Problem) -> Contender:
    """``summarize`` and ``from_summaries``, of which its ``fit`` consists."""
    data = torch.as_tensor(problem.values, dtype=torch.float32)
    hmm = dense(problem, torch.float32)

    def iterate(hmm: DenseHMM) -> Tensor:
        density = hmm.summarize(data)
        hmm.from_summaries()
        return density

    def answer() -> Answer:
        fresh = dense(problem, torch.float32)
        total = np.asarray(float(iterate(fresh).sum()))
        return {
            "total": total,
            "means": np.stack([law.means.numpy() for law in fresh.distributions]),
        }

    return Contender(POMEGRANATE, Work.SWEEP, lambda: iterate(hmm), answer, single_precision=True)
