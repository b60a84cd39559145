"""Priors of rows: what the exits, or the jumps, of all states have in common, and is learned."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayeshmm.transitions.chain import (
    expected_log,
    log_normaliser,
    negative_entropy,
)

Hyper = dict[str, Tensor]
"""Hyper-parameters by name: values of them, or what describes their variational law."""


class RowsPrior(Protocol):
    """Prior of K rows of C cells each, Dirichlet given hyper-parameters that are learned.

    Values and laws of hyper-parameters are dictionaries, so that the exits' and the jumps' can be
    held together; each prior reads its own entries, named after what they are. Their tensors have
    axes (..., n, *own): any leading axes, then that of the runs or groups, of size 1.
    """

    def start(self, batch: tuple[int, ...]) -> Hyper:
        """Variational law of the hyper-parameters before anything is known."""
        ...

    def expected(self, law: Hyper) -> Tensor:
        """Dirichlet parameters of the rows under a variational law, (..., n, K, C); 0 = no cell."""
        ...

    def updated(self, law: Hyper, posterior: Tensor) -> Hyper:
        """Variational law given that of the rows, ``posterior = expected(law) + counts``."""
        ...

    def divergence(self, law: Hyper, posterior: Tensor) -> Tensor:
        """Kullback-Leibler divergence of rows and hyper-parameters from the prior, (..., 1).

        `law` is ``updated(..., posterior)``. With hyper-parameters that are point estimates, it
        holds minus their log prior density instead, and what comes of it is no bound.
        """
        ...

    def draw(self, generator: torch.Generator, batch: tuple[int, ...]) -> Hyper:
        """Values of the hyper-parameters from their prior."""
        ...

    def draw_from(self, law: Hyper, generator: torch.Generator) -> Hyper:
        """Values from a variational law; where that is a point estimate, the point."""
        ...

    def cells(self, values: Hyper) -> Tensor:
        """Dirichlet parameters of the rows given values, (..., n, K, C)."""
        ...

    def sample(
        self, values: Hyper, log_rows: Tensor, counts: Tensor, generator: torch.Generator
    ) -> Hyper:
        """Gibbs step of the hyper-parameters.

        Either given the rows, whose logarithms are `log_rows` (..., n, K, C), or given the `counts`
        (..., n, K, C) with the rows integrated out: the rows are drawn anew afterwards.
        """
        ...

    def relabelled(self, hyper: Hyper, order: Tensor) -> Hyper:
        """Values or a law with ``order[i]`` as state i."""
        ...

    def model(self) -> Tensor:
        """Pyro sites of hyper-parameters and rows; the rows, (..., n, K, C) or (..., K, C)."""
        ...

    def site_values(self, values: Hyper, rows: Tensor) -> Hyper:
        """Values of the sites of `model` at draws of hyper-parameters and rows.

        A batch axis of the plate of runs, of size 1, is dropped.
        """
        ...


class GridRows(ABC):
    """Rows whose one or two hyper-parameters are on a grid: nothing is approximated but that.

    Attributes
    ----------
    name
        Of the rows: ``exit`` or ``jump``.
    names
        Of the hyper-parameters.
    points
        Their values at the points of the grid, (points, len(names)).
    log_prior
        Log probability of every point.
    active
        Which cells exist, bool (K, C).
    grid
        Dirichlet parameters of the rows at every point, (points, K, C).
    """

    name: str
    names: tuple[str, ...]
    points: Tensor
    log_prior: Tensor
    active: Tensor
    grid: Tensor

    def _prepare(self) -> None:
        """Compute what depends on the grid alone: log density = constant + log rows @ powers."""
        self.grid = self._cells(self.points)
        self._constant = self.log_prior + log_normaliser(self.grid).sum(-1)
        self._powers = torch.where(self.active, self.grid - 1.0, 0.0).flatten(1).T.contiguous()

    @abstractmethod
    def _cells(self, points: Tensor) -> Tensor:
        """Dirichlet parameters (..., K, C) at hyper-parameters (..., H)."""

    @abstractmethod
    def _sites(self) -> list[Tensor]:
        """Pyro sites of the hyper-parameters, which are continuous there."""

    @property
    def _weights(self) -> str:
        return f"{self.name}_log_weights"

    def start(self, batch: tuple[int, ...]) -> Hyper:
        """The prior of the grid's points."""
        return {self._weights: self.log_prior.expand(*batch, -1)}

    def expected(self, law: Hyper) -> Tensor:
        """Dirichlet parameters of the rows at their expectations."""
        weights = law[self._weights].exp()
        return (weights @ self.grid.flatten(1)).unflatten(-1, tuple(self.active.shape))

    def updated(self, law: Hyper, posterior: Tensor) -> Hyper:
        """Law of the point on the grid."""
        return {self._weights: self._given(expected_log(posterior))}

    def divergence(self, law: Hyper, posterior: Tensor) -> Tensor:
        """Kullback-Leibler divergence from the prior, exactly."""
        # The log of the ratio of this law to the density of hyper-parameters and rows is the same
        # at every point of the grid.
        rows = self._log_rows(expected_log(posterior)) @ self._powers[:, 0]
        first = law[self._weights][..., 0] - self._constant[0] - rows
        return first + negative_entropy(posterior).sum(-1)

    def draw(self, generator: torch.Generator, batch: tuple[int, ...]) -> Hyper:
        """A point of the grid."""
        return self.draw_from(self.start(batch), generator)

    def draw_from(self, law: Hyper, generator: torch.Generator) -> Hyper:
        """A point of the grid."""
        weights = law[self._weights].exp()
        flat = weights.reshape(-1, weights.shape[-1])
        index = torch.multinomial(flat, 1, generator=generator).reshape(weights.shape[:-1])
        return dict(zip(self.names, self.points[index].unbind(-1), strict=True))

    def cells(self, values: Hyper) -> Tensor:
        """Dirichlet parameters of the rows."""
        return self._cells(torch.stack([values[name] for name in self.names], -1))

    def sample(
        self, values: Hyper, log_rows: Tensor, counts: Tensor, generator: torch.Generator
    ) -> Hyper:
        """A point of the grid given the rows."""
        return self.draw_from({self._weights: self._given(log_rows)}, generator)

    def relabelled(self, hyper: Hyper, order: Tensor) -> Hyper:
        """All states are alike: the same."""
        own = {self._weights, *self.names}
        return {name: part for name, part in hyper.items() if name in own}

    def model(self) -> Tensor:
        """Sites of the hyper-parameters and of the rows that have a choice."""
        kinds = self._kinds()
        if not kinds:
            return self.active.to(torch.float64)
        values = torch.stack(self._sites(), -1)
        cells = self._cells(values)
        rows = self.active.to(torch.float64).expand(cells.shape)
        for site, where in kinds.items():
            index = where.nonzero()[:, 0]
            allowed = self.active[index].nonzero()[:, 1].reshape(len(index), -1)
            parameters = cells[..., index[:, None], allowed]
            drawn = pyro.sample(site, dist.Dirichlet(parameters).to_event(1))
            # not in place, which Pyro's inspection of what depends on what would not see
            rows = rows.expand(*drawn.shape[:-2], *rows.shape[-2:]).flatten(-2)
            place = (index[:, None] * self.active.shape[1] + allowed).flatten()
            rows = rows.index_copy(-1, place, drawn.flatten(-2)).unflatten(-1, self.active.shape)
        return rows

    def site_values(self, values: Hyper, rows: Tensor) -> Hyper:
        """Values of those sites."""
        kinds = self._kinds()
        sites = {name: values[name][..., 0] for name in self.names} if kinds else {}
        for site, where in kinds.items():
            index = where.nonzero()[:, 0]
            allowed = self.active[index].nonzero()[:, 1].reshape(len(index), -1)
            sites[site] = rows[..., 0, index[:, None], allowed]
        return sites

    def _kinds(self) -> dict[str, Tensor]:
        """Sites of the rows, by name: rows with as many cells, two at least, share one, bool (K,).

        Structures in which the number of cells varies have a site for each, named after it.
        """
        sizes = self.active.sum(-1)
        kinds = [size for size in sizes.unique().tolist() if size > 1]
        if len(kinds) == 1:
            return {self.name: sizes == kinds[0]}
        return {f"{self.name}_{size}": sizes == size for size in kinds}

    def log_density(self, log_rows: Tensor) -> Tensor:
        """Log density of rows with logarithms (..., K, C), hyper-parameters summed out, (...)."""
        return self._joint(log_rows).logsumexp(-1)

    def _log_rows(self, log_rows: Tensor) -> Tensor:
        return torch.where(self.active, log_rows, 0.0).flatten(-2)

    def _given(self, log_rows: Tensor) -> Tensor:
        """Log probabilities of the points given (expected) logarithms of the rows."""
        return normalised(self._joint(log_rows))

    def _joint(self, log_rows: Tensor) -> Tensor:
        return self._constant + self._log_rows(log_rows) @ self._powers


