"""Rows of several conditions, drawn to a base that they share as far as they are alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bayeshmm.transitions.chain import (
    expected_log,
    log_density,
    log_normaliser,
    negative_entropy,
    relabelled_jumps,
    sample_dirichlet,
)
from bayeshmm.transitions.rows import Hyper

WIDEST = 18.0
"""Largest logit of a pooling either way; the prior probability beyond it is 2e-4."""

LATTICE, FINEST = 40, 0.01
"""Number of values that a Gibbs step weighs, and the smallest gap between them (largest: 1)."""

STEPS = torch.tensor([0.0, 2.0, -2.0, 0.5, -0.5, 0.1, -0.1, 0.02, -0.02], dtype=torch.float64)
"""Moves that a point estimate tries; the first is to stay."""


class PooledRows(ABC):
    """Rows of G conditions, Dirichlet around a base: `bayeshmm.transitions.rows.RowsPrior`.

    The base of each state's row is Dirichlet; its `pooling` w, which is Beta(1/2, 1/2), says that
    it is worth ``v = (1 + w) / (1 - w)`` visits: the conditions' rows are Dirichlet around it, and
    the cells in which visits end have v in all. The variational law is a point estimate of both:
    the mode in log ratios of the base and the logit of w.

    Attributes
    ----------
    name
        Of the rows: ``exit`` or ``jump``.
    concentration
        Dirichlet parameters of the base, (K, C).
    active
        Which cells exist, bool (K, C).
    leaving
        Which cells are those of visits that end, bool (C,).
    groups
        G.
    """

    name: str
    concentration: Tensor
    active: Tensor
    leaving: Tensor
    groups: int

    @abstractmethod
    def _relabelled_rows(self, rows: Tensor, order: Tensor) -> Tensor:
        """Rows (..., K, C) with ``order[i]`` as state i."""

    @property
    def names(self) -> tuple[str, str]:
        """Names of base (..., 1, K, C) and pooling (..., 1, K)."""
        return f"{self.name}_base", f"{self.name}_pooling"

    def start(self, batch: tuple[int, ...]) -> Hyper:
        """The prior's mean of the base, conditions pooled halfway."""
        base = self.concentration / self.concentration.sum(-1, keepdim=True)
        pooling = torch.full((*batch, len(base)), 0.5, dtype=torch.float64)
        return self._named(base.expand(*batch, *base.shape), pooling)

    def expected(self, law: Hyper) -> Tensor:
        """Dirichlet parameters of the rows at the point."""
        return self.cells(law)

    def updated(self, law: Hyper, posterior: Tensor) -> Hyper:
        """A point that is no worse: the best of some moves along each coordinate in turn."""
        log_rows, point = expected_log(posterior), self._point(law)
        for p in range(point.shape[-1]):
            moves = _moved(point, p, STEPS.reshape(-1, *[1] * (point.ndim - 1)))
            point = _taken(moves, self._log_joint(moves, log_rows).argmax(0))
        return self._named(*self._base_and_pooling(point))

    def divergence(self, law: Hyper, posterior: Tensor) -> Tensor:
        """Divergence of the rows from their prior at the point, less the point's log density."""
        rows = negative_entropy(posterior).sum(-2, keepdim=True)
        return (rows - self._log_joint(self._point(law), expected_log(posterior))).sum(-1)

    def draw(self, generator: torch.Generator, batch: tuple[int, ...]) -> Hyper:
        """Bases and poolings from their prior."""
        shape = self.concentration.shape
        base = sample_dirichlet(self.concentration.expand(*batch, *shape), generator)
        half = torch.full((*batch, shape[0], 2), 0.5, dtype=torch.float64)
        return self._named(base, sample_dirichlet(half, generator)[..., 0])

    def draw_from(self, law: Hyper, generator: torch.Generator) -> Hyper:
        """The point."""
        return self._named(*(law[name] for name in self.names))

    def cells(self, values: Hyper) -> Tensor:
        """Dirichlet parameters of the rows, (..., G, K, C)."""
        cells = self._cells(*(values[name] for name in self.names))
        return cells.expand(*cells.shape[:-3], self.groups, *cells.shape[-2:])

    def sample(
        self, values: Hyper, log_rows: Tensor, counts: Tensor, generator: torch.Generator
    ) -> Hyper:
        """Update each coordinate in turn, given the counts, the rows integrated out.

        The new value is one of a lattice's, in proportion to its density. The lattice is as fine
        as chance has it, and the old value is any of its points with the same probability, as the
        new one would be: the step is reversible.
        """
        if not self._chosen:  # the counts say nothing
            return self.draw(generator, (*counts.shape[:-3], 1))
        point = self._point(values)
        for p in range(point.shape[-1]):
            gap, place = torch.rand(2, *point.shape[:-1], generator=generator, dtype=point.dtype)
            lattice = torch.arange(LATTICE).reshape(-1, *[1] * (point.ndim - 1))
            moves = _moved(point, p, FINEST**gap * (lattice - (LATTICE * place).floor()))
            evidence = _log_evidence(self._cells(*self._base_and_pooling(moves)), counts)
            log = evidence.sum(-2, keepdim=True) + self._log_prior(moves)
            noise = torch.rand(log.shape, generator=generator, dtype=log.dtype).log().neg().log()
            point = _taken(moves, (log - noise).argmax(0))  # Gumbel's trick: drawn by log density
        return self._named(*self._base_and_pooling(point))

    def relabelled(self, hyper: Hyper, order: Tensor) -> Hyper:
        """Bases and poolings with ``order[i]`` as state i."""
        base, pooling = (hyper[name] for name in self.names)
        return self._named(self._relabelled_rows(base, order), pooling[..., order])

    def model(self) -> Tensor:
        """Sites of base, pooling and the rows of all groups, if there is a choice."""
        if not self._chosen:
            return self.active.to(torch.float64)
        half = torch.full(self.active.shape[:1], 0.5, dtype=torch.float64)
        base = pyro.sample(self.names[0], dist.Dirichlet(self.concentration).to_event(1))
        pooling = pyro.sample(self.names[1], dist.Beta(half, half).to_event(1))
        cells = self._cells(base, pooling)[..., None, :, :]
        cells = cells.expand(*cells.shape[:-3], self.groups, *cells.shape[-2:])
        rows: Tensor = pyro.sample(self.name, dist.Dirichlet(cells).to_event(2))
        return rows if rows.ndim == 3 else rows.squeeze(-4)

    def site_values(self, values: Hyper, rows: Tensor) -> Hyper:
        """Values of those sites."""
        if not self._chosen:
            return {}
        base, pooling = (values[name] for name in self.names)
        return {**self._named(base[..., 0, :, :], pooling[..., 0, :]), self.name: rows}

    @property
    def _chosen(self) -> bool:
        """Whether rows have more than one cell."""
        return bool((self.active.sum(-1) > 1).any())

    def _named(self, base: Tensor, pooling: Tensor) -> Hyper:
        return dict(zip(self.names, (base, pooling), strict=True))

    def _cells(self, base: Tensor, pooling: Tensor) -> Tensor:
        """Dirichlet parameters of a condition's rows, (..., K, C)."""
        visits = 1.0 + 2.0 * _logit(pooling).exp()
        size = visits / (base * self.leaving).sum(-1)
        cells = (size[..., None] * base).clamp_min(torch.finfo(base.dtype).tiny)
        return torch.where(self.active, cells, 0.0)

    def _point(self, values: Hyper) -> Tensor:
        """Log ratios of the base to its last cell, then the logit of the pooling, (..., K, P)."""
        base, pooling = (values[name] for name in self.names)
        log_base = base.clamp_min(torch.finfo(base.dtype).tiny).log()
        ratios = log_base[..., :-1] - log_base[..., -1:]
        return torch.cat([ratios, _logit(pooling)[..., None]], -1)

    def _log_base(self, point: Tensor) -> Tensor:
        last = torch.zeros_like(point[..., :1])
        ratios = torch.cat([point[..., :-1], last], -1)[..., : self.active.shape[-1]]
        return ratios.log_softmax(-1)

    def _base_and_pooling(self, point: Tensor) -> tuple[Tensor, Tensor]:
        return self._log_base(point).exp(), point[..., -1].sigmoid()

    def _log_prior(self, point: Tensor) -> Tensor:
        """Log prior density of points, with respect to their coordinates, (..., K)."""
        base = log_normaliser(self.concentration)
        base = base + (self.concentration * self._log_base(point)).sum(-1)
        logit = point[..., -1]
        pooling = 0.5 * (logsigmoid(logit) + logsigmoid(-logit)) - math.log(math.pi)
        return torch.where(logit.abs() <= WIDEST, base + pooling, -torch.inf)

    def _log_joint(self, point: Tensor, log_rows: Tensor) -> Tensor:
        """Log density of points and of rows with (expected) logarithms, (..., 1, K)."""
        cells = self._cells(*self._base_and_pooling(point))
        return log_density(cells, log_rows).sum(-2, keepdim=True) + self._log_prior(point)


