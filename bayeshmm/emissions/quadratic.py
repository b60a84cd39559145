"""Quadratic forms of the rows, and their transpose: sums over rows of products of columns."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from bayeshmm.emissions.design import Design
from bayeshmm.emissions.law import Effects, Law

BLOCK = 1 << 17
"""Residuals formed together (a megabyte), so that they stay in the cache."""

EPSILON = torch.finfo(torch.float64).eps

ROUNDING = 1e-8
"""Largest error of a row's log-likelihood, in nats, that the rounding of products may cause."""


def quadratic(design: Design, law: Law, noise: Tensor) -> Tensor:
    """Minus half of `noise` and of the rows' expected squared residuals at a weight of one.

    Parameters
    ----------
    design
        N runs of at most T rows.
    law
        Parameters or expectations.
    noise
        What every row has besides, (..., n, K).

    Returns
    -------
    Tensor
        Shape (..., N, T, K); 0 in incomplete rows.
    """
    if law.effects is None:
        return Quadratic.apply(law.coefficients, law.precision, noise, law.covariance, design)
    return _with_effects(design, law, law.effects, noise)


class Quadratic(torch.autograd.Function):
    """Minus half of the noise and of ``sum_j p_j (b_j'X_j)^2 + X_j' V_j X_j`` in complete rows.

    X_j are ``[regressors, response]`` of equation j, b_j its coefficients and -1, p_j its
    precision. The whole is one product of the columns' products, computed once, with the
    coefficients that they have. Where metrics are nearly functions of one another its terms
    cancel; where that might cost digits, and where it saves nothing, the residuals are formed
    explicitly. The gradient needs neither, but the rows' moments under its weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        coefficients: Tensor,
        precision: Tensor,
        noise: Tensor,
        covariance: Tensor | None,
        design: Design,
    ) -> Tensor:
        """Shapes are those of `likelihood.Law`; `noise` (..., n, K); the result (..., N, T, K)."""
        ctx.design = design
        ctx.save_for_backward(coefficients, precision)
        forms = _signed(design, coefficients)
        if covariance is not None or design.columns.compact:
            quadratic = (precision[..., None] * forms)[..., None] * forms[..., None, :]
            if covariance is not None:
                quadratic[..., :-1, :-1] += covariance
            packed = design.columns.packed(quadratic, noise)
            if (packed.abs() @ design.largest[0]).max() * EPSILON < ROUNDING:
                return _combined(design, packed)
        squares = _squares(design, precision.sqrt()[..., None] * forms)
        if covariance is None:
            weight = design.weight.view(*design.complete.shape, 1)
            return squares.addcmul_(noise[..., None, :], weight, value=-0.5)
        spread = torch.nn.functional.pad(covariance, (0, 1, 0, 1))
        return squares + _combined(design, design.columns.packed(spread, noise))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiable in turn: all of it is plain torch."""
        coefficients, precision = ctx.saved_tensors
        forms = _signed(ctx.design, coefficients)
        packed = sums(ctx.design, gradient, by_run=precision.shape[-3] > 1)
        moments = ctx.design.columns.unpacked(packed)
        slope = (moments @ forms[..., None])[..., 0]
        return (
            -precision[..., None] * slope[..., :-1] * ctx.design.layout.active,
            -0.5 * (slope * forms).sum(-1),
            -0.5 * packed[..., -1],
            -0.5 * moments[..., :-1, :-1] if ctx.needs_input_grad[3] else None,
            None,
        )


def _with_effects(design: Design, law: Law, effects: Effects, noise: Tensor) -> Tensor:
    """Rows whose residuals are less by the effect of their run.

    With f the signed coefficients, V their covariance, e the effect and c the shrunken means of a
    run's columns, a row C has the form ``p (f'C + e)^2 + (C - c)'V(C - c) + 1/kappa``: that
    without effects, and a linear form in the row for every run.
    """
    columns = design.columns
    forms = _signed(design, law.coefficients)
    pull = law.precision * effects.mean
    slope, offset = pull[..., None] * forms, pull * effects.mean
    spread = effects.spread
    if spread is not None:
        slope[..., :-1] -= spread.leverage
        offset += spread.variance
    if law.covariance is not None or columns.compact:
        square = (law.precision[..., None] * forms)[..., None] * forms[..., None, :]
        if law.covariance is not None:
            square[..., :-1, :-1] += law.covariance
        packed, slopes = columns.packed(square, noise), columns.linear(slope)
        size = (packed.abs() @ design.largest[0]).max() + (slopes.abs() @ design.largest[1]).max()
        if size * EPSILON < ROUNDING:
            return _shifted(design, _combined(design, packed), slopes, offset)
    own = forms.expand(*effects.mean.shape, -1).clone()
    own[..., 0] += effects.mean
    rows = _squares(design, law.precision.sqrt()[..., None] * own)
    if law.covariance is None or spread is None:
        weight = design.weight.view(*design.complete.shape, 1)
        return rows.addcmul_(noise[..., None, :], weight, value=-0.5)
    square = torch.nn.functional.pad(law.covariance, (0, 1, 0, 1))
    rows += _combined(design, columns.packed(square, noise))
    slopes = columns.linear(torch.nn.functional.pad(-spread.leverage, (0, 1)))
    return _shifted(design, rows, slopes, spread.variance)


