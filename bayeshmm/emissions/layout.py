"""The recursive regression: which regressors every metric's equation has, and their groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Shape of D univariate regressions, each on its own past and on the present before it.

    Metric j (in model order) is regressed on P features of its own past and, for a full noise
    covariance, on the *increments* of metrics 0..j-1 in the same row, the contrasts. With unit
    lower triangular ``T`` (minus the contrast coefficients) and diagonal ``S`` the residual
    covariance of a row is ``T^-1 S T^-T``.

    Coefficients are stored in arrays of R = P + (D - 1 if full else 0) regressors; those that an
    equation does not have are *inactive*: their data are zero and their prior is N(0, sigma^2).

    Attributes
    ----------
    metrics
        D.
    groups
        Name of the shrinkage group of each past regressor; equal names share one precision.
    full
        Whether contrasts are present (``covariance="full"``).
    """

    metrics: int
    groups: tuple[str, ...]
    full: bool

    @property
    def past(self) -> int:
        """Number P of past regressors."""
        return len(self.groups)

    @property
    def regressors(self) -> int:
        """Number R of stored regressors of an equation."""
        return self.past + (self.metrics - 1 if self.full else 0)

    @cached_property
    def group_names(self) -> tuple[str, ...]:
        """Distinct shrinkage groups, in order of appearance."""
        return tuple(dict.fromkeys(self.groups))

    @cached_property
    def group_index(self) -> Tensor:
        """Group of each past regressor, shape (P,)."""
        return torch.tensor([self.group_names.index(name) for name in self.groups])

    @cached_property
    def active(self) -> Tensor:
        """Which regressors each equation has, bool, shape (D, R)."""
        active = torch.ones(self.metrics, self.regressors, dtype=torch.bool)
        for j in range(self.metrics):
            active[j, self.past + j :] = False
        return active

    @cached_property
    def products(self) -> tuple[Tensor, Tensor]:
        """Pairs of columns of ``[x (D*P), z (D)]`` whose products the sufficient statistics need.

        Per metric: past with past, past with the present that its equation uses, and its present
        with that present. A product that several equations need is computed once.
        """
        left, right = [], []
        for j in range(self.metrics):
            own = [j * self.past + p for p in range(self.past)]
            present = self._present(j)
            left += [own[p] for p in range(self.past) for _ in range(p, self.past)]
            right += [own[q] for p in range(self.past) for q in range(p, self.past)]
            left += [own[p] for p in range(self.past) for _ in present]
            right += [c for _ in range(self.past) for c in present]
            left += [present[-1]] * len(present)
            right += present
        return torch.tensor(left), torch.tensor(right)

    def _present(self, j: int) -> list[int]:
        """Columns of the present that equation j uses: its contrasts and its response."""
        first = self.metrics * self.past
        return list(range(first if self.full else first + j, first + j + 1))

    @cached_property
    def gather(self) -> tuple[Tensor, Tensor]:
        """How to unpack products into one moment matrix per equation.

        Returns
        -------
        index
            Product at each entry of the moment matrix of ``[regressors, response]``,
            shape (D, R+1, R+1).
        present
            Whether that entry exists, same shape.
        """
        left, right = self.products
        position = {
            pair: i for i, pair in enumerate(zip(left.tolist(), right.tolist(), strict=True))
        }
        Q = self.regressors + 1
        index = torch.zeros(self.metrics, Q, Q, dtype=torch.long)
        exists = torch.zeros(self.metrics, Q, Q, dtype=torch.bool)
        for j in range(self.metrics):
            present = self._present(j)
            columns = {p: j * self.past + p for p in range(self.past)}
            columns |= {self.past + i: c for i, c in enumerate(present[:-1])}
            columns[Q - 1] = present[-1]
            for u, a in columns.items():
                for v, b in columns.items():
                    pair = (a, b) if (a, b) in position else (b, a)
                    index[j, u, v] = position[pair]
                    exists[j, u, v] = True
        return index, exists