class PooledExits(PooledRows):
    """Exits and stays, ``M - d = excess`` rows."""

    name = "exit"

    def __init__(self, states: int, excess: float, groups: int) -> None:
        self.groups = groups
        self.concentration = torch.tensor([2.0, 2.0 * excess], dtype=torch.float64).expand(
            states, 2
        )
        self.active = torch.tensor([states > 1, True]).expand(states, 2)
        self.leaving = torch.tensor([True, False])

    def _relabelled_rows(self, rows: Tensor, order: Tensor) -> Tensor:
        return rows[..., order, :]


class PooledJumps(PooledRows):
    """Jumps to the other states."""

    name = "jump"

    def __init__(self, states: int, groups: int) -> None:
        self.groups = groups
        self.concentration = torch.ones(states, states - 1, dtype=torch.float64)
        self.active = self.concentration > 0
        self.leaving = torch.ones(states - 1, dtype=torch.bool)

    def _relabelled_rows(self, rows: Tensor, order: Tensor) -> Tensor:
        return relabelled_jumps(rows, order)


def _logit(probability: Tensor) -> Tensor:
    return torch.logit(probability).clamp(-WIDEST, WIDEST)


def _log_evidence(cells: Tensor, counts: Tensor) -> Tensor:
    """Log probability of counts, in a given order, under Dirichlet cells: (..., C) -> (...)."""
    each = torch.where(cells > 0, _log_rising(cells, counts), 0.0).sum(-1)
    return each - _log_rising(cells.sum(-1), counts.sum(-1))


def _log_rising(base: Tensor, count: Tensor) -> Tensor:
    """``log Gamma(a + n) - log Gamma(a)``, by Stirling's series where both are large and alike."""
    series = (base + count - 0.5) * torch.log1p(count / base) + count * (base.log() - 1.0)
    series = series + (1.0 / (base + count) - 1.0 / base) / 12.0
    return torch.where(base > 1e4, series, torch.lgamma(base + count) - torch.lgamma(base))


def _moved(point: Tensor, p: int, steps: Tensor) -> Tensor:
    """Points (..., P) with coordinate p moved by M steps (M, ...): (M, ..., P)."""
    moves = point.expand(len(steps), *point.shape).clone()
    moves[..., p] += steps
    return moves


def _taken(moves: Tensor, index: Tensor) -> Tensor:
    """One of M points (M, ..., P) for each element of the batch, by index (...)."""
    return moves.gather(0, index[None, ..., None].expand(1, *moves.shape[1:]))[0]