def _shifted(design: Design, rows: Tensor, slopes: Tensor, offset: Tensor) -> Tensor:
    """Take a linear form for every run, in the distinct columns, from its rows."""
    N, T = design.complete.shape
    rows -= each_run(design.distinct.view(N, T, -1), slopes.transpose(-1, -2))
    weight = design.weight.view(N, T, 1)
    return rows.addcmul_(offset.sum(-1)[..., None, :], weight, value=-0.5)


def _signed(design: Design, coefficients: Tensor) -> Tensor:
    """Coefficients of ``[regressors, response]`` in minus the residuals, (..., n, K, D, R+1)."""
    return torch.nn.functional.pad(coefficients * design.layout.active, (0, 1), value=-1.0)


def _combined(design: Design, packed: Tensor) -> Tensor:
    """Linear combinations of ``design.products``, (..., n, K, M+1) to (..., N, T, K)."""
    *batch, n, K, M = packed.shape
    N, T = design.complete.shape
    if n > 1:
        return each_run(design.products.view(N, T, M), packed.transpose(-1, -2))
    rows = design.products @ packed.view(-1, M).T
    return rows.view(N, T, -1, K).permute(2, 0, 1, 3).reshape(*batch, N, T, K)


def _squares(design: Design, forms: Tensor) -> Tensor:
    """Minus half the sum of the squares of `forms` (..., n, K, D, R+1), (..., N, T, K)."""
    *batch, n, K, D, _ = forms.shape
    N, T = design.complete.shape
    B, span = math.prod(batch), N * T // n
    rows = min(span, max(256, BLOCK // (D * K * B)))
    some = max(1, BLOCK // (D * K * rows))
    # (n, D, B, K, ...): one equation of all states side by side, so that squares add up in place
    common, own = (
        part.reshape(B, n, K, D, part.shape[-1]).permute(1, 3, 0, 2, 4)
        for part in design.columns.split(forms)
    )
    total = torch.empty(B, N * T, K, dtype=torch.float64)
    for owner, b in itertools.product(range(n), range(0, B, some)):
        batch_common = common[owner, :, b : b + some].flatten(0, 2)
        batch_own = own[owner, :, b : b + some].flatten(1, 2)
        for first in range(owner * span, (owner + 1) * span, rows):
            place = slice(first, min(first + rows, (owner + 1) * span))
            residuals = (batch_common @ design.common[:, place]).view(D, -1, place.stop - first)
            if batch_own.shape[-1]:
                residuals.baddbmm_(batch_own, design.own[..., place])
            squares = residuals.square_().sum(0).unflatten(0, (-1, K)).transpose(1, 2)
            torch.mul(squares, -0.5, out=total[b : b + some, place])
    return total.view(*batch, N, T, K)


def sums(design: Design, weights: Tensor, by_run: bool) -> Tensor:
    """Weighted sums of ``design.products``, (..., n, K, M+1)."""
    *batch, N, T, K = weights.shape
    if by_run:
        return sums_by_run(design.products.view(N, T, -1), weights)
    flat = weights.movedim(-1, -3).reshape(-1, N * T)
    return (flat @ design.products).view(*batch, 1, K, -1)


def sums_by_run(columns: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums (..., N, K, C) over the rows of each run of `columns`, (N, T, C)."""
    return each_run(columns.transpose(-1, -2), weights).transpose(-1, -2)


def each_run(left: Tensor, right: Tensor) -> Tensor:
    """Products of (N, A, B) with (..., N, B, K), (..., N, A, K), without copies of `left`."""
    *batch, N, _, K = right.shape
    side_by_side = right.reshape(-1, *right.shape[-3:]).permute(1, 2, 0, 3).flatten(2)
    result = (left @ side_by_side).unflatten(-1, (-1, K)).permute(2, 0, 1, 3)
    return result.reshape(*batch, N, -1, K)


def sums_along(design: Design, paths: Tensor, weights: Tensor | None, states: int) -> Tensor:
    """`sums` where every row is in one state for certain: it is read once, and not K times.

    Parameters
    ----------
    design
        N runs of at most T rows.
    paths
        State of every row, (..., N, T); -1 beyond the end of a run.
    weights
        Of every row, (..., N, T), or None for ones.
    states
        K.
    """
    columns, batch = design.columns, paths.shape[:-2]
    flat = paths.reshape(-1, len(design.distinct))
    complete = design.weight[:, 0]
    masses = complete.expand(flat.shape) if weights is None else weights.reshape(flat.shape)
    packed = torch.empty(len(flat), states, len(columns.left) + 1, dtype=torch.float64)
    for b, k in itertools.product(range(len(flat)), range(states)):
        rows = (flat[b] == k).nonzero()[:, 0]
        part, mass = design.distinct[rows], masses[b, rows]
        weighted = part if weights is None else part * mass[:, None]
        packed[b, k, :-1] = (part.T @ weighted)[columns.left, columns.right]
        packed[b, k, -1] = mass @ complete[rows]
    return packed.view(*batch, 1, states, -1)
