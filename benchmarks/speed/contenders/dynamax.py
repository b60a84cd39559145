"""dynamax: its messages and its EM, mapped over the runs and compiled, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.hidden_markov_model import GaussianHMM
from dynamax.hidden_markov_model.inference import (
    hmm_filter,
    hmm_posterior_mode,
    hmm_posterior_sample,
    hmm_smoother,
)

from benchmarks.speed.contenders import Answer, Contender, drawn
from benchmarks.speed.problem import Problem
from benchmarks.speed.works import DYNAMAX, Work

jax.config.update("jax_enable_x64", True)

OVER_RUNS = (None, None, 0)
"""The law of the chain is shared, the rows are each run's own."""


def contenders(problem: Problem) -> Iterator[Contender]:
    """All works but the step of SVI, which it does not have."""
    law = jnp.asarray(problem.initial), jnp.asarray(problem.transition)
    rows = jnp.asarray(problem.log_likelihood)
    N = problem.size.runs

    def ready(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        """A call that waits for its result, compiled at its first use."""
        compiled = jax.jit(function)
        return lambda: jax.block_until_ready(compiled(*arguments))

    def log_marginals(*inputs: Any) -> Any:
        return jax.vmap(hmm_filter, OVER_RUNS)(*inputs).marginal_loglik

    def counts(initial: Any, transition: Any, rows: Any) -> Any:
        posterior = hmm_smoother(initial, transition, rows)
        return posterior.marginal_loglik, posterior.smoothed_probs, posterior.trans_probs

    def filtered(*inputs: Any) -> Any:
        return hmm_filter(*inputs).filtered_probs

    def sampler(draws: int) -> Callable[[], Any]:
        over_runs = jax.vmap(hmm_posterior_sample, (0, *OVER_RUNS))
        over_draws = jax.vmap(over_runs, (0, None, None, None))
        keys = jax.random.split(jax.random.PRNGKey(0), (draws, N))
        return ready(over_draws, keys, *law, rows)

    log_marginal = ready(log_marginals, *law, rows)
    gradient = ready(
        jax.grad(lambda *inputs: log_marginals(*inputs).sum(), argnums=(0, 1, 2)), *law, rows
    )
    count = ready(jax.vmap(counts, OVER_RUNS), *law, rows)
    mode = ready(jax.vmap(hmm_posterior_mode, OVER_RUNS), *law, rows)
    causal = ready(jax.vmap(filtered, OVER_RUNS), *law, rows)

    def counted() -> Answer:
        density, states, transitions = map(np.asarray, count())
        return {"log density": density, "states": states, "transitions": transitions.sum(0)}

    def surprise() -> Answer:
        density, paths = map(np.asarray, sampler(drawn(N))())
        joint = np.mean([problem.path_log_density(draw) for draw in paths])
        return {"surprise": np.asarray(density.mean() - joint)}

    works: tuple[tuple[Work, Callable[[], object], Callable[[], Answer]], ...] = (
        (Work.LOG_MARGINAL, log_marginal, lambda: {"log density": np.asarray(log_marginal())}),
        (Work.GRADIENT, gradient, lambda: {"gradient": np.asarray(gradient()[2])}),
        (Work.COUNTS, count, counted),
        (
            Work.VITERBI,
            mode,
            lambda: {"path": problem.path_log_density(np.asarray(mode()))},
        ),
        (Work.FILTER, causal, lambda: {"states": np.asarray(causal())}),
        (Work.PATH, sampler(1), surprise),
        (Work.PATHS, sampler(11), surprise),
    )
    for work, run, answer in works:
        yield Contender(DYNAMAX, work, run, answer)
    yield iteration(problem)


def iteration(problem: Problem) -> Contender:
    """An iteration of ``GaussianHMM.fit_em``, from the problem's own law, compiled alone."""
    hmm = GaussianHMM(problem.size.states, problem.size.metrics)
    start, properties = hmm.initialize(
        initial_probs=jnp.asarray(problem.initial),
        transition_matrix=jnp.asarray(problem.transition),
        emission_means=jnp.asarray(problem.means),
        emission_covariances=jnp.asarray(problem.covariances),
    )
    optimiser = hmm.initialize_m_step_state(start, properties)
    data = jnp.asarray(problem.values)

    @jax.jit
    def iterate(parameters: Any, optimiser: Any, data: Any) -> Any:
        statistics, densities = jax.vmap(partial(hmm.e_step, parameters))(data)
        objective = hmm.log_prior(parameters) + densities.sum()
        parameters, optimiser = hmm.m_step(parameters, properties, statistics, optimiser)
        return parameters, optimiser, objective, densities

    def run() -> Any:
        return jax.block_until_ready(iterate(start, optimiser, data))

    def answer() -> Answer:
        parameters, _, _, densities = run()
        return {
            "log density": np.asarray(densities),
            "means": np.asarray(parameters.emissions.means),
        }

    return Contender(DYNAMAX, Work.SWEEP, run, answer)
