"""The units of a chain: the base step of its exit probabilities, and its groups of runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayeshmm.conditions import condition_index
from bayeshmm.runs import Runs
from bayeshmm.transitions.schedule import Schedule, base_step


@dataclass(frozen=True)
class Calendar:
    """What the runs that were fitted fix once, for them and for new runs.

    Attributes
    ----------
    base
        Base step, in training steps: all gaps between rows are multiples of it. Exit probabilities
        are those of a base step past the minimum dwell.
    gap
        Median gap between rows, in base steps; 1 where rows are evenly spaced.
    by
        Attribute whose values have transitions of their own; None: all runs share them.
    conditions
        Those values.
    """

    base: int
    gap: float
    by: str | None = None
    conditions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", tuple(self.conditions))

    @classmethod
    def of(cls, runs: Runs, by: str | None = None) -> Calendar:
        """The calendar of `runs`."""
        base, gaps = base_step(runs), np.diff(runs.steps)[runs.steps[:, 1:] >= 0]
        gap = float(np.median(gaps)) / base if len(gaps) else 1.0
        conditions = () if by is None else condition_index(runs, by)[0]
        return cls(base, gap, by, conditions)

    def schedule(self, runs: Runs) -> Schedule:
        """When the rows of `runs`, which need not be those of the calendar, were recorded.

        Raises
        ------
        ValueError
            If a gap is no multiple of the base step, or a run is of no known condition; the
            message names the run and the mend.
        """
        return Schedule.of(runs, self.base, self.groups(runs))

    def groups(self, runs: Runs) -> Tensor | None:
        """Index of every run's condition, (N,); None where there are no conditions.

        Raises
        ------
        ValueError
            If a run is of no known condition.
        """
        if self.by is None:
            return None
        return torch.from_numpy(condition_index(runs, self.by, self.conditions)[1])

    def expected_rows(self, runs: Runs, states: int, dwell: int, steps: float | None) -> float:
        """Prior guess of how long a visit lasts: rows of the dwell, then base steps.

        Parameters
        ----------
        runs
            The runs.
        states
            K.
        dwell
            Minimum dwell, rows.
        steps
            The guess in training steps; None: the median run divided by the number of states, and
            at least twice the minimum dwell.
        """
        if steps is None:
            last = runs.steps.max(axis=1)
            duration = float(np.median((last - runs.steps[:, 0]) / self.base)) + 1.0
            expected = max(duration / states, 2.0 * dwell * self.gap)
        else:
            expected = steps / self.base
        return dwell - 1.0 + max(expected - (dwell - 1.0) * self.gap, 2.0 * self.gap)
