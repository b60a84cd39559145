"""Exact sampling from two modes, found independently: that chains meet is seen, not assumed.

Where the number of phases is learned, chains that start at one mode can agree with each other and
all be wrong: a sampler seldom gives birth to a phase, or lets one go.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayeshmm.alignment import match_states
from bayeshmm.inference import gibbs
from bayeshmm.inference.gibbs import State
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.nested import mapped, stacked


def matched(reference: VariationalFit, other: VariationalFit) -> VariationalFit:
    """`other`, each state under the label of the state of `reference` with which it shares rows.

    States without a partner, or without rows, get the labels that are left.
    """
    match = match_states(reference.states, other.states)
    return other.relabelled(torch.from_numpy(match.argsort()))


def origin(chains: int) -> Tensor:
    """Which of two modes each chain starts at: 0 for the first half of them, 1 for the rest."""
    return torch.arange(chains) * 2 // chains


def dispersed(
    first: VariationalFit, second: VariationalFit, chains: int, generator: torch.Generator
) -> State:
    """Start chains at two fits to the same runs, labels matched, by `origin`.

    Parameters
    ----------
    first, second
        Modes that searches with different seeds found.
    chains
        Number of chains in all.
    generator
        Source of randomness.

    Returns
    -------
    State
        As `gibbs.start` makes it.
    """
    starts = [gibbs.start(fit, chains, generator) for fit in (first, matched(first, second))]
    place = origin(chains), torch.arange(chains)
    chosen: State = mapped(lambda part: part[place], stacked(starts, 0))
    return chosen
