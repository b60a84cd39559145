"""Pyro's own ways: `DiscreteHMM`, and enumeration of the states with `pyro.markov`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import Tensor
from torch.distributions.constraints import Constraint

from benchmarks.speed.contenders import Answer, Contender
from benchmarks.speed.contenders.svi import observed_density, svi_step
from benchmarks.speed.problem import Problem
from benchmarks.speed.works import DISCRETE_HMM, ENUMERATION, Work

ENUMERATED_ROWS = 300
"""Longest runs that are enumerated: a step takes seconds beyond."""


def contenders(problem: Problem) -> Iterator[Contender]:
    """Log marginals and their gradient, and a step of SVI in both ways."""
    initial = torch.from_numpy(np.log(problem.initial))
    transition = torch.from_numpy(np.log(problem.transition))
    rows = torch.from_numpy(problem.log_likelihood)
    leaves = [x.clone().requires_grad_() for x in (initial, transition, rows)]

    def log_marginal(initial: Tensor, transition: Tensor, rows: Tensor) -> Tensor:
        return hidden_markov(initial, transition, Given(rows), rows.shape[1]).log_prob(rows[..., 0])

    def gradient() -> tuple[Tensor, ...]:
        return torch.autograd.grad(log_marginal(*leaves).sum(), leaves)

    yield Contender(
        DISCRETE_HMM,
        Work.LOG_MARGINAL,
        lambda: log_marginal(initial, transition, rows),
        lambda: {"log density": log_marginal(initial, transition, rows).numpy()},
    )
    yield Contender(
        DISCRETE_HMM, Work.GRADIENT, gradient, lambda: {"gradient": gradient()[2].numpy()}
    )
    values, data = sites(problem), torch.from_numpy(problem.values)
    discrete = partial(discrete_model, states=problem.size.states)
    yield Contender(
        DISCRETE_HMM,
        Work.STEP,
        svi_step(discrete, Trace_ELBO(), values, data),
        lambda: {"total": observed_density(discrete, values, data)},
    )
    if problem.size.rows > ENUMERATED_ROWS:
        return
    enumerated = partial(enumerated_model, states=problem.size.states)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)

    def density() -> Answer:
        """From the loss of the model with known parameters, whose log prior is taken off."""
        known = poutine.condition(enumerated, values)
        prior = poutine.trace(poutine.block(known, hide_fn=lambda site: site["name"] not in values))
        total = -elbo.loss(known, lambda data: None, data)
        return {"total": np.asarray(total - float(prior.get_trace(data).log_prob_sum()))}

    yield Contender(
        ENUMERATION,
        Work.STEP,
        svi_step(
            enumerated,
            elbo,
            values,
            data,
            poutine.block(enumerated, hide_fn=lambda site: site["name"].startswith("z_")),
        ),
        density,
    )


class Given(dist.TorchDistribution):
    """Log densities that are known already, (..., T, K), in the place of an observation's law."""

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        super().__init__(rows.shape, (), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """What was given, whatever the value."""
        return self.rows


def hidden_markov(
    initial: Tensor, transition: Tensor, rows: dist.TorchDistribution, length: int
) -> dist.DiscreteHMM:
    """The law of `length` rows.

    `DiscreteHMM` moves once before the first row. Its first matrix therefore has the initial law
    in every row, whatever state it comes from.
    """
    K = len(initial)
    matrices = torch.cat([initial.expand(1, K, K), transition.expand(length - 1, K, K)])
    return dist.DiscreteHMM(torch.zeros_like(initial), matrices, rows, validate_args=False)


def parameters(states: int, metrics: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sites of the law of the chain and of a multivariate normal for every state."""
    one = torch.ones((), dtype=torch.float64)
    flat, zero = one.expand(states), torch.zeros(states, metrics, dtype=torch.float64)
    initial = pyro.sample("initial", dist.Dirichlet(flat))
    transition = pyro.sample("transition", dist.Dirichlet(flat.expand(states, -1)).to_event(1))
    mean = pyro.sample("mean", dist.Normal(zero, 1.0).to_event(2))
    scale = pyro.sample("scale", dist.LogNormal(zero, 1.0).to_event(2))
    correlation = pyro.sample(
        "correlation", dist.LKJCholesky(metrics, one).expand([states]).to_event(1)
    )
    return initial, transition, mean, scale[..., None] * correlation


def discrete_model(data: Tensor, states: int) -> None:
    """Data (N, T, D) with the states summed out by `DiscreteHMM`."""
    N, T, D = data.shape
    initial, transition, mean, factor = parameters(states, D)
    rows = dist.MultivariateNormal(mean, scale_tril=factor)
    with pyro.plate("runs", N):
        pyro.sample("y", hidden_markov(initial.log(), transition.log(), rows, T), obs=data)


def enumerated_model(data: Tensor, states: int) -> None:
    """Data (N, T, D) with a site for every state, all runs side by side."""
    N, T, D = data.shape
    initial, transition, mean, factor = parameters(states, D)
    with pyro.plate("runs", N):
        law = initial
        for t in pyro.markov(range(T)):
            z = pyro.sample(f"z_{t}", dist.Categorical(law), infer={"enumerate": "parallel"})
            row = dist.MultivariateNormal(mean[z], scale_tril=factor[z])
            pyro.sample(f"y_{t}", row, obs=data[:, t])
            law = transition[z]


def sites(problem: Problem) -> dict[str, Tensor]:
    """The problem's own law as values of the sites of `parameters`."""
    covariance = torch.from_numpy(problem.covariances)
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    return {
        "initial": torch.from_numpy(problem.initial),
        "transition": torch.from_numpy(problem.transition),
        "mean": torch.from_numpy(problem.means),
        "scale": scale,
        "correlation": torch.linalg.cholesky(covariance) / scale[..., None],
    }
