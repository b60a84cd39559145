"""The parameters of a chain: their values, their conjugate laws and what these are updated with.

A visit to state k lasts its minimum dwell d and then ends with probability ``e_k`` at each further
row, E[dwell] = d - 1 + 1/e_k; on leaving, the next state is drawn from ``J_k`` (no diagonal). The
transition matrix of the rows after the dwell has ``A_kk = 1 - e_k``, ``A_kl = e_k J_kl``.

Exits ``(e_k, 1 - e_k)`` and jumps ``J_k`` are both *rows*: each state has a point of a simplex. A
cell that a structure forbids (a jump backwards of a left-to-right chain, the exit of a state that
is never left) has the Dirichlet parameter 0, and probability 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TINY = torch.finfo(torch.float64).tiny
"""Smallest normal number."""


class Counts(NamedTuple):
    """Expected or sampled first states (..., n, K), stays and jumps (..., n, K, K).

    The diagonal of `transition` counts stays in rows past the dwell, the rest counts jumps.
    """

    initial: Tensor
    transition: Tensor

    @property
    def exits(self) -> Tensor:
        """Exits and stays of every state, (..., n, K, 2)."""
        stay = self.transition.diagonal(dim1=-2, dim2=-1)
        return torch.stack([self.jumps.sum(-1), stay], -1)

    @property
    def jumps(self) -> Tensor:
        """Jumps of every state to the other states in order, (..., n, K, K-1)."""
        return off_diagonal(self.transition)


class Chain(NamedTuple):
    """Values of the parameters: initial law (..., n, K) and transition matrix (..., n, K, K)."""

    initial: Tensor
    transition: Tensor

    @property
    def log(self) -> Chain:
        """Their logarithms; -inf, without a gradient, for what cannot happen."""
        return Chain(log_or_never(self.initial), log_or_never(self.transition))

    @property
    def log_exits(self) -> Tensor:
        """``log e_k, log (1 - e_k)``, (..., n, K, 2); what underflows is a tiny number."""
        exits = off_diagonal(self.transition).sum(-1)
        stay = self.transition.diagonal(dim1=-2, dim2=-1)
        return torch.stack([exits, stay], -1).clamp_min(TINY).log()

    @property
    def log_jumps(self) -> Tensor:
        """``log J_kl``, (..., n, K, K-1); what underflows is a tiny number."""
        return off_diagonal(self.transition).clamp_min(TINY).log() - self.log_exits[..., :1]


class ChainPosterior(NamedTuple):
    """Independent Dirichlet laws of exits, jumps and the initial state.

    Attributes
    ----------
    exit
        Parameters of ``(e_k, 1 - e_k)``, (..., n, K, 2).
    jump
        Parameters of ``J_k`` over the other states in order, (..., n, K, K-1).
    initial
        Parameters, (..., n, K).
    """

    exit: Tensor
    jump: Tensor
    initial: Tensor

    @property
    def expected_log(self) -> Chain:
        """Expected logarithms of the initial law and of the transition matrix."""
        exits = expected_log(self.exit)
        jumps = exits[..., :1] + expected_log(self.jump)
        return Chain(expected_log(self.initial), matrix(exits[..., 1], jumps))

    @property
    def mean(self) -> Chain:
        """Posterior means."""
        initial, exits, jumps = (mean(part) for part in (self.initial, self.exit, self.jump))
        return Chain(initial, matrix(exits[..., 1], exits[..., :1] * jumps))

    def updated(self, counts: Counts) -> ChainPosterior:
        """Posterior after `counts`, this law being the prior."""
        return ChainPosterior(
            self.exit + counts.exits, self.jump + counts.jumps, self.initial + counts.initial
        )

    def relabelled(self, order: Tensor) -> ChainPosterior:
        """The same law with ``order[i]`` as state i."""
        return ChainPosterior(
            self.exit[..., order, :],
            relabelled_jumps(self.jump, order),
            self.initial[..., order],
        )

    def divergence(self, other: ChainPosterior) -> Tensor:
        """Kullback-Leibler divergence from `other`, (..., n)."""
        total = dirichlet_divergence(self.initial, other.initial)
        total = total + dirichlet_divergence(self.exit, other.exit).sum(-1)
        return total + dirichlet_divergence(self.jump, other.jump).sum(-1)

    def sample(self, generator: torch.Generator, size: tuple[int, ...] = ()) -> Chain:
        """Draw parameters, with leading axes `size`."""
        initial, exits, jumps = (
            sample_dirichlet(part.expand(*size, *part.shape), generator)
            for part in (self.initial, self.exit, self.jump)
        )
        return chain_of(initial, exits, jumps)


def chain_of(initial: Tensor, exits: Tensor, jumps: Tensor) -> Chain:
    """The chain with an initial law (..., K), exits (..., K, 2) and jumps (..., K, K-1)."""
    return Chain(initial, matrix(exits[..., 1], exits[..., :1] * jumps))


def off_diagonal(square: Tensor) -> Tensor:
    """(..., K, K) without its diagonal, (..., K, K-1)."""
    K = square.shape[-1]
    return (
        square.flatten(-2)[..., 1:]
        .unflatten(-1, (K - 1, K + 1))[..., :-1]
        .reshape(*square.shape[:-1], K - 1)
    )


def matrix(diagonal: Tensor, others: Tensor) -> Tensor:
    """Put a diagonal (..., K) and the other entries (..., K, K-1) together."""
    K = diagonal.shape[-1]
    between = others.reshape(*diagonal.shape[:-1], K - 1, K)
    first = torch.cat([diagonal[..., :-1, None], between], -1).flatten(-2)
    return torch.cat([first, diagonal[..., -1:]], -1).unflatten(-1, (K, K))


def relabelled_jumps(jumps: Tensor, order: Tensor) -> Tensor:
    """Rows (..., K, K-1) over the other states, with ``order[i]`` as state i."""
    blank = torch.zeros(jumps.shape[:-1], dtype=jumps.dtype)
    return off_diagonal(matrix(blank, jumps)[..., order, :][..., order])


def log_or_never(probabilities: Tensor) -> Tensor:
    """Logarithms; -inf, without a gradient, of exact zeros."""
    positive = probabilities > 0
    return torch.where(positive, torch.where(positive, probabilities, 1.0).log(), -torch.inf)


def log_normaliser(parameters: Tensor) -> Tensor:
    """Log normaliser of Dirichlet laws, (..., C) -> (...)."""
    total = parameters.sum(-1)
    return torch.lgamma(torch.where(total > 0, total, 1.0)) - _lgamma(parameters).sum(-1)


def expected_log(parameters: Tensor) -> Tensor:
    """Expected logarithms under Dirichlet laws, (..., C); -inf where the parameter is 0."""
    active = parameters > 0
    safe = torch.where(active, parameters, 1.0)
    total = torch.where(active, parameters.sum(-1, keepdim=True), 1.0)
    return torch.where(active, torch.digamma(safe) - torch.digamma(total), -torch.inf)


def mean(parameters: Tensor) -> Tensor:
    """Means of Dirichlet laws, (..., C); zeros where all parameters are 0."""
    total = parameters.sum(-1, keepdim=True)
    return parameters / torch.where(total > 0, total, 1.0)


def log_density(parameters: Tensor, log_rows: Tensor) -> Tensor:
    """Log density of Dirichlet laws at rows with (expected) logarithms `log_rows`, (...).

    Cells whose parameter is 0 have no part in it.
    """
    powers = torch.where(parameters > 0, (parameters - 1.0) * log_rows, 0.0)
    return log_normaliser(parameters) + powers.sum(-1)


def negative_entropy(parameters: Tensor) -> Tensor:
    """Expected log density of Dirichlet laws, (..., C) -> (...); 0 with a single cell."""
    return log_density(parameters, expected_log(parameters))


def dirichlet_divergence(parameters: Tensor, prior: Tensor) -> Tensor:
    """KL divergence between Dirichlet laws, (..., C) -> (...)."""
    return negative_entropy(parameters) - log_density(prior, expected_log(parameters))


def sample_dirichlet(parameters: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from Dirichlet laws; what underflows is lifted to the smallest normal number."""
    draws = torch._standard_gamma(parameters.contiguous(), generator=generator)
    draws = draws.clamp_min(TINY) * (parameters > 0)
    total = draws.sum(-1, keepdim=True)
    return draws / torch.where(total > 0, total, 1.0)


def _lgamma(parameters: Tensor) -> Tensor:
    """Log Gamma; 0 where the parameter is 0 and the cell does not exist."""
    active = parameters > 0
    return torch.where(active, torch.lgamma(torch.where(active, parameters, 1.0)), 0.0)
