"""How much of the evidence for one law against another each metric carries.

A set of metrics has the evidence that there would be had nothing else been recorded: the log ratio
of the densities of these metrics of a row, given the rows before it. What a metric adds depends on
which others are known already, and its part is the mean over all orders in which they may become
known (Shapley 1953, "A value for n-person games"). Parts add up to the whole, do not depend on the
order of the metrics, and are 0 for a metric that tells nothing, whatever else is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from bayeshmm.attribution.row_laws import RowLaws

ROUNDS = 2
"""Orders of more than three groups that are drawn; each is rotated and reversed."""


class Residuals(NamedTuple):
    """M rows under J states: what densities and their gradients are made of; D in model order.

    Attributes
    ----------
    value
        Rows less their means, (J, M, D); 0 where they lack the metric.
    covariance
        Of the noise of each of C cells, rows of one draw that lack the same metrics, (J, C, D, D):
        that of a metric that is lacking is 1 and nothing else.
    cell, members
        Cell of every row, (M,), and rows of every cell.
    observed
        Which metrics it has, (M, D).
    rounding
        What rounding adds to the squared residuals, (J, M, D).
    degrees
        Degrees of freedom, (M, 1); None for normal noise.
    """

    value: Tensor
    covariance: Tensor
    cell: Tensor
    members: tuple[Tensor, ...]
    observed: Tensor
    rounding: Tensor
    degrees: Tensor | None

    @classmethod
    def of(
        cls, laws: RowLaws, states: Sequence[int], draw: Tensor, run: Tensor, row: Tensor
    ) -> Residuals:
        """Rows (M,), each under a draw of its own, in some of the states."""
        observed = laws.design.observed[run, row]
        kinds, cell = torch.unique(
            torch.cat([draw[:, None], observed.long()], -1), dim=0, return_inverse=True
        )
        has = kinds[:, 1:].bool()
        eye = torch.eye(has.shape[-1], dtype=torch.float64)
        both = has[:, :, None] & has[:, None, :]
        precision = laws.law.precision[draw, 0].movedim(1, 0)[list(states)]
        tail = laws.law.tail
        return cls(
            torch.stack([laws.residual(draw, k, run, row) for k in states]),
            torch.stack([torch.where(both, laws.covariance[kinds[:, 0], k], eye) for k in states]),
            cell,
            cell.argsort(stable=True).split(cell.bincount().tolist()),
            observed,
            precision * laws.design.rounding * observed,
            None if tail is None else tail.degrees[draw],
        )

    def log_ratio(self, order: Sequence[int]) -> Tensor:
        """Log density in state 1 less that in state 0 of the first 1, 2, ... of the metrics listed.

        Shape (M, len(order)).
        """
        factor = torch.linalg.cholesky(self.covariance[..., order, :][..., order])
        eye = torch.eye(len(order), dtype=torch.float64)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
        value = self.value[..., order]
        white = torch.empty_like(value)
        for whiten, rows in zip(inverse.transpose(-1, -2).unbind(1), self.members, strict=True):
            white[:, rows] = value[:, rows] @ whiten
        distance = (white.square() + self.rounding[..., order]).cumsum(-1)
        if self.degrees is not None:
            count = self.observed[:, order].cumsum(-1)
            distance = (self.degrees + count) * torch.log(self.degrees + distance)
        scale = factor.diagonal(dim1=-2, dim2=-1).log().cumsum(-1)[:, self.cell]
        density = -0.5 * distance - scale  # and terms that are the same in both states
        return density[1] - density[0]

    def scores(self) -> Tensor:
        """Gradient of the log density of every row in every state with respect to it, (J, M, D)."""
        factor = torch.linalg.cholesky(self.covariance)[:, self.cell]
        solved = torch.cholesky_solve(self.value[..., None], factor)[..., 0]
        if self.degrees is not None:
            distance = (self.value * solved + self.rounding).sum(-1, keepdim=True)
            count = self.observed.sum(-1, keepdim=True)
            solved = solved * (self.degrees + count) / (self.degrees + distance)
        return -solved


def shapley(residuals: Residuals, groups: Sequence[Sequence[int]]) -> Tensor:
    """Part of the log ratio that each group of metrics carries, (M, groups).

    Exact for up to three groups. Of more, the mean over random orders, each rotated and reversed,
    so that every group takes every place equally often.
    """
    total = torch.zeros(len(residuals.cell), len(groups), dtype=torch.float64)
    orders = _orders(len(groups))
    for order in orders:
        metrics = [metric for i in order for metric in groups[i]]
        ends = np.cumsum([len(groups[i]) for i in order]) - 1
        known = torch.nn.functional.pad(residuals.log_ratio(metrics)[:, ends], (1, 0))
        total[:, order] += known.diff(dim=-1)
    return total / len(orders)


def collinear_groups(covariance: Tensor, names: Sequence[str], threshold: float) -> list[list[int]]:
    """Metrics whose noise is correlated beyond a threshold, directly or through others.

    Parameters
    ----------
    covariance
        (..., D, D); a pair's largest absolute correlation counts.
    names
        Of the metrics: groups and their members are sorted by name.
    threshold
        In (0, 1).
    """
    deviation = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = covariance / (deviation[..., None] * deviation[..., None, :])
    largest = correlation.abs().flatten(0, -3).amax(0).numpy()
    _, label = connected_components(largest > threshold, directed=False)
    by_name = sorted(range(len(names)), key=lambda j: names[j])
    first: dict[int, list[int]] = {}
    for j in by_name:
        first.setdefault(int(label[j]), []).append(j)
    return list(first.values())


def _orders(groups: int) -> list[NDArray[np.int64]]:
    """Orders in which every group takes every place equally often; all of them for up to three."""
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(groups) for _ in range(1 if groups <= 3 else ROUNDS)]
    rotated = [np.roll(order, shift) for order in drawn for shift in range(groups)]
    return [*rotated, *(order[::-1].copy() for order in rotated)]
