"""Transitions between phases: how long a phase lasts beyond its dwell, and where it leads.

A visit to state k lasts its minimum dwell d and then ends with probability ``e_k`` at each further
row, E[dwell] = d - 1 + 1/e_k; on leaving, the next state is drawn from ``J_k`` (no diagonal). The
transition matrix of the rows after the dwell has ``A_kk = 1 - e_k``, ``A_kl = e_k J_kl``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayeshmm.nested import batched


class Counts(NamedTuple):
    """Expected or sampled first states (..., n, K), stays and jumps (..., n, K, K).

    The diagonal of `transition` counts stays in rows past the dwell, the rest counts jumps.
    """

    initial: Tensor
    transition: Tensor


class Chain(NamedTuple):
    """Values of the parameters: initial law (..., n, K) and transition matrix (..., n, K, K)."""

    initial: Tensor
    transition: Tensor

    @property
    def log(self) -> Chain:
        """Their logarithms."""
        return Chain(self.initial.log(), self.transition.log())


class ChainPosterior(NamedTuple):
    """Independent Beta and Dirichlet laws of exits, jumps and the initial state.

    Attributes
    ----------
    exit
        Beta parameters of ``e_k`` (exit, stay), (..., n, K, 2).
    jump
        Dirichlet parameters of ``J_k`` over the other states in order, (..., n, K, K-1).
    initial
        Dirichlet parameters, (..., n, K).
    """

    exit: Tensor
    jump: Tensor
    initial: Tensor

    @property
    def expected_log(self) -> Chain:
        """Expected logarithms of the initial law and of the transition matrix."""
        exits = _expected_log(self.exit)
        if self.exit.shape[-2] == 1:
            exits = torch.zeros_like(exits)
        jumps = exits[..., :1] + _expected_log(self.jump)
        return Chain(_expected_log(self.initial), _matrix(exits[..., 1], jumps))

    @property
    def mean(self) -> Chain:
        """Posterior means."""
        exits = self.exit / self.exit.sum(-1, keepdim=True)
        if self.exit.shape[-2] == 1:
            exits = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(exits.shape)
        jumps = exits[..., :1] * self.jump / self.jump.sum(-1, keepdim=True)
        return Chain(
            self.initial / self.initial.sum(-1, keepdim=True), _matrix(exits[..., 1], jumps)
        )

    def updated(self, counts: Counts) -> ChainPosterior:
        """Posterior after `counts`, this law being the prior."""
        stay = counts.transition.diagonal(dim1=-2, dim2=-1)
        jumps = _off_diagonal(counts.transition)
        return ChainPosterior(
            self.exit + torch.stack([jumps.sum(-1), stay], -1),
            self.jump + jumps,
            self.initial + counts.initial,
        )

    def relabelled(self, order: Tensor) -> ChainPosterior:
        """The same law with ``order[i]`` as state i."""
        blank = torch.zeros(self.jump.shape[:-1], dtype=torch.float64)
        jumps = _matrix(blank, self.jump)[..., order, :][..., order]
        return ChainPosterior(
            self.exit[..., order, :], _off_diagonal(jumps), self.initial[..., order]
        )

    def divergence(self, other: ChainPosterior) -> Tensor:
        """Kullback-Leibler divergence from `other`, (..., n)."""
        total = _dirichlet_divergence(self.initial, other.initial)
        if self.exit.shape[-2] == 1:
            return total
        total = total + _dirichlet_divergence(self.exit, other.exit).sum(-1)
        return total + _dirichlet_divergence(self.jump, other.jump).sum(-1)

    def sample(self, generator: torch.Generator, size: tuple[int, ...] = ()) -> Chain:
        """Draw parameters, with leading axes `size`."""
        initial, exits, jumps = (
            _sample_dirichlet(part.expand(*size, *part.shape), generator)
            for part in (self.initial, self.exit, self.jump)
        )
        if self.exit.shape[-2] == 1:
            exits = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(exits.shape)
        return Chain(initial, _matrix(exits[..., 1], exits[..., :1] * jumps))


class Grid(NamedTuple):
    """Discrete law of the hyper-parameters on a fixed grid, as log probabilities.

    Attributes
    ----------
    persistence
        Of (mean exit probability, its concentration), (..., n, points).
    concentration
        Of the concentration of the jumps, (..., n, points).
    """

    persistence: Tensor
    concentration: Tensor


@dataclass(frozen=True)
class Dirichlet:
    """Transitions with learned persistence and concentration.

    ``e_k ~ Beta(rho mu, rho (1 - mu))``, ``J_k ~ Dirichlet(alpha / (K-1))``, with ``mu`` (mean exit
    probability), ``rho`` (how alike the states are in it) and ``alpha`` learned. With an expected
    dwell of M rows and a minimum of d: ``mu ~ Beta(2, 2(M-d))``, ``rho ~ Gamma(2, 2/(M-d+1))``,
    ``alpha ~ Gamma(2, 2/(K-1))``. The initial state is Dirichlet(1).

    Parameters
    ----------
    expected_dwell
        Prior guess of how long a visit to a phase lasts, in training steps. By default the
        median run divided by the number of states, and at least twice the minimum dwell.
    """

    expected_dwell: float | None = None

    def __post_init__(self) -> None:
        dwell = self.expected_dwell
        if dwell is not None and not 0 < dwell < math.inf:
            raise ValueError(f"expected_dwell must be a positive number of steps, not {dwell}.")

    def prior(self, states: int, minimum_dwell: int, expected_rows: float) -> TransitionPrior:
        """Prior for `states` states, with dwell times in rows."""
        return TransitionPrior(states, minimum_dwell, max(expected_rows, minimum_dwell + 1.0))


class TransitionPrior:
    """The prior of `Dirichlet` in rows, with its hyper-parameters on a grid.

    Parameters
    ----------
    states
        K.
    minimum_dwell
        d, rows.
    expected_dwell
        M, rows, larger than d.
    """

    def __init__(self, states: int, minimum_dwell: int, expected_dwell: float) -> None:
        self.states = states
        self.minimum_dwell = minimum_dwell
        self.expected_dwell = expected_dwell
        excess = expected_dwell - minimum_dwell
        mean = _log_grid(0.01 / (excess + 1.0), 0.98, 40)
        size = _log_grid((excess + 1.0) / 50.0, (excess + 1.0) * 8.0, 40)
        mu, rho = (part.flatten() for part in torch.meshgrid(mean, size, indexing="ij"))
        self.exit_grid = torch.stack([rho * mu, rho * (1.0 - mu)], -1)
        self.log_exit_prior = _normalised(
            2.0 * mu.log() + (2.0 * excess - 1.0) * torch.log1p(-mu)
            + 2.0 * rho.log() - 2.0 / (excess + 1.0) * rho
        )  # fmt: skip
        others = max(states - 1, 1)
        self.jump_grid = _log_grid(others / 100.0, others * 8.0, 60)
        self.log_jump_prior = _normalised(
            2.0 * self.jump_grid.log() - 2.0 / others * self.jump_grid
        )
        # log density of K states' parameters at every point: constant + expected logs @ powers
        cells = self.jump_grid[:, None].expand(-1, others) / others
        self._exit_constant = self.log_exit_prior + states * _log_normaliser(self.exit_grid)
        self._jump_constant = self.log_jump_prior + states * _log_normaliser(cells)
        self._exit_powers = (self.exit_grid - 1.0).T
        self._jump_powers = (cells[:, 0] - 1.0)[None]

    def grid(self, batch: tuple[int, ...]) -> Grid:
        """Prior law of the hyper-parameters, with leading axes `batch`."""
        return Grid(self.log_exit_prior.expand(*batch, -1), self.log_jump_prior.expand(*batch, -1))

    def prior_law(self, grid: Grid) -> ChainPosterior:
        """Beta and Dirichlet laws at the expected parameters under `grid`."""
        K = self.states
        exits = grid.persistence.exp() @ self.exit_grid
        jumps = (grid.concentration.exp() @ self.jump_grid) / max(K - 1, 1)
        batch = exits.shape[:-1]
        return ChainPosterior(
            exits[..., None, :].expand(*batch, K, 2),
            jumps[..., None, None].expand(*batch, K, K - 1),
            torch.ones(*batch, K, dtype=torch.float64),
        )

    def posterior_grid(self, log_exits: Tensor, log_jumps: Tensor) -> Grid:
        """Law of the hyper-parameters given (expected) log parameters.

        Parameters
        ----------
        log_exits
            ``log e_k, log (1 - e_k)``, (..., n, K, 2).
        log_jumps
            ``log J_kl``, (..., n, K, K-1).
        """
        if self.states == 1:
            return self.grid(tuple(log_exits.shape[:-2]))
        persistence = self._exit_constant + log_exits.sum(-2) @ self._exit_powers
        total = log_jumps.sum((-1, -2))[..., None]
        concentration = self._jump_constant + total @ self._jump_powers
        return Grid(_normalised(persistence), _normalised(concentration))

    def update(self, grid: Grid, counts: Counts) -> tuple[ChainPosterior, Grid]:
        """One coordinate step: the chain's law given the grid, then the grid given that law."""
        posterior = self.prior_law(grid).updated(counts)
        return posterior, self.posterior_grid(
            _expected_log(posterior.exit), _expected_log(posterior.jump)
        )

    def divergence(self, posterior: ChainPosterior, grid: Grid) -> Tensor:
        """Kullback-Leibler divergence from the prior, hyper-parameters included, (..., n).

        Parameters
        ----------
        posterior
            Of the chain.
        grid
            What `update` makes of it. The log of the ratio of this law to the density of all
            parameters is then the same at every point of the grid, less its normaliser.
        """
        total = _negative_entropy(posterior.initial) - math.lgamma(self.states)
        if self.states == 1:
            return total
        exits = _expected_log(posterior.exit).sum(-2) @ self._exit_powers[:, 0]
        jumps = _expected_log(posterior.jump).sum((-1, -2)) * self._jump_powers[0, 0]
        total = total + grid.persistence[..., 0] - self._exit_constant[0] - exits
        total = total + grid.concentration[..., 0] - self._jump_constant[0] - jumps
        total = total + _negative_entropy(posterior.exit).sum(-1)
        return total + _negative_entropy(posterior.jump).sum(-1)

    def sample(self, chain: Chain, counts: Counts, generator: torch.Generator) -> Chain:
        """Gibbs step: hyper-parameters given `chain`, then the chain given `counts`."""
        log_exits, log_jumps = chain_logs(chain)
        grid = self.posterior_grid(log_exits, log_jumps)
        point = self.grid_point(grid, generator)
        return self.prior_law(point).updated(counts).sample(generator)

    def grid_point(self, grid: Grid, generator: torch.Generator) -> Grid:
        """Draw one point of the grid, as a degenerate law."""
        drawn = []
        for log in grid:
            flat = log.exp().reshape(-1, log.shape[-1])
            index = torch.multinomial(flat, 1, generator=generator)
            drawn.append(
                torch.full_like(flat, -torch.inf).scatter(1, index, 0.0).reshape(log.shape)
            )
        return Grid(*drawn)

    def model(self) -> Chain:
        """Pyro sites of the prior; the hyper-parameters are continuous here.

        Returns
        -------
        Chain
            Initial law (..., 1, K) and transition matrix (..., 1, K, K): the last batch axis is
            that of the plate of runs.
        """
        K, excess = self.states, self.expected_dwell - self.minimum_dwell
        one = torch.ones((), dtype=torch.float64)
        initial = pyro.sample("initial", dist.Dirichlet(torch.ones(K, dtype=torch.float64)))
        if K == 1:
            return Chain(batched(initial, 1), one.expand(1, 1, 1))
        mu = pyro.sample("exit_mean", dist.Beta(2.0 * one, 2.0 * excess))
        rho = pyro.sample("exit_concentration", dist.Gamma(2.0 * one, 2.0 / (excess + 1.0)))
        alpha = pyro.sample("jump_concentration", dist.Gamma(2.0 * one, 2.0 / (K - 1)))
        parameters = torch.stack([rho * mu, rho * (1.0 - mu)], -1)
        exits = pyro.sample(
            "exit", dist.Dirichlet(parameters[..., None, :].expand(*mu.shape, K, 2)).to_event(1)
        )
        jumps = torch.ones(K, K - 1, dtype=torch.float64)
        if K > 2:
            cell = (alpha / (K - 1))[..., None, None].expand(*alpha.shape, K, K - 1)
            jumps = pyro.sample("jump", dist.Dirichlet(cell).to_event(1))
        matrix = _matrix(exits[..., 1], exits[..., :1] * jumps)
        pyro.deterministic("transition", matrix, event_dim=2)
        return Chain(batched(initial, 1), batched(matrix, 2))


