"""The data of a set of runs as a recursive regression sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from bayeshmm.emissions.layout import Columns, Layout, columns


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

    def take(self, runs: Tensor) -> Design:
        """Some of the runs, by index."""
        return replace(
            self,
            response=self.response[runs],
            past=self.past[runs],
            observed=self.observed[runs],
            lengths=self.lengths[runs],
        )

    @cached_property
    def complete(self) -> Tensor:
        """Rows in which every metric has a response, bool (N, T)."""
        return self.observed.all(-1)

    @cached_property
    def weight(self) -> Tensor:
        """One in complete rows, zero in others, (N*T, 1)."""
        return self.complete.reshape(-1, 1).double()

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
    def columns(self) -> Columns:
        """Which columns every equation reads."""
        return columns(self.layout)

    @cached_property
    def responses(self) -> Tensor:
        """Number of observed responses in each row, (N, T)."""
        return self.observed.sum(-1).double()

    @cached_property
    def joint(self) -> bool:
        """Whether one matrix holds the moments of all equations: no row is left out of one."""
        return self.columns.joint and not self.patterns

    @cached_property
    def common(self) -> Tensor:
        """Columns that all equations may read, (C, N*T): zero in incomplete rows.

        Shared past regressors and, for a full covariance, the present.
        """
        past = self.past[:, :, 0, self.columns.shared]
        parts = [past, self.response] if self.layout.full else [past]
        return (torch.cat(parts, -1).flatten(0, 1) * self.weight).T.contiguous()

    @cached_property
    def own(self) -> Tensor:
        """Columns that one equation alone reads, (D, O, N*T): zero in incomplete rows.

        Its own past and, for a diagonal covariance, its response.
        """
        past = self.past[..., self.columns.own]
        parts = [past] if self.layout.full else [past, self.response[..., None]]
        columns = torch.cat(parts, -1).flatten(0, 1) * self.weight[..., None]
        return columns.permute(1, 2, 0).contiguous()

    @cached_property
    def distinct(self) -> Tensor:
        """Distinct columns, (N*T, C): zero in incomplete rows. See `Columns`."""
        shared = self.past[:, :, 0, self.columns.shared]
        own = self.past[..., self.columns.own].flatten(2)
        return torch.cat([shared, own, self.response], -1).flatten(0, 1) * self.weight

    @cached_property
    def products(self) -> Tensor:
        """What the sufficient statistics sum, (N*T, M+1): products of columns, and complete rows.

        See `Columns`.
        """
        columns = self.distinct
        products = torch.empty(len(columns), len(self.columns.left) + 1, dtype=torch.float64)
        left, right = columns[:, self.columns.left], columns[:, self.columns.right]
        torch.mul(left, right, out=products[:, :-1])
        products[:, -1:] = self.weight
        return products

    @cached_property
    def largest(self) -> tuple[Tensor, Tensor]:
        """Largest size of each of `products`, (M+1,), and of each distinct column, (C,)."""
        return _largest(self.products), _largest(self.distinct)


def _largest(columns: Tensor) -> Tensor:
    lowest, highest = columns.aminmax(dim=0)
    return torch.maximum(highest, -lowest)
