"""Stochastic variational inference of any Pyro model, from a start to weighed draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.infer import Trace_ELBO
from torch import Tensor
from tqdm import tqdm

from bayeshmm.inference.guides import Affine, Guide
from bayeshmm.inference.importance import RELIABLE, smoothed
from bayeshmm.inference.settings import VI
from bayeshmm.inference.unconstrained import Unconstrained, isolated

Array = NDArray[np.float64]

WINDOW, LOSSES = 50, 400
"""Steps whose losses are averaged before they are compared: so many, and with so many particles."""

RATES = (1.0, 0.2, 0.04)
"""Learning rates, in units of the first: each is kept until the loss has stopped falling."""

PATIENCE = 2
"""Windows without a lower loss after which the learning rate falls."""

LARGEST_GRADIENT = 100.0
"""Norm to which a gradient is cut: a single wild particle must not throw the guide off."""


@dataclass(frozen=True)
class Approximation:
    """A normal law in unconstrained space fitted to a posterior.

    Attributes
    ----------
    space
        Of the model.
    law
        The guide that was found.
    losses
        Minus the evidence lower bound, one estimate a step.
    converged
        Whether the loss had stopped falling at the last learning rate.
    """

    space: Unconstrained
    law: Affine
    losses: Array
    converged: bool


def approximate(
    space: Unconstrained,
    start: Affine,
    settings: VI,
    *,
    seed: int,
    progress: bool = False,
    **call: Any,
) -> Approximation:
    """Fit a normal guide to the posterior of a Pyro model.

    The mean loss of every window of steps is compared with the least before. Where it is not lower
    by more than its standard error `PATIENCE` times in a row, the parameters become their average
    over these steps, and the learning rate falls to the next of `RATES`.

    Parameters
    ----------
    space
        Of the model.
    start
        Law and blocks that the guide starts with.
    settings
        Particles, steps and learning rate.
    seed
        Same seed, same result; global random numbers are left alone.
    progress
        Whether to show a progress bar.
    **call
        Keywords for the model, as ``subsample_size``.
    """
    guide = Guide(space, start)
    parameters = list(guide.parameters())
    optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate)
    elbo = Trace_ELBO(
        num_particles=settings.particles,
        vectorize_particles=True,
        max_plate_nesting=space.nesting,
    )
    losses: list[float] = []
    total = [torch.zeros_like(part) for part in parameters]
    least, stage, failures = np.inf, 0, 0
    window = max(WINDOW, LOSSES // settings.particles)
    with (
        isolated(seed),
        tqdm(total=settings.steps, desc="variational", disable=not progress, leave=False) as bar,
    ):
        while len(losses) < settings.steps and stage < len(RATES):
            optimiser.zero_grad()
            loss = elbo.differentiable_loss(space.model, guide, **call)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
            optimiser.step()
            losses.append(loss.item())
            bar.update()
            for part, one in zip(total, parameters, strict=True):
                part += one.detach()
            if len(losses) % window:
                continue
            recent = np.array(losses[-window:])
            bar.set_postfix(loss=f"{recent.mean():.1f}")
            if recent.mean() < least - recent.std() / np.sqrt(window):
                least, failures = recent.mean(), 0
            else:
                failures += 1
            if failures == PATIENCE:
                stage, least, failures = stage + 1, np.inf, 0
                for group in optimiser.param_groups:
                    group["lr"] = settings.learning_rate * RATES[min(stage, len(RATES) - 1)]
                with torch.no_grad():
                    for part, one in zip(total, parameters, strict=True):
                        one.copy_(part / (PATIENCE * window))
            if failures == 0:
                for part in total:
                    part.zero_()
    with torch.no_grad():
        law = guide.law()
    return Approximation(space, law, np.array(losses), stage == len(RATES))


@dataclass(frozen=True)
class Weighed:
    """Draws of an approximation, made draws of the posterior where that can be relied on.

    Attributes
    ----------
    points
        (S, size).
    k_hat
        Shape of the tail of the weights: up to 0.7 `points` are resampled by their weights, above
        they are draws of the approximation.
    elbo
        Evidence lower bound.
    effective_draws
        Independent draws of the posterior that these are worth.
    """

    points: Tensor
    k_hat: float
    elbo: float
    effective_draws: float


MOST, BATCHES = 10_000, 40
"""Draws that k-hat is estimated from, and the batches that this may cost: with 2000 draws it is
known to about 0.1."""


def weighed(approximation: Approximation, draws: int, *, seed: int, at_once: int) -> Weighed:
    """Draw from an approximation, and weigh the draws by the posterior.

    Parameters
    ----------
    approximation
        From `approximate`.
    draws
        Number S of draws.
    seed
        Same seed, same draws.
    at_once
        Draws whose densities are computed as one batch.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), "Yes, but did it work? Evaluating variational
    inference".
    """
    law, space = approximation.law, approximation.space
    generator = torch.Generator().manual_seed(seed)
    size = max(draws, min(MOST, BATCHES * at_once))
    noise = torch.randn(size, space.size, dtype=torch.float64, generator=generator)
    points = law.forward(noise)
    with isolated(seed), torch.no_grad():
        log_joint = torch.cat([space.log_density(some) for some in points.split(at_once)])
    log_ratio = log_joint - law.log_density(points)
    weights, k_hat = smoothed(log_ratio.numpy(), 1.0)
    if k_hat > RELIABLE:
        kept = torch.arange(draws)
    else:  # systematic resampling, then in random order
        places = (np.arange(draws) + float(torch.rand((), generator=generator))) / draws
        kept = torch.from_numpy(np.searchsorted(np.cumsum(weights), places).clip(max=size - 1))
        kept = kept[torch.randperm(draws, generator=generator)]
    effective = 1.0 / (weights**2).sum() if k_hat <= RELIABLE else float("nan")
    return Weighed(points[kept], k_hat, float(log_ratio.mean()), min(effective, float(draws)))
