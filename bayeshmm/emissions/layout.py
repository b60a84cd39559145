"""The recursive regression: which regressors every metric's equation has, and their groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

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
    def members(self) -> Tensor:
        """Which group each past regressor is in, 0 or 1, shape (P, G)."""
        return torch.nn.functional.one_hot(self.group_index, len(self.group_names)).double()

    @cached_property
    def active(self) -> Tensor:
        """Which regressors each equation has, bool, shape (D, R)."""
        active = torch.ones(self.metrics, self.regressors, dtype=torch.bool)
        for j in range(self.metrics):
            active[j, self.past + j :] = False
        return active


class Columns:
    """The distinct columns of the data, and which of them every equation reads.

    In order: past regressors that all equations share (an intercept), every equation's own past,
    and the present (the responses). A product that several equations need is computed once.

    Parameters
    ----------
    layout
        Shape of the regressions.
    shared
        Whether each past regressor is the same in all equations, (P,).

    Attributes
    ----------
    joint
        Whether all equations read the first columns of ``[past, present]``: the moments of each
        are then a leading block of one matrix.
    compact
        Whether a quadratic form in the products is cheaper than the residuals that it sums.
    left, right
        Pairs of columns whose products the sufficient statistics sum, (M,) each.
    index, exists
        Product at each entry of the moments of ``[regressors, response]``, (D, R+1, R+1), and
        whether there is one; M where not.
    """

    def __init__(self, layout: Layout, shared: tuple[bool, ...]) -> None:
        D, P, R = layout.metrics, layout.past, layout.regressors
        self.shared = [p for p in range(P) if shared[p]]
        self.own = [p for p in range(P) if not shared[p]]
        self.full = layout.full
        self.joint = layout.full and not self.own
        present = len(self.shared) + D * len(self.own)
        position: dict[tuple[int, int], int] = {}
        index = torch.full((D, R + 1, R + 1), -1)
        for j in range(D):
            columns = dict(zip(self.shared, range(len(self.shared)), strict=True))
            first = len(self.shared) + j * len(self.own)
            columns |= {p: first + i for i, p in enumerate(self.own)}
            columns |= {P + i: present + i for i in range(j if layout.full else 0)}
            columns[R] = present + j
            for u, a in columns.items():
                for v, b in columns.items():
                    pair = (min(a, b), max(a, b))
                    index[j, u, v] = position.setdefault(pair, len(position))
        self.left, self.right = torch.tensor(list(position)).T
        self.exists = index >= 0
        self.index = torch.where(self.exists, index, len(position))
        read = len(self.shared) + len(self.own) + (D if layout.full else 1)
        self.compact = len(position) <= 2 * D * read

    def unpacked(self, sums: Tensor) -> Tensor:
        """Moments of every equation, (..., D, R+1, R+1), from sums of products (..., M+1)."""
        return sums[..., self.index] * self.exists

    def unpacked_jointly(self, sums: Tensor) -> Tensor:
        """Moments of ``[past, present]``, (..., 1, P+D, P+D): all that the last equation reads."""
        return sums[..., self.index[-1:]]

    def packed(self, quadratic: Tensor, constant: Tensor) -> Tensor:
        """Coefficients of the products, (..., M+1), in minus half of some quadratic forms.

        Parameters
        ----------
        quadratic
            Of ``[regressors, response]`` of every equation, (..., D, R+1, R+1).
        constant
            Of a complete row, (...).
        """
        size = len(self.left) + 1
        total = torch.zeros(*constant.shape, size, dtype=torch.float64)
        total.index_add_(-1, self.index.flatten(), quadratic.flatten(-3), alpha=-0.5)
        total[..., -1] = -0.5 * constant
        return total

    def split(self, forms: Tensor) -> tuple[Tensor, Tensor]:
        """Linear forms (..., D, R+1) in the columns that are common, and in an equation's own.

        See `Design.common` and `Design.own`.
        """
        P = len(self.shared) + len(self.own)
        common, own = forms[..., self.shared], forms[..., self.own]
        if not self.full:
            return common, torch.cat([own, forms[..., -1:]], -1)
        present = torch.nn.functional.pad(forms[..., P:-1], (0, 1))
        return torch.cat([common, present + torch.diag_embed(forms[..., -1])], -1), own


@lru_cache(maxsize=8)
def columns(layout: Layout, shared: tuple[bool, ...]) -> Columns:
    """The same `Columns` for the same data."""
    return Columns(layout, shared)
