"""From runs to what a model computes on, with units fixed by the runs that were fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeshmm.emissions import families
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.families import Emission
from bayeshmm.runs import Runs
from bayeshmm.scaling import Scaling


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
    """

    design: Design
    entry: Design | None
    log_jacobian: Tensor

    def take(self, runs: Tensor) -> Encoded:
        """Some of the runs, by index."""
        entry = None if self.entry is None else self.entry.take(runs)
        return Encoded(self.design.take(runs), entry, self.log_jacobian[runs])


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
    """

    emission: Emission
    scaling: Scaling
    feature_scale: NDArray[np.float64]

    @classmethod
    def fit(
        cls, runs: Runs, emission: Emission, log: Sequence[str] | Mapping[str, float] = ()
    ) -> Encoding:
        """Fix the units by `runs`; see `Scaling.fit` for `log`."""
        scaling = Scaling.fit(runs, log)
        scale = families.feature_scale(emission, scaling.standardise(runs))
        return cls(emission, scaling, scale)

    def encode(self, runs: Runs) -> Encoded:
        """`runs` in these units; they need not be the runs that fixed the units."""
        values = self.scaling.standardise(runs)
        order = self.scaling.order
        increment, resolution = self.scaling.increment[order], self.scaling.resolution[order]
        design = families.design(
            self.emission,
            values,
            runs.lengths.astype(np.int64),
            increment,
            resolution,
            self.feature_scale,
        )
        jacobian = torch.from_numpy(self.scaling.log_jacobian(runs))
        if self.emission.dynamic:
            jacobian = jacobian - design.observed.sum(1).to(torch.float64) @ torch.from_numpy(
                np.log(increment)
            )
        entry = families.entry_design(self.emission, values, resolution)
        return Encoded(design, entry, jacobian)