def chain_logs(chain: Chain) -> tuple[Tensor, Tensor]:
    """``log (e_k, 1 - e_k)`` (..., n, K, 2) and ``log J`` (..., n, K, K-1) of a chain."""
    jumps = _off_diagonal(chain.transition)
    exits = jumps.sum(-1, keepdim=True)
    stay = chain.transition.diagonal(dim1=-2, dim2=-1)[..., None]
    tiny = torch.finfo(torch.float64).tiny
    log_exits = torch.cat([exits, stay], -1).clamp_min(tiny).log()
    return log_exits, jumps.clamp_min(tiny).log() - log_exits[..., :1]


def _off_diagonal(matrix: Tensor) -> Tensor:
    """(..., K, K) without its diagonal, (..., K, K-1)."""
    K = matrix.shape[-1]
    return (
        matrix.flatten(-2)[..., 1:]
        .unflatten(-1, (K - 1, K + 1))[..., :-1]
        .reshape(*matrix.shape[:-1], K - 1)
    )


def _matrix(diagonal: Tensor, others: Tensor) -> Tensor:
    """Put a diagonal (..., K) and the other entries (..., K, K-1) together."""
    K = diagonal.shape[-1]
    between = others.reshape(*diagonal.shape[:-1], K - 1, K)
    first = torch.cat([diagonal[..., :-1, None], between], -1).flatten(-2)
    return torch.cat([first, diagonal[..., -1:]], -1).unflatten(-1, (K, K))


