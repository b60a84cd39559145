"""Log-likelihood of every row under every state, and the moments that updates need.

Parameters carry an axis of runs just before the axis of states: of size 1 where all runs share
them, of size N where each run has its own. Any further axes (restarts, chains, draws) lead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bayeshmm.emissions.design import Design, Pattern
from bayeshmm.emissions.quadratic import Quadratic, sums

LOG_2PI = math.log(2.0 * math.pi)


class Law(NamedTuple):
    """The regressions of every state: values of the parameters, or expectations under a posterior.

    Attributes
    ----------
    coefficients
        Shape (..., n, K, D, R) with n = 1 or N.
    precision
        1 / sigma^2 or its expectation, (..., n, K, D).
    log_variance
        log sigma^2 or its expectation, (..., n, K, D).
    covariance
        Covariance of the coefficients in units of sigma^2, (..., n, K, D, R, R); None where the
        parameters are known.
    """

    coefficients: Tensor
    precision: Tensor
    log_variance: Tensor
    covariance: Tensor | None = None


class Moments(NamedTuple):
    """Sufficient statistics of the regressions.

    Attributes
    ----------
    products
        Weighted second moments of ``[regressors, response]`` of every equation,
        (..., n, K, D, R+1, R+1). Where all equations read the first columns of
        ``[past, present]`` those of the latter, (..., n, K, 1, P+D, P+D): their leading blocks
        are the equations' moments.
    counts
        Weight of the rows that each equation is used in, (..., n, K, D).
    rounding
        Weighted variance of the rounding of the response, (..., n, K, D).
    """

    products: Tensor
    counts: Tensor
    rounding: Tensor


class Completion(NamedTuple):
    """Rows with missing responses, given a state: what is known of them.

    Attributes
    ----------
    log_likelihood
        Missing responses integrated out, (..., rows, K).
    response
        Conditional mean of all responses, (..., rows, K, D); 0 for unused ones.
    covariance
        Conditional covariance of the missing ones, (..., n, K, D, D), zero elsewhere.
    """

    log_likelihood: Tensor
    response: Tensor
    covariance: Tensor


def log_likelihood(design: Design, law: Law) -> tuple[Tensor, tuple[Completion, ...]]:
    """Expected log-likelihood of every row under every state.

    Parameters
    ----------
    design
        N runs of at most T rows.
    law
        Parameters; with `covariance` the result is the expectation under the posterior, the
        E-step of variational inference.

    Returns
    -------
    log_likelihood
        Shape (..., N, T, K); 0 in rows without any response and beyond the end of a run.
    completions
        One for each of ``design.patterns``.
    """
    N, T, _ = design.response.shape
    noise = (law.log_variance + LOG_2PI + law.precision * design.rounding).sum(-1)
    rows = Quadratic.apply(law.coefficients, law.precision, noise, law.covariance, design)
    completions = tuple(complete(design, pattern, law) for pattern in design.patterns)
    if completions:
        places = torch.cat([pattern.run * T + pattern.row for pattern in design.patterns])
        partial = torch.cat([completion.log_likelihood for completion in completions], -2)
        flat = rows.flatten(-3, -2).index_copy(-2, places, partial)
        rows = flat.unflatten(-2, (N, T))
    return rows, completions


def complete(design: Design, pattern: Pattern, law: Law) -> Completion:
    """Integrate the missing responses of the rows of `pattern` out.

    With ``tau_j`` row j of T the expected squared residuals of a row are the quadratic form
    ``z'Hz - 2g'z + c`` in its responses z, so that the missing ones are Gaussian given the
    observed ones, with precision ``H_MM``.
    """
    D, P = design.layout.metrics, design.layout.past
    used = pattern.used.to(torch.float64)
    by_row, r = _rows_of(law.precision.shape[-3], pattern)
    x = design.past[pattern.run, pattern.row]
    z = torch.where(pattern.observed, design.response[pattern.run, pattern.row], 0.0)

    tau = torch.eye(D, dtype=torch.float64).expand(*law.precision.shape, D)
    precision = law.precision * used
    past = by_row(law.coefficients[..., :P], 2)
    fitted = torch.einsum(f"rjp,...{r}kjp->...rkj", x, past)
    if design.layout.full:
        contrasts = law.coefficients[..., P:] * design.layout.active[:, P:]
        tau = tau - torch.nn.functional.pad(contrasts, (0, 1))
    H = tau.transpose(-1, -2) @ (precision[..., None] * tau)
    row_precision = by_row(precision, 1) if r else by_row(precision, 1).unsqueeze(-3)
    g = torch.einsum(f"...rkj,...{r}kju->...rku", row_precision * fitted, by_row(tau, 2))
    c = (row_precision * (fitted.square() + design.rounding * pattern.observed)).sum(-1)
    if law.covariance is not None:
        V = law.covariance * used[:, None, None]
        squares = torch.einsum("rjp,rjq->rjpq", x, x).flatten(1)
        own = by_row(V[..., :P, :P].flatten(-3), 1)
        c = c + torch.einsum(f"rm,...{r}km->...rk", squares, own)
        if design.layout.full:
            active = design.layout.active[:, P:].to(torch.float64)
            cross = (V[..., P:, :P] * active[:, :, None]).transpose(-2, -3).flatten(-2)
            shared = (V[..., P:, P:] * active[:, :, None] * active[:, None, :]).sum(-3)
            H = H + torch.nn.functional.pad(shared, (0, 1, 0, 1))
            shift = torch.einsum(f"rm,...{r}kcm->...rkc", x.flatten(1), by_row(cross, 2))
            g = g - torch.nn.functional.pad(shift, (0, 1))

    rows = z[:, None, :].expand(g.shape)
    covariance = torch.zeros_like(H)
    constant = -0.5 * ((law.log_variance + LOG_2PI) * used).sum(-1)
    if pattern.missing.any():
        places = pattern.missing.nonzero()[:, 0]
        factor = torch.linalg.cholesky(H[..., places, :][..., places])
        inverse = torch.cholesky_inverse(factor)
        known = torch.einsum(f"rv,...{r}kuv->...rku", z, by_row(H[..., places, :], 2))
        guess = torch.einsum(
            f"...{r}kuv,...rkv->...rku", by_row(inverse, 2), g[..., places] - known
        )
        rows = rows.index_copy(-1, places, guess)
        block = torch.zeros_like(H[..., places, :]).index_copy(-1, places, inverse)
        covariance = covariance.index_copy(-2, places, block)
        constant = constant + 0.5 * len(places) * LOG_2PI
        constant = constant - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    weighted = torch.einsum(f"...{r}kuv,...rkv->...rku", by_row(H, 2), rows)
    distance = ((weighted - 2.0 * g) * rows).sum(-1) + c
    constant = by_row(constant, 0) if r else by_row(constant, 0).unsqueeze(-2)
    return Completion(constant - 0.5 * distance, rows, covariance)


def _rows_of(runs: int, pattern: Pattern) -> tuple[Callable[[Tensor, int], Tensor], str]:
    """How parameters meet the rows of `pattern`: shared by all, or those of the row's run.

    Returns a function of parameters (..., n, K, *rest) and the number of axes in `rest`, which
    takes the axis of runs out or puts one of rows in its place, and the letter of that axis for
    ``einsum``.
    """
    if runs == 1:
        return lambda parameters, rest: parameters.squeeze(-2 - rest), ""
    return lambda parameters, rest: parameters.index_select(-2 - rest, pattern.run), "r"


def moments(
    design: Design, weights: Tensor, completions: tuple[Completion, ...], *, by_run: bool = False
) -> Moments:
    """Weighted second moments of ``[regressors, response]`` of every equation and state.

    Parameters
    ----------
    design
        N runs of at most T rows.
    weights
        Probability of each state in each row, (..., N, T, K); 0 beyond the end of a run.
    completions
        Missing responses, from `log_likelihood`.
    by_run
        Whether to keep the moments of every run apart, n = N; otherwise n = 1.
    """
    packed = sums(design, weights, by_run)
    if design.joint and not by_run:
        products = design.columns.unpacked_jointly(packed)
    else:
        products = design.columns.unpacked(packed)
    counts = packed[..., -1:].expand(*packed.shape[:-1], design.layout.metrics)
    total = Moments(products, counts, counts * design.rounding)
    if completions:
        total = total._replace(counts=counts.clone())
    for pattern, completion in zip(design.patterns, completions, strict=True):
        _add_pattern(design, weights, pattern, completion, total)
    return total


def _add_pattern(
    design: Design,
    weights: Tensor,
    pattern: Pattern,
    completion: Completion,
    total: Moments,
) -> None:
    """Add the expected moments of rows with missing responses to `total`.

    Each is a sum over rows r of weight times products of the past x and the completed present z,
    kept apart by the run n that the row belongs to.
    """
    n = total.counts.shape[-3]
    D, P, R = design.layout.metrics, design.layout.past, design.layout.regressors
    w = weights[..., pattern.run, pattern.row, :]
    owner = pattern.run if n > 1 else torch.zeros_like(pattern.run)
    w = w[..., :, None, :] * torch.nn.functional.one_hot(owner, n).to(w.dtype)[:, :, None]
    mass = w.sum(-3)
    x = design.past[pattern.run, pattern.row]
    z = completion.response
    weighted = w[..., None] * z[..., :, None, :, :]
    present = torch.einsum("...rnku,...rkv->...nkuv", weighted, z)
    present = present + mass[..., None, None] * completion.covariance
    cross = torch.einsum("rm,...rnkv->...nkmv", x.flatten(1), weighted).unflatten(-2, (D, P))
    squares = torch.einsum("rjp,rjq->rjpq", x, x).flatten(1)
    past = torch.einsum("rm,...rnk->...nkm", squares, w).unflatten(-1, (D, P, P))
    for j in pattern.used.nonzero()[:, 0].tolist():
        contrasts = j if design.layout.full else 0
        places = torch.tensor([*range(P, P + contrasts), R])
        metrics = torch.tensor([*range(contrasts), j])
        own = total.products[..., j, :, :]
        own[..., :P, :P] += past[..., j, :, :]
        mixed = cross[..., j, :, :][..., metrics]
        own[..., :P, places] += mixed
        own[..., places, :P] += mixed.transpose(-1, -2)
        own[..., places[:, None], places] += present[..., metrics, :][..., metrics]
        total.rounding[..., j] += mass * design.rounding[j] * bool(pattern.observed[j])
        total.counts[..., j] += mass
