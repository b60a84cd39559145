"""The recursive regression: which regressors every metric's equation has, and their groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

RUN = "run"
"""Name of the shrinkage group of the run effects."""


@dataclass(frozen=True)
class Layout:
    """Shape of D univariate regressions, each on the past and on the present before it.

    Metric j (in model order) is regressed on features of its own past, of every metric's past
    where they are *coupled*, and, for a full noise covariance, on the *increments* of metrics
    0..j-1 in the same row, the contrasts. With unit lower triangular ``T`` (minus the contrast
    coefficients) and diagonal ``S`` the residual covariance of a row is ``T^-1 S T^-T``.

    Coefficients are stored in arrays of R = P + (D - 1 if full else 0) regressors; those that an
    equation does not have are *inactive*: their data are zero and their prior is N(0, sigma^2).
    The first regressor is constant, and run effects are shifts of its coefficient.

    Attributes
    ----------
    metrics
        D.
    features
        Names of the features of one metric's past; the first is a constant.
    full
        Whether contrasts are present (``covariance="full"``).
    coupled
        Whether every equation has the past of all metrics (``coupling="full"``): the constant,
        then the features of metric 0, 1, ...
    run_effects
        Whether each run has its own constant.
    """

    metrics: int
    features: tuple[str, ...]
    full: bool
    coupled: bool = False
    run_effects: bool = False

    @property
    def past(self) -> int:
        """Number P of past regressors of an equation."""
        own = len(self.features) - 1
        return 1 + (self.metrics * own if self.coupled else own)

    @property
    def regressors(self) -> int:
        """Number R of stored regressors of an equation."""
        return self.past + (self.metrics - 1 if self.full else 0)

    @cached_property
    def group_names(self) -> tuple[str, ...]:
        """Groups of coefficients that share one precision: own, cross, and the run effects."""
        cross = self.coupled and self.metrics > 1
        return (
            *self.features,
            *(f"cross {name}" for name in self.features[1:] if cross),
            *([RUN] if self.run_effects else []),
        )

    @cached_property
    def group_index(self) -> Tensor:
        """Group of each past regressor of each equation, shape (D, P)."""
        D, own = self.metrics, len(self.features) - 1
        if not self.coupled:
            return torch.arange(1 + own).expand(D, -1)
        kind = torch.arange(1, 1 + own).expand(D, D, own)
        crossed = ~torch.eye(D, dtype=torch.bool)[:, :, None]
        index = torch.where(crossed, kind + own, kind).flatten(1)
        return torch.nn.functional.pad(index, (1, 0))

    @cached_property
    def members(self) -> Tensor:
        """Which group each past regressor of each equation is in, 0 or 1, shape (D * P, G)."""
        index = self.group_index.flatten()
        return torch.nn.functional.one_hot(index, len(self.group_names)).double()

    @cached_property
    def shared(self) -> tuple[bool, ...]:
        """Whether all equations have the same past regressor at each place, (P,)."""
        return (True, *([self.coupled] * (self.past - 1)))

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

    Attributes
    ----------
    size
        Number C of distinct columns.
    place
        Column at each entry of ``[regressors, response]`` of each equation, (D, R+1), and C where
        there is none.
    joint
        Whether the equations read the first columns of ``[past, present]`` and give them the same
        prior: the moments of each are then a leading block of one matrix.
    compact
        Whether a quadratic form in the products is cheaper than the residuals that it sums.
    many
        Whether the products are so many that reading them costs more than forming them again.
    left, right
        Pairs of columns whose products the sufficient statistics sum, (M,) each.
    index, exists
        Product at each entry of the moments of ``[regressors, response]``, (D, R+1, R+1), and
        whether there is one; M where not.
    """

    def __init__(self, layout: Layout) -> None:
        D, P, R = layout.metrics, layout.past, layout.regressors
        self.shared = [p for p in range(P) if layout.shared[p]]
        self.own = [p for p in range(P) if not layout.shared[p]]
        self.full = layout.full
        self.joint = layout.full and not self.own and not layout.coupled
        present = len(self.shared) + D * len(self.own)
        self.size = present + D
        self.place = torch.full((D, R + 1), self.size)
        position: dict[tuple[int, int], int] = {}
        index = np.full((D, R + 1, R + 1), -1)
        for j in range(D):
            columns = dict(zip(self.shared, range(len(self.shared)), strict=True))
            first = len(self.shared) + j * len(self.own)
            columns |= {p: first + i for i, p in enumerate(self.own)}
            columns |= {P + i: present + i for i in range(j if layout.full else 0)}
            columns[R] = present + j
            self.place[j, list(columns)] = torch.tensor(list(columns.values()))
            for u, a in columns.items():
                for v, b in columns.items():
                    pair = (min(a, b), max(a, b))
                    index[j, u, v] = position.setdefault(pair, len(position))
        self.left, self.right = torch.tensor(list(position)).T
        self.exists = torch.from_numpy(index >= 0)
        self.index = torch.from_numpy(np.where(index >= 0, index, len(position)))
        read = len(self.shared) + len(self.own) + (D if layout.full else 1)
        self.many = len(position) > 8 * self.size
        self.compact = len(position) <= 2 * D * read

    def unpacked(self, sums: Tensor) -> Tensor:
        """Moments of every equation, (..., D, R+1, R+1), from sums of products (..., M+1)."""
        return sums[..., self.index] * self.exists

    def unpacked_jointly(self, sums: Tensor) -> Tensor:
        """Moments of ``[past, present]``, (..., 1, P+D, P+D): all that the last equation reads."""
        return sums[..., self.index[-1:]]

    def linear(self, forms: Tensor) -> Tensor:
        """Sum over equations of linear forms (..., D, R+1), in the distinct columns, (..., C)."""
        total = torch.zeros(*forms.shape[:-2], self.size + 1, dtype=torch.float64)
        return total.index_add_(-1, self.place.flatten(), forms.flatten(-2))[..., :-1]

    def first(self, sums: Tensor) -> Tensor:
        """Sums (..., C) of the distinct columns by equation, (..., D, R+1)."""
        return torch.nn.functional.pad(sums, (0, 1))[..., self.place]

    def first_jointly(self, sums: Tensor) -> Tensor:
        """Sums (..., C) as sums of ``[past, present]``, (..., 1, P+D)."""
        return sums[..., None, :]

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
def columns(layout: Layout) -> Columns:
    """The same `Columns` for the same layout."""
    return Columns(layout)
