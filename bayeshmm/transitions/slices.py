"""Slice sampling: exact updates of scalars whose density is known up to a constant."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Heights = Callable[[Tensor], Tensor]


def slice_sample(
    log_density: Heights, point: Tensor, generator: torch.Generator, width: float = 1.0
) -> Tensor:
    """Update every coordinate in turn; the law with this density is left as it is.

    Stepping out and shrinkage (Neal, 2003, Annals of Statistics 31, figures 3 and 5). The elements
    of a batch are so many independent chains, advanced together.

    Parameters
    ----------
    log_density
        Log density up to a constant, (..., P) -> (...), of each element of the batch by itself. Its
        tails must fall: it is followed outwards until it does.
    point
        Where the chains stand, (..., P), float64.
    generator
        Source of randomness.
    width
        Guess of how wide the slices are. A poor one costs evaluations, not exactness.

    Returns
    -------
    Tensor
        Where they stand next, (..., P).

    Raises
    ------
    ValueError
        If the log density is not finite where a chain stands.
    """
    height = log_density(point)
    if not height.isfinite().all():
        raise ValueError("the log density is not finite where a chain stands.")
    for p in range(point.shape[-1]):
        before, here, after = point[..., :p], point[..., p], point[..., p + 1 :]

        def height_at(value: Tensor, before: Tensor = before, after: Tensor = after) -> Tensor:
            return log_density(torch.cat([before, value[..., None], after], -1))

        level = height + torch.log1p(-_uniform(here, generator))
        low = here - width * _uniform(here, generator)
        high = _stepped_out(height_at, low + width, level, width)
        low = _stepped_out(height_at, low, level, -width)
        new, outside = here, torch.ones_like(here, dtype=torch.bool)
        while outside.any():
            new = torch.where(outside, low + _uniform(here, generator) * (high - low), new)
            height = height_at(new)
            outside = ~(height >= level)
            low = torch.where(outside & (new < here), new, low)
            high = torch.where(outside & (new >= here), new, high)
        point = torch.cat([before, new[..., None], after], -1)
    return point


def _stepped_out(height_at: Heights, end: Tensor, level: Tensor, step: float) -> Tensor:
    """Move the ends of intervals, by steps, until they lie outside the slices."""
    inside = height_at(end) > level
    while inside.any():
        end = torch.where(inside, end + step, end)
        inside = height_at(end) > level
    return end


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, dtype=like.dtype, generator=generator)
