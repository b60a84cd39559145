"""Modes of any Pyro model, found from draws of its prior, and the curvature there."""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from bayeshmm.inference.unconstrained import Unconstrained, isolated

CANDIDATES = 20
"""Draws of the prior, of which each start is the one with the highest density."""

STEPS = 400
"""Steps of the ascent from each start."""

RATE = 0.1
"""Learning rate of the first steps, in unconstrained space; it falls to a hundredth of this."""

DIFFERENCE = 1e-4
"""Step of the differences of gradients, in unconstrained space."""

FLATTEST, STEEPEST = 1e-2, 1e10
"""Limits of the curvature: where the density is flatter than the first, a scale is a guess."""


def find_modes(
    space: Unconstrained, starts: int, *, seed: int, at_once: int, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """Ascend from several starts, in batches.

    Parameters
    ----------
    space
        Of the model.
    starts
        Number R of starts, each the best of some draws of the prior.
    seed
        Same seed, same modes; global random numbers are left alone.
    at_once
        Points whose densities are computed as one batch.
    progress
        Whether to show a progress bar.

    Returns
    -------
    points
        (R, size).
    log_density
        In unconstrained space, (R,).
    """
    with isolated(seed):
        drawn = prior_points(space, starts * CANDIDATES)
        with torch.no_grad():
            densities = _densities(space, drawn, at_once).unflatten(0, (starts, CANDIDATES))
        best = densities.argmax(1)
        points = drawn.unflatten(0, (starts, CANDIDATES))[torch.arange(starts), best]
        points = points.clone().requires_grad_()
        optimiser = torch.optim.Adam([points], lr=RATE)
        falling = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.01 ** (1.0 / STEPS))
        for _ in tqdm(range(STEPS), desc="modes", disable=not progress, leave=False):
            points.grad = torch.cat(
                [_slope(space, some) for some in points.detach().split(at_once)]
            )
            points.grad.neg_()
            optimiser.step()
            falling.step()
        points = points.detach()
        with torch.no_grad():
            return points, _densities(space, points, at_once)


def prior_points(space: Unconstrained, size: int) -> Tensor:
    """Points (size, space.size) at draws of the prior, with torch's global random numbers."""
    with pyro.plate("points", size, dim=-1 - space.nesting), torch.no_grad():
        trace = poutine.trace(space.model).get_trace()
    values = {
        name: trace.nodes[name]["value"].reshape(size, *site.shape)
        for name, site in space.sites.items()
    }
    return space.points(values)


def curvature(space: Unconstrained, point: Tensor, *, at_once: int) -> Tensor:
    """Minus the Hessian of the log density at a point (size,), made positive definite."""
    size = space.size
    ends = point + DIFFERENCE * torch.cat([torch.eye(size), -torch.eye(size)]).to(point.dtype)
    with isolated(0):
        slopes = torch.cat([_slope(space, some) for some in ends.split(at_once)])
    hessian = (slopes[size:] - slopes[:size]) / (2.0 * DIFFERENCE)
    values, vectors = torch.linalg.eigh(0.5 * (hessian + hessian.T))
    return (vectors * values.clamp(FLATTEST, STEEPEST)) @ vectors.T


def _slope(space: Unconstrained, points: Tensor) -> Tensor:
    """Gradients of the log density at points (S, size)."""
    points = points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(space.log_density(points).sum(), points)
    return slope.nan_to_num(0.0)


def _densities(space: Unconstrained, points: Tensor, at_once: int) -> Tensor:
    """Log densities at points (S, size); -inf where the model cannot tell."""
    try:
        total = torch.cat([space.log_density(some) for some in points.split(at_once)])
    except ValueError:
        if len(points) == 1:
            return torch.full((1,), -torch.inf, dtype=points.dtype)
        total = torch.cat([_densities(space, one[None], 1) for one in points])
    return total.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
