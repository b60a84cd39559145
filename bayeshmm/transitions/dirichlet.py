"""Transitions between any two phases, and those of a chain that never turns back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from bayeshmm.transitions.chain import off_diagonal
from bayeshmm.transitions.prior import TransitionPrior
from bayeshmm.transitions.rows import ExitRows, JumpRows


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
        check_dwell(self.expected_dwell)

    def prior(self, states: int, minimum_dwell: int, expected_rows: float) -> TransitionPrior:
        """Prior for `states` states, with dwell times in rows."""
        rows = max(expected_rows, minimum_dwell + 1.0)
        left = torch.full((states,), states > 1)
        return TransitionPrior(
            ExitRows(left, rows - minimum_dwell),
            JumpRows(torch.ones(states, states - 1, dtype=torch.bool)),
            torch.ones(states, dtype=torch.float64),
            minimum_dwell,
            rows,
        )


@dataclass(frozen=True)
class LeftToRight:
    """Phases in a fixed order: every run starts in the first, and none turns back.

    What phases are learned depends on this belief, so that it cannot be learned that it is wrong:
    prefer `Dirichlet`, whose posterior shows whether runs return, unless order is what you mean.
    Exits and jumps have the priors of `Dirichlet`, over the later states; the last is never left.

    Parameters
    ----------
    skips
        Whether a run may pass phases over.
    expected_dwell
        As in `Dirichlet`.
    """

    skips: bool = True
    expected_dwell: float | None = None

    def __post_init__(self) -> None:
        check_dwell(self.expected_dwell)

    def prior(self, states: int, minimum_dwell: int, expected_rows: float) -> TransitionPrior:
        """Prior for `states` states, with dwell times in rows."""
        rows = max(expected_rows, minimum_dwell + 1.0)
        later = torch.ones(states, states, dtype=torch.bool).triu(1)
        if not self.skips:
            later = later.tril(1)
        allowed = off_diagonal(later)
        initial = torch.zeros(states, dtype=torch.float64)
        initial[0] = 1.0
        return TransitionPrior(
            ExitRows(allowed.any(-1), rows - minimum_dwell),
            JumpRows(allowed),
            initial,
            minimum_dwell,
            rows,
            exchangeable=False,
        )


def check_dwell(expected: float | None) -> None:
    """Check an expected dwell in training steps."""
    if expected is not None and not 0 < expected < math.inf:
        raise ValueError(f"expected_dwell must be a positive number of steps, not {expected}.")
