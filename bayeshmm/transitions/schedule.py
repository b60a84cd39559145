"""When the rows of runs were recorded, and which runs share a chain.

A chain is a law per *base step*, the greatest common divisor of all gaps between the rows of the
fitted runs; between two rows it is what `bayeshmm.transitions.gaps` makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from bayeshmm import messages
from bayeshmm.runs import Runs
from bayeshmm.transitions.chain import Chain, Counts
from bayeshmm.transitions.gaps import Gaps, Split, drawn_split, expected_split


@dataclass(frozen=True)
class Schedule:
    """When the rows of N runs were recorded, and whose chain rules them.

    Attributes
    ----------
    groups
        Index of each run's group on the chain's axis of runs, (N,); None where all runs share one
        chain (axis of size 1) or each has its own (axis of size N).
    gaps
        Base steps between neighbouring rows, (N, T-1), any number beyond the end of a run; None
        where every gap is one base step.
    """

    groups: Tensor | None = None
    gaps: Tensor | None = None

    @classmethod
    def of(cls, runs: Runs, base: int, groups: Tensor | None = None) -> Schedule:
        """The schedule of `runs`.

        Parameters
        ----------
        runs
            N runs.
        base
            Base step of the chain, in training steps; see `base_step`.
        groups
            See the class.

        Raises
        ------
        ValueError
            If a gap is no multiple of the base step, naming the run and the rows.
        """
        steps = runs.steps
        gaps, within = np.diff(steps), steps[:, 1:] >= 0
        odd = np.argwhere(within & (gaps % base != 0))
        if len(odd):
            n, t = odd[0]
            raise ValueError(
                f"run {runs.names[n]!r}: the rows of steps {steps[n, t]} and {steps[n, t + 1]} are "
                f"{gaps[n, t]} steps apart, no multiple of {base}, the base step of the fitted "
                "runs (the greatest common divisor of their gaps): leave out rows of this run so "
                "that all its gaps are multiples, or fit the model to it too."
            )
        if (gaps[within] == base).all():
            return cls(groups)
        # the same beyond the end as in the longest run: runs on one grid are then all alike
        gaps = np.where(within, gaps, gaps[runs.lengths.argmax()])
        return cls(groups, torch.from_numpy(gaps // base))

    def take(self, runs: Tensor) -> Schedule:
        """Some of the runs, by index."""
        parts = (self.groups, self.gaps)
        return Schedule(*(None if part is None else part[runs] for part in parts))

    def of_groups(self, chain: Chain) -> Chain:
        """Each run's own chain, (..., N, K) and (..., N, K, K), or the chain as it is."""
        if self.groups is None:
            return chain
        initial, transition = chain
        if initial.shape[-2] > 1:
            initial = initial[..., self.groups, :]
        if transition.shape[-3] > 1:
            transition = transition[..., self.groups, :, :]
        return Chain(initial, transition)

    def spread(self, log: Chain, minimum_dwell: int) -> Chain:
        """The law of neighbouring rows, as `messages` take it.

        Parameters
        ----------
        log
            (Expected) logarithms of a chain per base step.
        minimum_dwell
            Rows.

        Returns
        -------
        Chain
            Logarithms: initial (..., n, K); transition (..., n, K, K) or, with gaps,
            (..., n, T-1, K, K), n being N or, where all runs are alike, 1. Differentiable, also
            where probabilities are 0.
        """
        own = self.of_groups(log)
        if self.gaps is None:
            return own
        law = self._gaps.law(log.transition, minimum_dwell > 1)
        runs, size = len(self.gaps), law.shape[-4]
        place = self._place[:1] if bool((self._place == self._place[:1]).all()) else self._place
        owner = self._owner(1 if size == 1 else runs, size)
        return Chain(own.initial, law[..., owner[:, None], place, :, :])

    def counts(
        self, log: Chain, counts: messages.ExpectedCounts, minimum_dwell: int, by_run: bool
    ) -> Counts:
        """Expected sufficient statistics of the chain.

        Parameters
        ----------
        log
            What was spread.
        counts
            What `messages.expected_counts` made of it.
        minimum_dwell
            Rows.
        by_run
            Whether to keep the runs apart, n = N, or to sum them on the chain's own axis.
        """
        N, K = counts.initial.shape[-2:]
        if by_run:
            initial, transition = self.of_groups(log)
            own = Chain(
                initial.expand(*initial.shape[:-2], N, K),
                transition.expand(*transition.shape[:-3], N, K, K),
            )
            return Schedule(None, self.gaps).counts(own, counts, minimum_dwell, False)
        size = log.initial.shape[-2]
        initial = _summed(counts.initial, -2, self._owner(N, size), size)
        pairs = counts.transition if self.gaps is None else counts.transition.flatten(-4, -3)
        size = log.transition.shape[-3]
        kinds = self._kinds(N, size)
        pairs = _summed(pairs, -3, kinds.flatten(), size * self._lengths)
        return Counts(initial, self._base_counts(pairs, log, minimum_dwell, expected_split))

    def path_counts(
        self, paths: Tensor, log: Chain, minimum_dwell: int, generator: torch.Generator
    ) -> Counts:
        """First states, and exact draws of the stays and jumps that the chain ruled.

        Parameters
        ----------
        paths
            (..., N, T), -1 beyond the end of a run.
        log
            The chain that the paths were drawn from.
        minimum_dwell
            A row rules the next one only once its visit has lasted so many rows.
        generator
            Not used where every gap is one base step: the paths then tell all.

        Returns
        -------
        Counts
            Summed over runs on the chain's own axis.
        """
        *batch, N, T = paths.shape
        K, size = log.initial.shape[-1], log.initial.shape[-2]
        first = torch.nn.functional.one_hot(paths[..., 0], K).to(torch.float64)
        initial = _summed(first, -2, self._owner(N, size), size)
        place = torch.arange(T).expand(paths.shape)
        fresh = torch.ones_like(paths, dtype=torch.bool)
        fresh[..., 1:] = paths[..., 1:] != paths[..., :-1]
        age = place - torch.where(fresh, place, 0).cummax(-1).values + 1
        ruled = (age[..., :-1] >= minimum_dwell) & (paths[..., 1:] >= 0)
        size = log.transition.shape[-3]
        cell = (self._kinds(N, size) * K + paths[..., :-1]) * K + paths[..., 1:]
        cells = size * self._lengths * K**2
        flat = torch.where(ruled, cell, cells).flatten(-2)
        pairs = torch.zeros(*batch, cells + 1, dtype=torch.float64)
        pairs.scatter_add_(-1, flat, torch.ones(flat.shape, dtype=torch.float64))
        pairs = pairs[..., :-1].unflatten(-1, (-1, K, K))
        split = partial(drawn_split, generator=generator)
        return Counts(initial, self._base_counts(pairs, log, minimum_dwell, split))

    @cached_property
    def _gaps(self) -> Gaps:
        assert self.gaps is not None
        return Gaps.of(self.gaps)

    @cached_property
    def _place(self) -> Tensor:
        """Index of every gap among all lengths, (N, T-1)."""
        assert self.gaps is not None
        return torch.searchsorted(self._gaps.steps, self.gaps)

    @property
    def _lengths(self) -> int:
        """How many lengths of gaps are told apart."""
        return 1 if self.gaps is None else len(self._gaps.steps)

    def _owner(self, runs: int, size: int) -> Tensor:
        """Where on the chain's axis of `size` each run belongs, (N,)."""
        if size == 1:
            return torch.zeros(runs, dtype=torch.int64)
        return torch.arange(runs) if self.groups is None else self.groups

    def _kinds(self, runs: int, size: int) -> Tensor:
        """Number the gaps' kinds, owners and lengths within, (N, T-1); (N, 1) if all are one."""
        owner = self._owner(runs, size)[:, None]
        return owner if self.gaps is None else owner * self._lengths + self._place

    def _base_counts(self, pairs: Tensor, log: Chain, minimum_dwell: int, split: Split) -> Tensor:
        """Stays and jumps in base steps, (..., n, K, K), of pairs by kind, (..., kinds, K, K)."""
        if self.gaps is None:
            return pairs
        pairs = pairs.unflatten(-3, (-1, self._lengths))
        return self._gaps.base_counts(pairs, log.transition, minimum_dwell > 1, split)


def base_step(runs: Runs) -> int:
    """Greatest common divisor of all gaps between rows, in training steps; 1 without a gap."""
    gaps = np.diff(runs.steps)[runs.steps[:, 1:] >= 0]
    return max(int(np.gcd.reduce(gaps, initial=0)), 1)


def _summed(part: Tensor, dim: int, owner: Tensor, size: int) -> Tensor:
    """Sum along an axis what has the same owner, of so many."""
    shape = list(part.shape)
    shape[dim] = size
    return torch.zeros(shape, dtype=part.dtype).index_add_(dim, owner, part)