class ExitRows(GridRows):
    """Exits ``e_k ~ Beta(rho mu, rho (1 - mu))``: alike, as much as is learned, in all states.

    With an expected dwell of M rows and a minimum of d: ``mu ~ Beta(2, 2(M-d))``,
    ``rho ~ Gamma(2, 2/(M-d+1))``.

    Parameters
    ----------
    left
        Whether each state can be left, bool (K,).
    excess
        M - d, rows.
    """

    name = "exit"
    names = ("exit_mean", "exit_concentration")

    def __init__(self, left: Tensor, excess: float) -> None:
        self.excess = excess
        self.active = torch.stack([left, torch.ones_like(left)], -1)
        mean = log_grid(0.01 / (excess + 1.0), 0.98, 40)
        size = log_grid((excess + 1.0) / 50.0, (excess + 1.0) * 8.0, 40)
        mu, rho = (part.flatten() for part in torch.meshgrid(mean, size, indexing="ij"))
        self.points = torch.stack([mu, rho], -1)
        self.log_prior = normalised(
            2.0 * mu.log() + (2.0 * excess - 1.0) * torch.log1p(-mu)
            + 2.0 * rho.log() - 2.0 / (excess + 1.0) * rho
        )  # fmt: skip
        self._prepare()

    def _cells(self, points: Tensor) -> Tensor:
        mu, rho = points.unbind(-1)
        return torch.stack([rho * mu, rho * (1.0 - mu)], -1)[..., None, :] * self.active

    def _sites(self) -> list[Tensor]:
        two, excess = torch.tensor(2.0, dtype=torch.float64), self.excess
        mean = pyro.sample("exit_mean", dist.Beta(two, 2.0 * excess))
        return [mean, pyro.sample("exit_concentration", dist.Gamma(two, 2.0 / (excess + 1.0)))]


