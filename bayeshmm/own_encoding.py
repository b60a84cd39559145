"""Runs as an emission of a user's own sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from bayeshmm.emissions.custom import PyroEmission
from bayeshmm.runs import Runs
from bayeshmm.transitions import Calendar, Schedule

Sites = dict[str, Tensor]
"""Values of the sites of a Pyro model by name, (S, ...): draws of its parameters."""


@dataclass(frozen=True)
class OwnRows:
    """Runs as an emission of a user's own sees them, in the units of the data.

    Attributes
    ----------
    units
        The emission, and what it is told of the model.
    values
        (N, T, D), NaN where missing or beyond the end of a run.
    lengths
        Rows of each run, (N,).
    schedule
        When the rows were recorded, and whose chain rules each run.
    """

    units: OwnUnits
    values: Tensor
    lengths: Tensor
    schedule: Schedule

    def log_likelihood(self, parameters: Any) -> Tensor:
        """Log-likelihood of every row under every state, (..., N, T, K).

        Parameters
        ----------
        parameters
            What the emission's prior returned.

        Raises
        ------
        ValueError
            If what the emission returns has no such shape.
        """
        rows = self.units.emission.log_likelihood(parameters, self.values)
        expected = (*self.values.shape[:2], self.units.states)
        if not isinstance(rows, Tensor) or tuple(rows.shape[-3:]) != expected:
            found = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(
                f"{type(self.units.emission).__name__}.log_likelihood must return a tensor "
                f"(..., N, T, K), here (..., {', '.join(map(str, expected))}), not {found}."
            )
        return rows.to(torch.float64)

    def rows(self, sites: Sites) -> Tensor:
        """The same at draws of the parameters, (S, N, T, K)."""
        held = {name: value[:, None] for name, value in sites.items()}
        with poutine.block():
            return self.log_likelihood(poutine.condition(self.units.sample, held)())

    @property
    def log_jacobian(self) -> Tensor:
        """The units are those of the data: 0, (N,)."""
        return torch.zeros(len(self.lengths), dtype=torch.float64)

    def take(self, runs: Tensor) -> OwnRows:
        """Some of the runs, by index."""
        schedule = self.schedule.take(runs)
        return OwnRows(self.units, self.values[runs], self.lengths[runs], schedule)

    def ungrouped(self) -> OwnRows:
        """The same runs, each to be ruled by a chain of its own."""
        return replace(self, schedule=replace(self.schedule, groups=None))


@dataclass(frozen=True)
class OwnUnits:
    """An emission of a user's own for given metrics and states.

    Attributes
    ----------
    emission
        The user's.
    states
        K.
    metrics
        Names of the metrics.
    calendar
        Base step and conditions of the chain.
    """

    emission: PyroEmission
    states: int
    metrics: tuple[str, ...]
    calendar: Calendar

    def sample(self) -> Any:
        """Pyro sites of the emission's parameters."""
        return self.emission.prior(self.states, self.metrics)

    def encode(self, runs: Runs) -> OwnRows:
        """`runs` as the emission sees them."""
        return OwnRows(
            self,
            torch.tensor(runs.values),
            torch.from_numpy(runs.lengths.astype(np.int64)),
            self.calendar.schedule(runs),
        )
