"""Quadratic forms of the rows, and their transpose: sums over rows of products of columns."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from bayeshmm.emissions.design import Design

BLOCK = 1 << 17
"""Residuals formed together (a megabyte), so that they stay in the cache."""

EPSILON = torch.finfo(torch.float64).eps

ROUNDING = 1e-8
"""Largest error of a row's log-likelihood, in nats, that the rounding of products may cause."""


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
            if (packed.abs() @ design.largest).max() * EPSILON < ROUNDING:
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


def _signed(design: Design, coefficients: Tensor) -> Tensor:
    """Coefficients of ``[regressors, response]`` in minus the residuals, (..., n, K, D, R+1)."""
    return torch.nn.functional.pad(coefficients * design.layout.active, (0, 1), value=-1.0)


def _combined(design: Design, packed: Tensor) -> Tensor:
    """Linear combinations of ``design.products``, (..., n, K, M+1) to (..., N, T, K)."""
    *batch, n, K, M = packed.shape
    N, T = design.complete.shape
    if n > 1:
        return design.products.view(N, T, M) @ packed.transpose(-1, -2)
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
        return weights.transpose(-1, -2) @ design.products.view(N, T, -1)
    flat = weights.movedim(-1, -3).reshape(-1, N * T)
    return (flat @ design.products).view(*batch, 1, K, -1)