def _log_grid(low: float, high: float, points: int) -> Tensor:
    return torch.linspace(math.log(low), math.log(high), points, dtype=torch.float64).exp()


def _normalised(log_weights: Tensor) -> Tensor:
    return log_weights - log_weights.logsumexp(-1, keepdim=True)


def _log_normaliser(parameters: Tensor) -> Tensor:
    """Log normaliser of Dirichlet laws, (..., C) -> (...)."""
    return torch.lgamma(parameters.sum(-1)) - torch.lgamma(parameters).sum(-1)


def _expected_log(parameters: Tensor) -> Tensor:
    return torch.digamma(parameters) - torch.digamma(parameters.sum(-1, keepdim=True))


def _negative_entropy(parameters: Tensor) -> Tensor:
    """Expected log density of Dirichlet laws, (..., C) -> (...); 0 with a single cell."""
    log = _expected_log(parameters)
    return _log_normaliser(parameters) + ((parameters - 1.0) * log).sum(-1)


def _dirichlet_divergence(parameters: Tensor, prior: Tensor) -> Tensor:
    """KL divergence between Dirichlet laws, (..., C) -> (...)."""
    log = _expected_log(parameters)
    return _negative_entropy(parameters) - _log_normaliser(prior) - ((prior - 1.0) * log).sum(-1)


def _sample_dirichlet(parameters: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from Dirichlet laws; exact zeros are lifted to the smallest normal number."""
    draws = torch._standard_gamma(parameters.contiguous(), generator=generator)
    draws = draws.clamp_min(torch.finfo(torch.float64).tiny)
    return draws / draws.sum(-1, keepdim=True)
