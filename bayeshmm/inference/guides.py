"""Guides: normal laws in unconstrained space, in blocks, that start at a known law."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from bayeshmm.inference.unconstrained import Unconstrained

Blocks = Sequence[Tensor]
"""Which coordinates vary together: places (B, b) of B blocks of b coordinates each, for every b.

Every coordinate is in one block.
"""

SHRINKAGE = 0.1
"""Weight of the variances alone in the covariance that a guide starts from."""

SMALLEST = 1e-3
"""Smallest standard deviation, in unconstrained space, that a guide starts from."""


def full_rank(size: int) -> Blocks:
    """All coordinates together."""
    return [torch.arange(size)[None]]


def mean_field(size: int) -> Blocks:
    """All coordinates apart."""
    return [torch.arange(size)[:, None]]


class Affine(NamedTuple):
    """The map from standard normal variables to a normal law in blocks.

    Attributes
    ----------
    location
        (size,).
    blocks
        Places of the blocks.
    roots
        Their lower Cholesky factors, (B, b, b) each.
    """

    location: Tensor
    blocks: Blocks
    roots: Sequence[Tensor]

    @classmethod
    def of(cls, points: Tensor, blocks: Blocks) -> Affine:
        """Mean and shrunken covariances of points (S, size)."""
        location, roots = points.mean(0), []
        for places in blocks:
            part = (points - location)[:, places]
            covariance = torch.einsum("sbi,sbj->bij", part, part) / (len(points) - 1)
            variance = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(SMALLEST**2)
            covariance = (1.0 - SHRINKAGE) * covariance + SHRINKAGE * torch.diag_embed(variance)
            roots.append(torch.linalg.cholesky(covariance))
        return cls(location, blocks, roots)

    @classmethod
    def curved(cls, location: Tensor, precision: Tensor, blocks: Blocks) -> Affine:
        """A mode (size,), and the curvature there (size, size)."""
        roots = []
        for places in blocks:
            part = precision[places[:, :, None], places[:, None, :]]
            roots.append(torch.linalg.cholesky(torch.linalg.inv(part)))
        return cls(location, blocks, roots)

    @property
    def log_volume(self) -> Tensor:
        """Log determinant of the map."""
        roots = (root.diagonal(dim1=-2, dim2=-1).log().sum() for root in self.roots)
        return torch.stack(list(roots)).sum()

    def forward(self, noise: Tensor) -> Tensor:
        """Points at standard normal variables, both (..., size)."""
        return self.location + self._mapped(noise, torch.matmul)

    def inverse(self, points: Tensor) -> Tensor:
        """Standard normal variables at points, both (..., size)."""

        def solved(root: Tensor, columns: Tensor) -> Tensor:
            return torch.linalg.solve_triangular(root, columns, upper=False)

        return self._mapped(points - self.location, solved)

    def within(self, inner: Affine) -> Affine:
        """The map that applies `inner`, in the same blocks, first."""
        roots = [outer @ root for outer, root in zip(self.roots, inner.roots, strict=True)]
        return Affine(self.forward(inner.location), self.blocks, roots)

    def _mapped(self, points: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Apply a function of factors (B, b, b) and columns (B, b, S) block by block."""
        flat = points.reshape(-1, points.shape[-1]).T
        parts = [
            function(root, flat[places]).flatten(0, 1)
            for places, root in zip(self.blocks, self.roots, strict=True)
        ]
        order = torch.cat([places.flatten() for places in self.blocks])
        return torch.cat(parts)[torch.argsort(order)].T.reshape(points.shape)

    def log_density(self, points: Tensor) -> Tensor:
        """Log density of the normal law at points (..., size)."""
        noise = self.inverse(points)
        size = points.shape[-1]
        return -0.5 * (noise.square().sum(-1) + size * math.log(2.0 * math.pi)) - self.log_volume


class Fixed(dist.TorchDistribution):
    """A normal law drawn with gradients to its parameters, and scored as if they were fixed.

    The gradient of the evidence lower bound has then no noise where the posterior is the law
    itself ("sticking the landing").

    References
    ----------
    Roeder, Wu and Duvenaud (2017), "Sticking the landing: simple, lower-variance gradient
    estimators for variational inference".
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, law: Affine, batch_shape: Sequence[int] = ()) -> None:
        self.law = law
        self.scored = Affine(
            law.location.detach(), law.blocks, [root.detach() for root in law.roots]
        )
        super().__init__(torch.Size(batch_shape), law.location.shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Fixed:
        """The same law for a larger batch."""
        return Fixed(self.law, batch_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Points, with torch's global random numbers."""
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        return self.law.forward(torch.randn(shape, dtype=self.law.location.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, no gradient of which goes to the parameters directly."""
        return self.scored.log_density(value)


class Guide(torch.nn.Module):
    """A normal guide for a Pyro model, relative to the law that it starts at.

    Its parameters are 0 at the start and in units of the law there. An optimiser such as Adam moves
    every number by about its learning rate, noise or not, which off the diagonal would add up to
    sqrt(b) times that in a block of b coordinates: these are in units of 1 / sqrt(b).

    Parameters
    ----------
    space
        Of the model.
    start
        Location and scales, and the blocks that stay.
    """

    def __init__(self, space: Unconstrained, start: Affine) -> None:
        super().__init__()
        self.space, self.start = space, start
        self.shift = torch.nn.Parameter(torch.zeros_like(start.location))
        self.stretch = torch.nn.ParameterList(
            [torch.zeros_like(root[..., 0]) for root in start.roots]
        )
        self.lean = torch.nn.ParameterList([torch.zeros_like(root) for root in start.roots])

    def law(self) -> Affine:
        """The law of points."""
        roots = [
            torch.diag_embed(stretch.exp()) + lean.tril(-1) / math.sqrt(lean.shape[-1])
            for stretch, lean in zip(self.stretch, self.lean, strict=True)
        ]
        return self.start.within(Affine(self.shift, self.start.blocks, roots))

    def forward(self, **settings: Any) -> None:
        """The guide, as Pyro calls it: with what it calls the model with."""
        point = pyro.sample("point", Fixed(self.law()), infer={"is_auxiliary": True})
        volume = torch.zeros(point.shape[:-1], dtype=point.dtype)
        for name, value, change in self.space.constrained(point):
            site = self.space.sites[name]
            batch = point.shape[: max(0, point.ndim - 1 - site.batch)]
            value = value.reshape(*batch, *site.shape)
            pyro.sample(name, dist.Delta(value, event_dim=len(site.shape) - site.batch))
            volume = volume - change
        pyro.factor("volume", volume, has_rsample=True)
