"""The data of a set of runs as a recursive regression sees them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bayeshmm.emissions.layout import Layout


@dataclass(frozen=True)
class Pattern:
    """Rows that miss the same metrics.

    Attributes
    ----------
    run, row
        Where the rows are, shape (n,).
    observed
        Metrics with an observed response, bool (D,), model order.
    used
        Equations that these rows bear on, bool (D,). For a full covariance: all up to the last
        observed metric, those after it drop out exactly; otherwise the observed ones.
    """

    run: Tensor
    row: Tensor
    observed: Tensor
    used: Tensor

    @property
    def missing(self) -> Tensor:
        """Responses to be integrated out, bool (D,)."""
        return self.used & ~self.observed


@dataclass(frozen=True)
class Design:
    """Responses and regressors of N runs of at most T rows, in model order and model units.

    Attributes
    ----------
    layout
        Shape of the regressions.
    response
        Increments (levels for `Gaussian`) in units of their scale, (N, T, D); 0 where unobserved.
    past
        Features of the past, (N, T, D, P); zero beyond the end of a run.
    observed
        Whether the response exists, bool (N, T, D).
    lengths
        Rows of each run, (N,).
    rounding
        Variance of rounding, ``resolution^2 / 12`` in units of the response, (D,). Added to every
        squared residual: the expected log-likelihood under uniform rounding, which bounds the
        density of metrics that stand still.
    """

    layout: Layout
    response: Tensor
    past: Tensor
    observed: Tensor
    lengths: Tensor
    rounding: Tensor

    @cached_property
    def complete(self) -> Tensor:
        """Rows in which every metric has a response, bool (N, T)."""
        return self.observed.all(-1)

    @cached_property
    def patterns(self) -> tuple[Pattern, ...]:
        """Rows with some but not all responses, grouped by what they miss."""
        partial = self.observed.any(-1) & ~self.complete
        if not partial.any():
            return ()
        run, row = partial.nonzero(as_tuple=True)
        kinds, which = torch.unique(self.observed[run, row], dim=0, return_inverse=True)
        patterns = []
        for i, observed in enumerate(kinds):
            if self.layout.full:
                last = int(observed.nonzero().max())
                used = torch.arange(self.layout.metrics) <= last
            else:
                used = observed
            patterns.append(Pattern(run[which == i], row[which == i], observed, used))
        return tuple(patterns)

    @cached_property
    def regressors(self) -> Tensor:
        """Regressors and response of every equation, (D, N*T, R+1); zero in incomplete rows."""
        N, T, D = self.response.shape
        P, R = self.layout.past, self.layout.regressors
        columns = torch.zeros(D, N * T, R + 1, dtype=torch.float64)
        columns[:, :, :P] = self.past.reshape(N * T, D, P).transpose(0, 1)
        present = self.response.reshape(N * T, D)
        if self.layout.full:
            columns[:, :, P:R] = present[None, :, : D - 1]
            columns[:, :, :R] *= self.layout.active[:, None, :]
        columns[:, :, R] = present.T
        return columns * self.complete.reshape(1, N * T, 1)

    @cached_property
    def products(self) -> Tensor:
        """Products of columns that the sufficient statistics sum, (N*T, M); see `Layout`."""
        N, T, D = self.response.shape
        flat = torch.cat(
            [self.past.reshape(N * T, D * self.layout.past), self.response.reshape(N * T, D)], 1
        )
        flat = flat * self.complete.reshape(N * T, 1)
        left, right = self.layout.products
        return flat[:, left] * flat[:, right]
