"""The prior of a chain: exits, jumps and the initial state, and every step of inference on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayeshmm.nested import batched
from bayeshmm.transitions.chain import (
    Chain,
    ChainPosterior,
    Counts,
    chain_of,
    dirichlet_divergence,
)
from bayeshmm.transitions.rows import Hyper, RowsPrior


@runtime_checkable
class Transition(Protocol):
    """What a structure of transitions has to say of itself."""

    @property
    def expected_dwell(self) -> float | None:
        """Prior guess of how long a visit to a phase lasts, in training steps."""
        ...

    def prior(self, states: int, minimum_dwell: int, expected_rows: float) -> TransitionPrior:
        """Prior for `states` states, with dwell times in rows."""
        ...


@dataclass(frozen=True)
class TransitionPrior:
    """The prior of a chain, in rows.

    Attributes
    ----------
    exits, jumps
        Priors of ``(e_k, 1 - e_k)`` and of ``J_k``.
    initial
        Dirichlet parameters of the initial state, (K,); 0 where no run may start.
    minimum_dwell
        d, rows.
    expected_dwell
        M, rows, larger than d.
    exchangeable
        Whether the states are alike before anything is seen, so that labels mean nothing.
    """

    exits: RowsPrior
    jumps: RowsPrior
    initial: Tensor
    minimum_dwell: int
    expected_dwell: float
    exchangeable: bool = True

    @property
    def states(self) -> int:
        """K."""
        return len(self.initial)

    def start(self, batch: tuple[int, ...]) -> Hyper:
        """Variational law of the hyper-parameters before anything is known."""
        return self.exits.start(batch) | self.jumps.start(batch)

    def prior_law(self, law: Hyper) -> ChainPosterior:
        """Dirichlet laws at the expected parameters under a variational law."""
        return self._chain_law(self.exits.expected(law), self.jumps.expected(law))

    def given(self, values: Hyper) -> ChainPosterior:
        """Dirichlet laws given values of the hyper-parameters."""
        return self._chain_law(self.exits.cells(values), self.jumps.cells(values))

    def _chain_law(self, exits: Tensor, jumps: Tensor) -> ChainPosterior:
        initial = self.initial.expand(*exits.shape[:-3], 1, self.states)
        return ChainPosterior(exits, jumps, initial)

    def update(self, law: Hyper, counts: Counts) -> tuple[ChainPosterior, Hyper]:
        """One coordinate step: the chain's law, then that of the hyper-parameters given it."""
        posterior = self.prior_law(law).updated(counts)
        exits = self.exits.updated(law, posterior.exit)
        return posterior, exits | self.jumps.updated(law, posterior.jump)

    def divergence(self, posterior: ChainPosterior, law: Hyper) -> Tensor:
        """Kullback-Leibler divergence from the prior, hyper-parameters included, (..., 1).

        Parameters
        ----------
        posterior, law
            What `update` made.
        """
        total = dirichlet_divergence(posterior.initial, self.initial)
        total = total + self.exits.divergence(law, posterior.exit)
        return total + self.jumps.divergence(law, posterior.jump)

    def draw(
        self, generator: torch.Generator, batch: tuple[int, ...] = (1,)
    ) -> tuple[Chain, Hyper]:
        """Draw hyper-parameters and the chain from the prior."""
        values = self.exits.draw(generator, batch) | self.jumps.draw(generator, batch)
        return self.given(values).sample(generator), values

    def draw_hyper(self, law: Hyper, generator: torch.Generator) -> Hyper:
        """Values of the hyper-parameters from a variational law."""
        return self.exits.draw_from(law, generator) | self.jumps.draw_from(law, generator)

    def sample(
        self, chain: Chain, values: Hyper, counts: Counts, generator: torch.Generator
    ) -> tuple[Chain, Hyper]:
        """Gibbs step: the hyper-parameters, then the chain given them and `counts`."""
        exits = self.exits.sample(values, chain.log_exits, counts.exits, generator)
        jumps = self.jumps.sample(values, chain.log_jumps, counts.jumps, generator)
        values = exits | jumps
        return self.given(values).updated(counts).sample(generator), values

    def relabelled(self, hyper: Hyper, order: Tensor) -> Hyper:
        """Values or a law of the hyper-parameters with ``order[i]`` as state i."""
        return self.exits.relabelled(hyper, order) | self.jumps.relabelled(hyper, order)

    def label_symmetries(self, occupied: int | None = None) -> float:
        """Log of the number of labellings of one posterior mode, 0 where labels mean something.

        ``log K! - log (K - occupied)!``: states without a row may change places unnoticed. None:
        all K states have rows.
        """
        empty = 0 if occupied is None else self.states - occupied
        return math.lgamma(self.states + 1) - math.lgamma(empty + 1) if self.exchangeable else 0.0

    def model(self) -> Chain:
        """Pyro sites of the prior; hyper-parameters that are on a grid elsewhere are continuous.

        Returns
        -------
        Chain
            Initial law (..., n, K) and transition matrix (..., n, K, K): the last batch axis is
            that of the plate of runs, or of groups of runs.
        """
        initial = (self.initial > 0).to(torch.float64)
        if initial.sum() > 1:
            initial = pyro.sample("initial", dist.Dirichlet(self.initial))
        exits, jumps = self.exits.model(), self.jumps.model()
        chain = chain_of(initial, exits, jumps)
        if self.states > 1:
            transition, event = chain.transition, 2
            if transition.ndim > 2 and transition.shape[-3] > 1:  # groups are no plate
                transition = transition if transition.ndim == 3 else transition.unsqueeze(-4)
                event = 3
            pyro.deterministic("transition", transition, event_dim=event)
        return Chain(batched(chain.initial, 1), batched(chain.transition, 2))

    def site_values(self, chain: Chain, values: Hyper) -> Hyper:
        """Values of the sites of `model` at draws of the chain and of the hyper-parameters.

        Returns
        -------
        dict
            The axis of runs, of size 1, is dropped from what all runs share.
        """
        sites = self.exits.site_values(values, chain.log_exits.exp())
        sites |= self.jumps.site_values(values, chain.log_jumps.exp())
        if (self.initial > 0).sum() > 1:
            sites["initial"] = chain.initial[..., 0, :]
        return sites
