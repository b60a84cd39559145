"""Our library: its messages, a sweep of its variational inference, and its model in Pyro."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.infer import Trace_ELBO
from torch import Tensor

import bayeshmm as bh
from bayeshmm import messages
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.hmm import run_log_densities
from bayeshmm.inference.variational import CoordinateAscent
from bayeshmm.transitions import Chain
from benchmarks.speed.contenders import Answer, Contender
from benchmarks.speed.contenders.svi import observed_density, svi_step
from benchmarks.speed.problem import Problem
from benchmarks.speed.works import OURS, Work

DWELLS = (1, 10, 50)
"""Minimum dwells that messages are timed with, rows."""


PLAIN = bh.Gaussian(covariance="full", noise="normal", run_effects=False)
"""The law of rows that all libraries have."""


def contenders(problem: Problem) -> Iterator[Contender]:
    """All works, those on messages with every dwell."""
    for dwell in DWELLS:
        yield from message_contenders(problem, dwell)
    yield sweep(problem)
    yield step(problem)


def message_contenders(problem: Problem, dwell: int) -> Iterator[Contender]:
    """The public functions of `bayeshmm.messages`."""
    inputs = chain(problem)
    leaves = [x.clone().requires_grad_() for x in inputs]
    N, T, _ = problem.log_likelihood.shape

    def log_marginal() -> Tensor:
        return messages.log_marginal(*inputs, minimum_dwell=dwell)

    def gradient() -> tuple[Tensor, ...]:
        total = messages.log_marginal(*leaves, minimum_dwell=dwell).sum()
        return torch.autograd.grad(total, leaves)

    def counts() -> messages.ExpectedCounts:
        return messages.expected_counts(*inputs, minimum_dwell=dwell)

    def viterbi() -> messages.Viterbi:
        return messages.viterbi(*inputs, minimum_dwell=dwell)

    def filtered() -> Tensor:
        return messages.filter(*inputs, minimum_dwell=dwell)

    def sampler(draws: int) -> Callable[[], Tensor]:
        generator = torch.Generator().manual_seed(0)
        uniforms = torch.rand(draws, N, T, dtype=torch.float64, generator=generator)
        return lambda: messages.sample_paths(*inputs, uniforms=uniforms, minimum_dwell=dwell)

    def counted() -> Answer:
        result = counts()
        return {
            "log density": result.log_marginal.numpy(),
            "states": result.state.numpy(),
            "transitions": result.transition.sum(0).numpy(),
        }

    def entropy() -> Answer:
        """Of the paths: log marginal less expected joint log density, mean over runs."""
        result = counts()
        moments = (result.initial, result.transition, result.state)
        joint = sum((count * x).sum() for count, x in zip(moments, inputs, strict=True))
        return {"surprise": np.asarray(float(result.log_marginal.sum() - joint) / N)}

    works: tuple[tuple[Work, Callable[[], object], Callable[[], Answer]], ...] = (
        (Work.LOG_MARGINAL, log_marginal, lambda: {"log density": log_marginal().numpy()}),
        (Work.GRADIENT, gradient, lambda: {"gradient": gradient()[2].numpy()}),
        (Work.COUNTS, counts, counted),
        (Work.VITERBI, viterbi, lambda: {"path": viterbi().log_probability.numpy()}),
        (Work.FILTER, filtered, lambda: {"states": filtered().numpy()}),
        (Work.PATH, sampler(1), entropy),
        (Work.PATHS, sampler(11), entropy),
    )
    for work, run, answer in works:
        yield Contender(OURS, work, run, answer, dwell)


def chain(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Log initial law (K,), log transition matrix (K, K) and log-likelihood (N, T, K)."""
    return (
        torch.from_numpy(np.log(problem.initial)),
        torch.from_numpy(np.log(problem.transition)),
        torch.from_numpy(problem.log_likelihood),
    )


def model(problem: Problem) -> bh.HMM:
    """Levels with a full covariance, the model that the other libraries have."""
    return bh.HMM(problem.size.states, PLAIN, minimum_dwell=1)


def sweep(problem: Problem) -> Contender:
    """One sweep of conjugate variational inference, one start, everything included."""
    hmm = model(problem)
    _, data = hmm.encode(problem.runs)
    states = messages.smooth(*chain(problem))[None]
    ascent = CoordinateAscent(hmm.prior(problem.runs), data, states)

    def answer() -> Answer:
        """Rows and runs under the problem's own law, and the levels after a sweep."""
        law = problem_law(problem)
        initial, transition, _ = chain(problem)
        values = Chain(initial.exp()[None], transition.exp()[None])
        rows, _ = log_likelihood(data.design, law)
        _, T, D = problem.values.shape
        ascent.sweep()
        weights = ascent.expectation.states[0].reshape(-1, problem.size.states).numpy()
        levels = weights.T @ problem.values.reshape(-1, D) / weights.sum(0)[:, None]
        return {
            "log density": (densities := run_log_densities(data, law, values, 1).numpy()),
            "total": densities.sum(),
            "rows": (rows + data.log_jacobian[:, None, None] / T).numpy(),
            "means": levels,
        }

    return Contender(OURS, Work.SWEEP, ascent.sweep, answer)


def step(problem: Problem) -> Contender:
    """One step of Pyro's SVI on `bh.HMM`, which is a Pyro model."""
    hmm, values = model(problem), sites(problem)
    return Contender(
        OURS,
        Work.STEP,
        svi_step(hmm, Trace_ELBO(), values, problem.runs),
        lambda: {"total": observed_density(hmm, values, problem.runs)},
    )


def problem_law(problem: Problem) -> Law:
    """The Gaussian law of every phase as recursive regressions, in the model's units.

    A covariance L S L' with unit lower triangular L makes each metric, given those before it,
    a regression with coefficients in L^-1 and variance S.
    """
    scaling = model(problem).encode(problem.runs)[0].scaling
    order = scaling.order
    unit = scaling.sd[order]
    level = (problem.means[:, order] - scaling.mean[order]) / unit
    covariance = problem.covariances[:, order][:, :, order] / np.outer(unit, unit)
    factor = np.linalg.cholesky(covariance)
    deviation = factor.diagonal(axis1=1, axis2=2)
    whitener: NDArray[np.float64] = np.linalg.inv(factor / deviation[:, None, :])
    intercept = (whitener @ level[..., None]).squeeze(-1)
    contrasts = -np.tril(whitener, -1)[:, :, :-1]
    coefficients = torch.from_numpy(np.concatenate([intercept[..., None], contrasts], -1))
    variance = torch.from_numpy(deviation**2)
    return Law(coefficients[None], 1.0 / variance[None], variance.log()[None])


def sites(problem: Problem) -> dict[str, Tensor]:
    """The problem's own law as values of the sites of `bh.HMM`."""
    law = problem_law(problem)
    initial, transition, _ = chain(problem)
    values = Chain(initial.exp(), transition.exp())
    before = torch.ones(law.coefficients.shape[-2:], dtype=torch.bool).tril(-1)[:, :-1]
    return {
        "initial": initial.exp(),
        "exit": values.log_exits.exp(),
        "jump": values.log_jumps.exp(),
        "variance": law.log_variance[0].exp(),
        "coefficient": law.coefficients[0, ..., :1],
        "contrast": law.coefficients[0, ..., 1:][:, before],
    }
