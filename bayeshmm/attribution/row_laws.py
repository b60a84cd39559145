"""The law of a row given the rows before it, by draw and state: means and covariances.

The recursive regressions multiplied out, which does not depend on the order of their recursion:
with unit lower triangular T and diagonal S, ``T z = C x + e`` has mean ``T^-1 C x`` and covariance
``T^-1 S T^-T``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeshmm.checks.residuals import unmixing
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.law import Law
from bayeshmm.scaling import spanned_gaps

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior


@dataclass(frozen=True)
class RowLaws:
    """Laws of the rows of N fitted runs under S draws of the parameters, in units of the model.

    Attributes
    ----------
    design
        The rows.
    law
        The draws.
    inverse
        ``T^-1``, (S, K, D, D).
    covariance
        Of the noise of a row; with Student-t noise, of a row of weight one, (S, K, D, D).
    """

    design: Design
    law: Law
    inverse: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, design: Design, law: Law) -> RowLaws:
        """The laws for draws of the parameters that all runs share, (S, 1, ...)."""
        inverse, variance = unmixing(design.layout, law)[:, 0], 1.0 / law.precision[:, 0]
        covariance = (inverse * variance[..., None, :]) @ inverse.transpose(-1, -2)
        return cls(design, law, inverse, covariance)

    def mean(self, draw: Tensor, state: Tensor | int, run: Tensor, row: Tensor) -> Tensor:
        """Mean of M rows, each under a draw and a state of its own, (M, D).

        Parameters
        ----------
        draw, state, run, row
            Indices, (M,).
        """
        past = self.design.past[run, row]
        coefficients = self.law.coefficients[draw, 0, state, :, : past.shape[-1]]
        fitted = (past * coefficients).sum(-1)
        if self.law.effects is not None:
            fitted = fitted + self.law.effects.mean[draw, run, state]
        return (self.inverse[draw, state] @ fitted[..., None])[..., 0]

    def residual(self, draw: Tensor, state: Tensor | int, run: Tensor, row: Tensor) -> Tensor:
        """Rows less their `mean`, (M, D); 0 where they lack the metric."""
        gap = self.design.response[run, row] - self.mean(draw, state, run, row)
        return torch.where(self.design.observed[run, row], gap, 0.0)


def data_units(posterior: Posterior) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a response of one is in the data, and how many steps it spans; metrics in model order.

    Returns
    -------
    unit
        In the units of the data, after the logarithm where one is taken, (N, T, D).
    elapsed
        Training steps since the metric was observed last, (N, T, D); NaN where it never was.
    """
    runs, scaling = posterior.runs, posterior.encoding.scaling
    values, sd = scaling.standardise(runs), scaling.sd[scaling.order]
    if not posterior.hmm.dynamic:
        return np.broadcast_to(sd, values.shape), np.full(values.shape, np.nan)
    pace = scaling.pace(runs)
    unit = sd * scaling.increment[scaling.order] * spanned_gaps(values, pace.gaps) ** pace.exponent
    seen = np.where(np.isnan(values), -1, runs.steps[..., None])
    last = np.maximum.accumulate(seen, axis=1)
    last = np.concatenate([np.full_like(last[:, :1], -1), last[:, :-1]], axis=1)
    inside = (last >= 0) & (runs.steps[..., None] >= 0)
    return unit, np.where(inside, runs.steps[..., None] - last, np.nan)


def persistence(posterior: Posterior, laws: RowLaws) -> NDArray[np.float64]:
    """Sum of the autoregressive coefficients of every metric on itself, (S, K, D), in model order.

    What is left of a constant level after a row: 1 where the metric stays or drifts wherever it is,
    less where it is drawn back to a level (Andrews and Chen 1994).
    """
    layout, encoding = laws.design.layout, posterior.encoding
    order = encoding.scaling.order
    coefficients = laws.law.coefficients[:, 0, :, :, : layout.past]
    if layout.coupled:
        own = 1 + (len(layout.features) - 1) * torch.arange(layout.metrics)
        on_level = (laws.inverse @ coefficients)[..., own].diagonal(dim1=-2, dim2=-1)
    else:
        on_level = coefficients[..., 1]
    return 1.0 + on_level.numpy() * encoding.scaling.increment[order] / encoding.feature_scale[:, 1]
