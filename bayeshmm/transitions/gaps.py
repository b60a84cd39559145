"""A chain over gaps of many base steps: its law, and what happened in between.

With a minimum dwell of 1 the chain rules every base step, seen or not: over a gap of D base steps
the transition matrix is ``A^D``. A longer minimum dwell counts rows. Between two rows there is then
at most one change, after any i - 1 < D stays: a phase is left with probability ``1 - (1 - e)^D``.

Both are one recursion over the halves of a gap, ``D = a + b``. A gap is stayed through with weight
``s^D``, s the diagonal of A, or moved through with ``M_D``; ``M_1`` is A off the diagonal, and::

    M_D = s^a M_b + M_a s^b + M_a M_b        (minimum dwell of 1)
    M_D = s^a M_b + M_a                      (longer: what follows a change is not ruled)

All terms are positive, so nothing cancels, and in logarithms nothing underflows. The same terms,
followed from the whole gap down to its base steps, tell where the moves were: pairs of states at
the ends of gaps become counts of base steps, expected pairs expected counts (the gradient of the
log of ``A^D``) and drawn pairs exact draws. It is one multinomial for all gaps of one length
between the same two states, so the cost hardly depends on D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bayeshmm.transitions.chain import log_or_never

Split = Callable[[Tensor, Tensor], Tensor]
"""How many of (...) events are of each kind, (..., C), given the kinds' probabilities (..., C)."""


@dataclass(frozen=True)
class Gaps:
    """Lengths of gaps, and the halves that they fall into.

    Attributes
    ----------
    steps
        All lengths in base steps, (P,), increasing from 1.
    first, second
        Index of both halves of every length, (P,); not read for a single step.
    levels
        Ranges of lengths, each of which falls into lengths of earlier ranges.
    """

    steps: Tensor
    first: Tensor
    second: Tensor
    levels: tuple[Tensor, ...]

    @classmethod
    def of(cls, lengths: Tensor) -> Gaps:
        """All that gaps of these `lengths` fall into."""
        steps = torch.cat([lengths.flatten(), torch.ones_like(lengths.flatten()[:1])]).unique()
        found = steps[:0]
        while len(steps) > len(found):
            found = steps
            halves = torch.cat([found, found // 2, found - found // 2])
            steps = halves.clamp_min(1).unique()
        first = torch.searchsorted(steps, steps // 2)
        second = torch.searchsorted(steps, steps - steps // 2)
        halvings = torch.searchsorted(2 ** torch.arange(63), steps)
        sizes = halvings.unique_consecutive(return_counts=True)[1].tolist()
        return cls(steps, first, second, torch.arange(len(steps)).split(sizes)[1:])

    def law(self, log_transition: Tensor, free: bool) -> Tensor:
        """Logarithm of the law of the state at the end of a gap given that at its start.

        Parameters
        ----------
        log_transition
            Logarithm of the transition matrix of a base step, (..., K, K).
        free
            Whether what follows the first change is not ruled.

        Returns
        -------
        Tensor
            (..., P, K, K). Differentiable, also where probabilities are 0.
        """
        return log_sum_exp(_kinds(*self._weights(log_transition, free)))

    def base_counts(
        self, pairs: Tensor, log_transition: Tensor, free: bool, split: Split
    ) -> Tensor:
        """Stays and jumps in base steps, (..., K, K).

        Parameters
        ----------
        pairs
            Number of gaps of each length by the states at their ends, (..., P, K, K).
        log_transition, free
            As in `law`; leading axes broadcast against those of `pairs`.
        split
            `expected_split`, or a draw.
        """
        stay, move = self._weights(log_transition, free)
        parts = split(pairs, shares(_kinds(stay, move)))
        stayed, moved = parts[..., 0].sum(-1), parts[..., 1].contiguous()
        for level in reversed(self.levels):
            first, second = self.first[level], self.second[level]
            parts = split(moved[..., level, :, :], shares(self._ways(stay, move, level, free)))
            stayed.index_add_(-2, first, parts[..., 0].sum(-1))
            moved.index_add_(-3, second, parts[..., 0])
            moved.index_add_(-3, first, parts[..., 1])
            if not free:
                stayed.index_add_(-2, second, parts[..., 1].sum(-2))
                moved.index_add_(-3, first, parts[..., 2:].sum(-2))
                moved.index_add_(-3, second, parts[..., 2:].sum(-3).mT)
        stays = (self.steps.to(stayed.dtype)[:, None] * stayed).sum(-2)
        return moved[..., 0, :, :] + torch.diag_embed(stays)

    def _weights(self, log_transition: Tensor, free: bool) -> tuple[Tensor, Tensor]:
        """Log weights of staying (..., P, K) and of moving (..., P, K, K) through every length."""
        diagonal = torch.eye(log_transition.shape[-1], dtype=torch.bool)
        stay = self.steps[:, None] * log_transition.diagonal(dim1=-2, dim2=-1)[..., None, :]
        move = log_transition.masked_fill(diagonal, -torch.inf)[..., None, :, :]
        for level in self.levels:
            ways = log_sum_exp(self._ways(stay, move, level, free))
            move = torch.cat([move, ways], -3)
        return stay, move

    def _ways(self, stay: Tensor, move: Tensor, level: Tensor, free: bool) -> Tensor:
        """Log weights of the ways to move from i to j, (..., i, j, ways).

        Stay, then move; move, then stay; or move to any m, then to j.
        """
        first, second = self.first[level], self.second[level]
        early, late = move[..., first, :, :], move[..., second, :, :]
        wait = stay[..., first, :, None] + late
        if free:
            return torch.stack([wait, early], -1)
        rest = early + stay[..., second, None, :]
        through = early[..., :, None, :] + late.mT[..., None, :, :]
        return torch.cat([torch.stack([wait, rest], -1), through], -1)


def _kinds(stay: Tensor, move: Tensor) -> Tensor:
    """Log weights of having stayed and of having moved, (..., K, K, 2)."""
    diagonal = torch.eye(move.shape[-1], dtype=torch.bool)
    return torch.stack([torch.where(diagonal, stay[..., None], -torch.inf), move], -1)


def log_sum_exp(terms: Tensor) -> Tensor:
    """Log of the sum of exponentials over the last axis; no NaN in gradients where it is -inf."""
    peak = terms.detach().amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    return log_or_never((terms - peak).exp().sum(-1)) + peak[..., 0]


def shares(log_weights: Tensor) -> Tensor:
    """Probabilities in proportion to weights, over the last axis; zeros where all weights are."""
    total = log_sum_exp(log_weights)[..., None]
    return torch.where(total > -torch.inf, log_weights - total, -torch.inf).exp()


def expected_split(numbers: Tensor, probabilities: Tensor) -> Tensor:
    """Expected parts."""
    return numbers[..., None] * probabilities


def drawn_split(numbers: Tensor, probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Draw parts from multinomial laws."""
    left = probabilities.flip(-1).cumsum(-1).flip(-1)
    chances = torch.where(left > 0, probabilities / left, 0.0).clamp_max(1.0)
    parts = []
    for chance in chances.unbind(-1):
        parts.append(torch.binomial(numbers, chance.expand(numbers.shape), generator=generator))
        numbers = numbers - parts[-1]
    return torch.stack(parts, -1)
