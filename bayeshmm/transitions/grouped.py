"""Transitions of several conditions, as alike as the data say: partial pooling of every row."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bayeshmm.transitions.dirichlet import check_dwell
from bayeshmm.transitions.pooled import PooledExits, PooledJumps
from bayeshmm.transitions.prior import TransitionPrior


@dataclass(frozen=True)
class Grouped:
    """Transitions that differ between conditions, by as much as is learned for every row.

    A condition is a value of an attribute of the runs: an optimiser, layer norm or none. All
    conditions share the emissions, so that a phase means the same in every one, and the law of
    the first phase; what differs is when phases change, and into which.
    `Posterior.condition_differences` tells by how much.

    Exits and jumps of state k in condition g are Dirichlet around a base that the conditions
    share: ``e_gk ~ Beta(v_k, v_k (1 - mu_k) / mu_k)``, ``mu_k ~ Beta(2, 2(M-d))`` with an expected
    dwell of M rows and a minimum of d, and ``J_gk ~ Dirichlet(v_k b_k)``, ``b_k ~ Dirichlet(1)``.
    The base is worth v_k visits to state k, and ``1 / sqrt(v_k)`` is about the spread of
    ``log e_gk`` over conditions. Exits and jumps of every state have their own
    ``v_k = (1 + w_k) / (1 - w_k)``, and ``w_k ~ Beta(1/2, 1/2)`` favours both ends (as in the
    horseshoe: Carvalho, Polson and Scott 2010, Biometrika 97): conditions that are the same, and
    ones whose dwells differ by any factor up to about 30. So rows that are alike are pooled, and
    one that differs is not held back by the others that do not.

    Parameters
    ----------
    by
        The attribute whose values are the conditions: a column of `Runs.attributes`.
    expected_dwell
        As in `Dirichlet`.

    Notes
    -----
    The information on a row is its visits, no matter how many rows they last: with six runs to a
    condition, each of which goes through a phase once, expected dwells past the minimum are known
    to a factor of about two, and only larger differences show. Seeds are often more alike than the
    geometric law of a dwell has it: compare entry times too, which do not rest on it.

    Pooling is paid for where nothing differs: intervals of such a difference then leave out 0 less
    often than their level says (with 50 visits about 3 % of 90 % intervals), and small differences
    come out somewhat smaller than they are. Over conditions as unlike as the prior has them,
    intervals hold the truth at their level.

    Where metrics move by other laws in each condition, each has phases of its own, and then there
    are no times to compare: the probabilities ``entered`` show it. Model metrics that move alike,
    such as losses rather than weight norms.
    """

    by: str = "condition"
    expected_dwell: float | None = None

    def __post_init__(self) -> None:
        check_dwell(self.expected_dwell)

    def prior(
        self, states: int, minimum_dwell: int, expected_rows: float, groups: int = 1
    ) -> TransitionPrior:
        """Prior for `states` states and `groups` conditions, with dwell times in rows."""
        rows = max(expected_rows, minimum_dwell + 1.0)
        return TransitionPrior(
            PooledExits(states, rows - minimum_dwell, groups),
            PooledJumps(states, groups),
            torch.ones(states, dtype=torch.float64),
            minimum_dwell,
            rows,
        )
