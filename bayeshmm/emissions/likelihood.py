"""Log-likelihood of every row under every state, and the moments that updates need.

For the axes of parameters see `law`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bayeshmm.emissions.design import Design, Pattern
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.quadratic import quadratic, sums, sums_along, sums_by_run
from bayeshmm.emissions.tails import row_terms

LOG_2PI = math.log(2.0 * math.pi)


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
        Expected number of rows that each equation is used in, (..., n, K, D).
    rounding
        Weighted variance of the rounding of the response, (..., n, K, D).
    first
        With run effects: weighted sums of ``[regressors, response]`` of every run, (..., N, K, D,
        R+1), or of ``[past, present]``, (..., N, K, 1, P+D). The first entry, of the constant, is
        the weight itself.
    """

    products: Tensor
    counts: Tensor
    rounding: Tensor
    first: Tensor | None = None

    def weighted(self, weight: float) -> Moments:
        """Those of every run counted `weight` times; `first`, of each run, stays."""
        products, counts, rounding = (weight * part for part in self[:3])
        return Moments(products, counts, rounding, self.first)


class Completion(NamedTuple):
    """Rows with missing responses, given a state: what is known of them.

    Attributes
    ----------
    log_factor
        Log-likelihood less that of the observed responses' distance, (..., rows, K).
    distance
        Expected squared residuals, missing responses minimised out, (..., rows, K).
    response
        Conditional mean of all responses, (..., rows, K, D); 0 for unused ones.
    covariance
        Conditional covariance of the missing ones at a weight of one, (..., n, K, D, D), zero
        elsewhere.
    """

    log_factor: Tensor
    distance: Tensor
    response: Tensor
    covariance: Tensor


class Hidden(NamedTuple):
    """What of a row is not observed, given a state: missing responses and Student-t weights.

    Attributes
    ----------
    completions
        One for each of ``design.patterns``.
    scale, log_scale
        Expected weight of each row and its expected logarithm, (..., N, T, K); None for normal
        noise.
    """

    completions: tuple[Completion, ...] = ()
    scale: Tensor | None = None
    log_scale: Tensor | None = None


