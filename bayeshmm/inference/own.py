"""Posteriors of models with an emission of a user's own: the mode, and what points mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor

from bayeshmm import messages
from bayeshmm.alignment import agreement, display_order
from bayeshmm.hmm import own_model
from bayeshmm.inference.guides import Affine, Blocks, full_rank, mean_field
from bayeshmm.inference.modes import curvature, find_modes
from bayeshmm.inference.parts import some_runs
from bayeshmm.inference.settings import GuideKind
from bayeshmm.inference.site_values import Values, chain_values
from bayeshmm.inference.targets import FULL_RANK, at_once
from bayeshmm.inference.threads import one_thread
from bayeshmm.inference.unconstrained import Unconstrained, isolated
from bayeshmm.own_encoding import OwnRows
from bayeshmm.transitions import Chain, TransitionPrior


@dataclass(frozen=True)
class OwnTarget:
    """The posterior of a model with an emission of a user's own, about a mode.

    Attributes
    ----------
    transition
        Prior of the chain.
    data
        The runs.
    space
        The posterior's density.
    mode
        A point there, (size,).
    """

    transition: TransitionPrior
    data: OwnRows
    space: Unconstrained
    mode: Tensor

    constant = 0.0

    @property
    def minimum_dwell(self) -> int:
        """Rows."""
        return self.transition.minimum_dwell

    @property
    def states(self) -> int:
        """K."""
        return self.data.units.states

    def start(self, guide: GuideKind | None) -> Affine:
        """A normal law with the curvature at the mode; blocks are sites."""
        size = self.space.size
        kind = guide or ("full-rank" if size <= FULL_RANK else "block")
        blocks = {"full-rank": full_rank, "mean-field": mean_field}.get(kind, self._blocks)(size)
        together = at_once(self.data, self.states)
        precision = curvature(self.space, self.mode, at_once=together)
        return Affine.curved(self.mode, precision, blocks)

    def _blocks(self, _: int) -> Blocks:
        return [self.space.places(name).flatten()[None] for name in self.space.sites]

    def parameters(self, points: Tensor) -> Values:
        """Draws of the parameters, at points (S, size)."""
        with torch.no_grad():
            sites = self.space.values(points)
        law = {name: sites[name] for name in emission_sites(self.data)}
        return Values(law, None, *chain_values(self.transition, sites))


def emission_sites(data: OwnRows) -> list[str]:
    """Names of the sites of the emission's prior."""
    with isolated(0):
        trace = poutine.trace(data.units.sample).get_trace()
    return [name for name, _ in trace.iter_stochastic_nodes()]


@one_thread()
def explore(
    transition: TransitionPrior,
    data: OwnRows,
    starts: int,
    seed: int,
    size: int | None = None,
    progress: bool = False,
) -> tuple[OwnTarget, pd.DataFrame]:
    """Search for a mode from several starts.

    Parameters
    ----------
    transition
        Prior of the chain.
    data
        The runs.
    starts
        Number of starts.
    seed
        Of the starts.
    size
        Runs to search on; None: all.
    progress
        Whether to show a progress bar.

    Returns
    -------
    target
        The best mode, its states ordered by first visit where the model takes them as alike.
    restarts
        A row per start: ``objective`` (log density of the mode in unconstrained space) and
        ``agreement`` (share of rows on which it agrees with the best).
    """
    some = some_runs(len(data.lengths), size, seed)
    seen = data if some is None else data.take(some)
    space = Unconstrained(partial(own_model, transition, seen))
    starts = 1 if transition.states == 1 else starts
    together = at_once(seen, transition.states)
    points, objective = find_modes(space, starts, seed=seed, at_once=together, progress=progress)
    best = int(objective.argmax())
    target = OwnTarget(transition, seen, space, points[best])
    states = smoothed(target, points)
    restarts = pd.DataFrame(
        {
            "start": range(starts),
            "objective": objective.numpy(),
            "agreement": [agreement(states[best], one) for one in states],
        }
    )
    restarts = restarts.sort_values("objective", ascending=False, ignore_index=True)
    target = in_order(target, states[best])
    if some is not None:
        whole = Unconstrained(partial(own_model, transition, data))
        target = replace(target, data=data, space=whole)
    return target, restarts


def smoothed(target: OwnTarget, points: Tensor) -> NDArray[np.float64]:
    """Probability of each state in each row at points (R, size), (R, N, T, K)."""
    values, data, dwell = target.parameters(points), target.data, target.minimum_dwell
    log = data.schedule.spread(values.chain.log, dwell)
    with torch.no_grad():
        return messages.smooth(
            log.initial,
            log.transition,
            data.rows(values.law),
            lengths=data.lengths,
            minimum_dwell=dwell,
        ).numpy()


def in_order(target: OwnTarget, states: NDArray[np.float64]) -> OwnTarget:
    """The same mode with the states numbered by their first visit, where labels mean nothing.

    That is tried out: parameters whose first axis is as long as there are states are permuted, and
    the density has to be the same.
    """
    K, space = target.states, target.space
    beyond = np.arange(states.shape[1]) >= target.data.lengths.numpy()[:, None]
    order = torch.from_numpy(display_order(np.where(beyond, -1, states.argmax(-1)), K))
    if not target.transition.exchangeable or torch.equal(order, torch.arange(K)):
        return target
    law, _, chain, hyper = target.parameters(target.mode[None])
    chain = Chain(chain.initial[..., order], chain.transition[..., order, :][..., order])
    sites = target.transition.site_values(chain, target.transition.relabelled(hyper, order))
    for name, value in law.items():
        by_state = value.ndim > 1 and value.shape[1] == K
        sites[name] = value[:, order] if by_state else value
    mode = space.points(sites)[0]
    with isolated(0), torch.no_grad():
        before, after = space.log_density(torch.stack([target.mode, mode]))
    same = torch.isclose(before, after, rtol=1e-8, atol=1e-6)
    return replace(target, mode=mode) if same else target
