"""From runs to what a model computes on, with units fixed by the runs that were fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeshmm.emissions import families
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.families import Emission
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.runs import Runs
from bayeshmm.scaling import EVENLY, Pace, Scaling, spanned_gaps
from bayeshmm.transitions import Calendar, Schedule


@dataclass(frozen=True)
class Encoded:
    """Runs as a model sees them.

    Attributes
    ----------
    design
        Rows of the runs under the phases' laws.
    entry
        First values under their own law; None where the first row is a row like any other.
    log_jacobian
        Log density in the data's units less that in the model's units, (N,).
    schedule
        When the rows were recorded, and whose chain rules each run.
    """

    design: Design
    entry: Design | None
    log_jacobian: Tensor
    schedule: Schedule = field(default_factory=Schedule)

    @property
    def lengths(self) -> Tensor:
        """Rows of each run, (N,)."""
        return self.design.lengths

    def rows(self, law: Law) -> Tensor:
        """Log-likelihood of every row under every state, (..., N, T, K)."""
        return log_likelihood(self.design, law)[0]

    def take(self, runs: Tensor) -> Encoded:
        """Some of the runs, by index."""
        entry = None if self.entry is None else self.entry.take(runs)
        return Encoded(
            self.design.take(runs), entry, self.log_jacobian[runs], self.schedule.take(runs)
        )

    def ungrouped(self) -> Encoded:
        """The same runs, each to be ruled by a chain of its own."""
        return replace(self, schedule=replace(self.schedule, groups=None))


@dataclass(frozen=True)
class Encoding:
    """Units fixed by the fitted runs, and the family that reads them.

    Attributes
    ----------
    emission
        The family.
    scaling
        Pooled units of the metrics.
    feature_scale
        Root mean square of every feature, (D, F), in model order.
    calendar
        Base step and conditions of the chain.
    """

    emission: Emission
    scaling: Scaling
    feature_scale: NDArray[np.float64]
    calendar: Calendar

    @classmethod
    def fit(
        cls,
        runs: Runs,
        emission: Emission,
        calendar: Calendar,
        log: Sequence[str] | Mapping[str, float] = (),
    ) -> Encoding:
        """Fix the units by `runs`, but those of the chain; see `Scaling.fit` for `log`."""
        scaling = Scaling.fit(runs, log)
        pace = _pace(emission, scaling, runs)
        scale = families.feature_scale(emission, scaling.standardise(runs), pace)
        return cls(emission, scaling, scale, calendar)

    def encode(self, runs: Runs) -> Encoded:
        """`runs` in these units; they need not be the runs that fixed the units."""
        values = self.scaling.standardise(runs)
        order = self.scaling.order
        pace = _pace(self.emission, self.scaling, runs)
        increment, resolution = self.scaling.increment[order], self.scaling.resolution[order]
        design = families.design(
            self.emission,
            values,
            runs.lengths.astype(np.int64),
            increment,
            resolution,
            self.feature_scale,
            pace,
        )
        jacobian = torch.from_numpy(self.scaling.log_jacobian(runs))
        if self.emission.dynamic:
            jacobian = jacobian - design.observed.sum(1).to(torch.float64) @ torch.from_numpy(
                np.log(increment)
            )
            stretched = pace.exponent * np.log(spanned_gaps(values, pace.gaps))
            jacobian = jacobian - (design.observed * torch.from_numpy(stretched)).sum((1, 2))
        entry = families.entry_design(self.emission, values, resolution)
        return Encoded(design, entry, jacobian, self.calendar.schedule(runs))


def _pace(emission: Emission, scaling: Scaling, runs: Runs) -> Pace:
    """Levels do not depend on how far apart rows are."""
    return scaling.pace(runs) if emission.dynamic else EVENLY