def log_likelihood(design: Design, law: Law) -> tuple[Tensor, Hidden]:
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
    hidden
        What is integrated out.
    """
    factor = (law.log_variance + LOG_2PI).sum(-1)
    rounding = (law.precision * design.rounding).sum(-1)
    completions = tuple(complete(design, pattern, law) for pattern in design.patterns)
    if law.tail is None:
        rows = quadratic(design, law, factor + rounding)
        parts = [part.log_factor - 0.5 * part.distance for part in completions]
        return _inserted(design, rows, parts), Hidden(completions)
    log_normal = quadratic(design, law, rounding)
    log_normal = _inserted(design, log_normal, [-0.5 * part.distance for part in completions])
    kernel, scale, log_scale = row_terms(law.tail, design.responses, log_normal)
    weight = design.weight.view(*design.complete.shape, 1)
    rows = torch.addcmul(kernel, factor[..., None, :], weight, value=-0.5)
    if completions:
        partial = torch.cat([part.log_factor for part in completions], -2)
        flat = rows.flatten(-3, -2).index_add(-2, _places(design), partial)
        rows = flat.unflatten(-2, weight.shape[:2])
    return rows, Hidden(completions, scale, log_scale)


def _places(design: Design) -> Tensor:
    """Places of the rows of ``design.patterns`` among all rows of all runs."""
    T = design.complete.shape[1]
    return torch.cat([pattern.run * T + pattern.row for pattern in design.patterns])


def _inserted(design: Design, rows: Tensor, parts: list[Tensor]) -> Tensor:
    """`rows` (..., N, T, K) with those of ``design.patterns`` (..., rows, K) in place."""
    if not parts:
        return rows
    N, T = design.complete.shape
    flat = rows.expand(*rows.shape[:-3], N, T, -1).flatten(-3, -2)
    return flat.index_copy(-2, _places(design), torch.cat(parts, -2)).unflatten(-2, (N, T))


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
    if law.effects is not None:
        fitted = fitted + law.effects.mean.index_select(-3, pattern.run)
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
    if law.effects is not None and law.effects.spread is not None:
        leverage = law.effects.spread.leverage.index_select(-4, pattern.run) * used[:, None]
        variance = law.effects.spread.variance.index_select(-3, pattern.run) * used
        c = c + (variance - 2.0 * torch.einsum("rjp,...rkjp->...rkj", x, leverage[..., :P])).sum(-1)
        if design.layout.full:
            g = g + torch.nn.functional.pad(leverage[..., P:].sum(-2), (0, 1))

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
    return Completion(constant.expand(distance.shape), distance, rows, covariance)


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
    design: Design,
    states: Tensor,
    hidden: Hidden,
    *,
    by_run: bool = False,
    paths: Tensor | None = None,
) -> Moments:
    """Weighted second moments of ``[regressors, response]`` of every equation and state.

    Parameters
    ----------
    design
        N runs of at most T rows.
    states
        Probability of each state in each row, (..., N, T, K); 0 beyond the end of a run.
    hidden
        Missing responses and weights, from `log_likelihood`.
    by_run
        Whether to keep the moments of every run apart, n = N; otherwise n = 1.
    paths
        What `states` are the indicators of, (..., N, T), where they are certain; `scale` is then
        the same in all states. Faster where there are many products, and otherwise not needed.
    """
    weights = states if hidden.scale is None else states * hidden.scale
    if paths is not None and design.columns.many and not by_run:
        scale = None if hidden.scale is None else hidden.scale[..., 0]
        packed = sums_along(design, paths, scale, states.shape[-1])
    else:
        packed = sums(design, weights, by_run)
    columns = design.columns
    jointly = design.joint and not by_run
    products = (columns.unpacked_jointly if jointly else columns.unpacked)(packed)
    mass = packed[..., -1:].expand(*packed.shape[:-1], design.layout.metrics)
    counts = mass
    if hidden.scale is not None:
        complete = design.weight.view(*design.complete.shape, 1)
        rows = (states * complete).sum(-2)
        counts = (rows if by_run else rows.sum(-2, keepdim=True))[..., None].expand(mass.shape)
    first = None
    if design.layout.run_effects:
        distinct = design.distinct.view(*design.complete.shape, -1)
        by_equation = columns.first_jointly if jointly else columns.first
        first = by_equation(sums_by_run(distinct, weights))
    total = Moments(products, counts, mass * design.rounding, first)
    if hidden.completions:
        total = total._replace(counts=counts.clone())
    for pattern, completion in zip(design.patterns, hidden.completions, strict=True):
        _add_pattern(design, states, weights, pattern, completion, total)
    return total


def weight_moments(design: Design, states: Tensor, hidden: Hidden) -> tuple[Tensor, Tensor]:
    """What the degrees of freedom need of Student-t weights u.

    Returns
    -------
    rows
        Number of rows with a response, ().
    total
        Sum over them of ``E log u - E u``, (..., 1).
    """
    assert hidden.scale is not None
    assert hidden.log_scale is not None
    seen = (design.responses > 0)[..., None]
    total = (states * seen * (hidden.log_scale - hidden.scale)).sum((-3, -2, -1))
    return seen.sum().double(), total[..., None]


def _add_pattern(
    design: Design,
    states: Tensor,
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
    owner = pattern.run if n > 1 else torch.zeros_like(pattern.run)
    member = torch.nn.functional.one_hot(owner, n).double()[:, :, None]
    w = weights[..., pattern.run, pattern.row, :]
    certain = states[..., pattern.run, pattern.row, :]
    w = w[..., :, None, :] * member
    mass, rows = w.sum(-3), (certain[..., :, None, :] * member).sum(-3)
    x = design.past[pattern.run, pattern.row]
    z = completion.response
    weighted = w[..., None] * z[..., :, None, :, :]
    present = torch.einsum("...rnku,...rkv->...nkuv", weighted, z)
    present = present + rows[..., None, None] * completion.covariance
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
        total.counts[..., j] += rows
        if total.first is not None:
            by_run = weights[..., pattern.run, pattern.row, :, None]
            columns = torch.cat([x[:, None, j].expand(*z.shape[:-1], P), z[..., metrics]], -1)
            slots = torch.tensor([*range(P), *places.tolist()])
            full = torch.zeros(*z.shape[:-1], R + 1, dtype=torch.float64)
            full[..., slots] = by_run * columns
            total.first[..., j, :].index_add_(-3, pattern.run, full)