class JumpRows(GridRows):
    """Jumps ``J_k ~ Dirichlet(alpha / m_k)`` over the m_k states that may follow state k.

    ``alpha ~ Gamma(2, 2/(K-1))``.

    Parameters
    ----------
    allowed
        Which of the other states, in order, may follow each state, bool (K, K-1).
    """

    name = "jump"
    names = ("jump_concentration",)

    def __init__(self, allowed: Tensor) -> None:
        self.active = allowed
        self._others = float(max(allowed.shape[-1], 1))
        self._share = allowed / allowed.sum(-1, keepdim=True).clamp_min(1)
        alpha = log_grid(self._others / 100.0, self._others * 8.0, 60)
        self.points = alpha[:, None]
        self.log_prior = normalised(2.0 * alpha.log() - 2.0 / self._others * alpha)
        self._prepare()

    def _cells(self, points: Tensor) -> Tensor:
        return points[..., None] * self._share

    def _sites(self) -> list[Tensor]:
        two = torch.tensor(2.0, dtype=torch.float64)
        return [pyro.sample("jump_concentration", dist.Gamma(two, 2.0 / self._others))]


def log_grid(low: float, high: float, points: int) -> Tensor:
    """Points at equal ratios."""
    return torch.linspace(math.log(low), math.log(high), points, dtype=torch.float64).exp()


def normalised(log_weights: Tensor) -> Tensor:
    """Log probabilities in proportion to weights."""
    return log_weights - log_weights.logsumexp(-1, keepdim=True)
