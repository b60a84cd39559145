"""Conjugate updates of normal-inverse-gamma regressions, run effects included."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bayeshmm.emissions.law import Effects, Law, Spread
from bayeshmm.emissions.likelihood import Moments

EPSILON = torch.finfo(torch.float64).eps

NOT_FINITE = (
    "the moments of the metrics are not finite: a metric is too large for double precision. "
    "Model its logarithm, log=, or leave it out, metrics=."
)


class RunMeans(NamedTuple):
    """Posterior of the run effects given the coefficients b: ``N(response - regressors'b, ...)``.

    Attributes
    ----------
    regressors
        Shrunken weighted means of each run's regressors, (..., N, K, D, R).
    response
        The same of the response, (..., N, K, D).
    variance
        1 / (lambda_run + weight), in units of sigma^2, (..., N, K, D).
    """

    regressors: Tensor
    response: Tensor
    variance: Tensor

    def effects(self, coefficients: Tensor) -> Tensor:
        """Means of the effects given coefficients (..., 1, K, D, R)."""
        return self.response - (self.regressors * coefficients).sum(-1)


class NormalInverseGamma(NamedTuple):
    """Law of the coefficients, variance and run effects of every equation in every state.

    ``b | sigma^2 ~ N(mean, sigma^2 covariance)``, ``sigma^2 ~ InverseGamma(shape, rate)``.

    Attributes
    ----------
    mean
        Shape (..., n, K, D, R).
    covariance
        Shape (..., n, K, D, R, R).
    log_det
        Log determinant of `covariance`, (..., n, K, D).
    shape, rate
        Shape (..., n, K, D).
    runs
        Of the run effects given the coefficients (n is then 1), or None.
    """

    mean: Tensor
    covariance: Tensor
    log_det: Tensor
    shape: Tensor
    rate: Tensor
    runs: RunMeans | None = None

    @property
    def law(self) -> Law:
        """Expectations that the expected log-likelihood needs."""
        return Law(
            self.mean,
            self.shape / self.rate,
            self.rate.log() - torch.digamma(self.shape),
            self.covariance,
            self._effects,
        )

    @property
    def _effects(self) -> Effects | None:
        if self.runs is None:
            return None
        centres = self.runs.regressors
        by_equation = centres.movedim(-4, -2) @ self.covariance.squeeze(-5)
        leverage = by_equation.movedim(-2, -4)
        variance = self.runs.variance + (leverage * centres).sum(-1)
        return Effects(self.runs.effects(self.mean), Spread(leverage, variance))

    def widened(self, precision: Tensor) -> NormalInverseGamma:
        """The law of a run that is not among those fitted, its effect part of the constant.

        Parameters
        ----------
        precision
            ``lambda_run``, (..., 1).
        """
        spread = (1.0 / precision)[..., None, None]
        covariance = self.covariance.clone()
        log_det = self.log_det + torch.log1p(spread * torch.linalg.inv(covariance)[..., 0, 0])
        covariance[..., 0, 0] += spread
        return self._replace(covariance=covariance, log_det=log_det, runs=None)

    def relabelled(self, order: Tensor) -> NormalInverseGamma:
        """The same law with ``order[i]`` as state i."""
        runs = self.runs
        if runs is not None:
            runs = RunMeans(
                runs.regressors[..., order, :, :],
                runs.response[..., order, :],
                runs.variance[..., order, :],
            )
        return NormalInverseGamma(
            self.mean[..., order, :, :],
            self.covariance[..., order, :, :, :],
            self.log_det[..., order, :],
            self.shape[..., order, :],
            self.rate[..., order, :],
            runs,
        )

    def updated(self, moments: Moments) -> NormalInverseGamma:
        """Posterior after data with these `moments`, by equation, this law being the prior."""
        precision = torch.linalg.inv(self.covariance)
        shift = (precision @ self.mean[..., None])[..., 0]
        offset = 2.0 * self.rate + (shift * self.mean).sum(-1)
        last = torch.cat([shift, offset[..., None]], -1)[..., None, :]
        prior = torch.cat([torch.cat([precision, shift[..., None]], -1), last], -2)
        return posterior_of(prior, self.shape, moments)

    def divergence(self, other: NormalInverseGamma) -> Tensor:
        """Kullback-Leibler divergence of this law from `other`, (..., n, K, D)."""
        precision = torch.linalg.inv(other.covariance)
        ratio = self.shape / self.rate
        gap = self.mean - other.mean
        trace = (precision * self.covariance).sum((-1, -2))
        distance = torch.einsum("...u,...uv,...v->...", gap, precision, gap)
        coefficients = 0.5 * (
            other.log_det - self.log_det + trace + ratio * distance - gap.shape[-1]
        )
        return coefficients + _inverse_gamma_divergence(
            self.shape, self.rate, other.shape, other.rate, other.rate.log()
        )

    def sample(self, generator: torch.Generator, size: tuple[int, ...] = ()) -> Law:
        """Draw parameters, with leading axes `size`."""
        shape = (*size, *self.shape.shape)
        variance = self.rate / standard_gamma(self.shape.expand(shape), generator)
        noise = torch.randn((*size, *self.mean.shape), dtype=torch.float64, generator=generator)
        factor = torch.linalg.cholesky(self.covariance)
        coefficients = self.mean + variance.sqrt()[..., None] * (factor @ noise[..., None])[..., 0]
        effects = None
        if self.runs is not None:
            spread = (variance * self.runs.variance).sqrt()
            noise = torch.randn(spread.shape, dtype=torch.float64, generator=generator)
            effects = Effects(self.runs.effects(coefficients) + spread * noise)
        return Law(coefficients, 1.0 / variance, variance.log(), effects=effects)


def eliminated(moments: Moments, precision: Tensor) -> tuple[Moments, Tensor, Tensor]:
    """Moments with the run effects eliminated from the normal equations.

    Parameters
    ----------
    moments
        With sums by run.
    precision
        ``lambda_run``, (..., 1).

    Returns
    -------
    moments
        What is left for the coefficients: n as it was.
    centres
        Shrunken means of the columns of every run, the shape of ``moments.first``.
    variance
        ``1 / (lambda_run + weight)``, (..., N, K, D) or (..., N, K, 1).
    """
    first = moments.first
    assert first is not None
    variance = 1.0 / (precision[..., None, None] + first[..., 0])
    centres = first * variance[..., None]
    if moments.counts.shape[-3] > 1:
        outer = first[..., None] * centres[..., None, :]
    else:
        outer = (first.movedim(-4, -1) @ centres.movedim(-4, -2))[..., None, :, :, :, :]
    return moments._replace(products=moments.products - outer, first=None), centres, variance


def posterior_of(prior: Tensor, shape: Tensor, moments: Moments) -> NormalInverseGamma:
    """Update a normal-inverse-gamma prior in natural form.

    One Cholesky factor of the prior's and the data's moments of ``[regressors, response]`` holds
    everything: its last diagonal entry squared is twice the posterior rate, the Schur complement
    of the response, and its inverse has the coefficients in the last row.
    """
    inverse = _inverse_factor(prior + moments.products)
    inner, response = inverse[..., :-1, :-1], inverse[..., -1, :]
    return NormalInverseGamma(
        -response[..., :-1] / response[..., -1:],
        inner.transpose(-1, -2) @ inner,
        2.0 * inner.diagonal(dim1=-2, dim2=-1).log().sum(-1),
        shape + 0.5 * moments.counts,
        0.5 * (response[..., -1].square().reciprocal() + moments.rounding),
    )


def joint_posterior(
    prior: Tensor, shape: Tensor, moments: Moments, active: Tensor
) -> NormalInverseGamma:
    """The same for all equations at once, from the moments of ``[past, present]``.

    The leading blocks of one factor are the factors of the equations, and so of its inverse.
    """
    inverse = _inverse_factor(prior + moments.products)[..., 0, :, :]
    D, R = active.shape
    roots, responses = inverse[..., :R, :R], inverse[..., -D:, :]
    own = responses.diagonal(offset=R + 1 - D, dim1=-2, dim2=-1)
    spread = (roots[..., None] * roots[..., None, :]).cumsum(-3)[..., R - D :, :, :]
    return NormalInverseGamma(
        -responses[..., :R] / own[..., None] * active,
        spread + (~active).double().diag_embed(),
        2.0 * roots.diagonal(dim1=-2, dim2=-1).log() @ active.T.double(),
        shape + 0.5 * moments.counts,
        0.5 * (own.square().reciprocal() + moments.rounding),
    )


def _inverse_factor(moments: Tensor) -> Tensor:
    """Inverse of the lower Cholesky factor.

    Where metrics are functions of one another to the last digit, rounding can leave moments that
    are not positive definite: their diagonal is then raised by a few units of it.
    """
    factor, failed = torch.linalg.cholesky_ex(moments)
    jitter = EPSILON * moments.shape[-1]
    while failed.any():
        raised = moments + jitter * moments.diagonal(dim1=-2, dim2=-1).diag_embed()
        moments = torch.where((failed > 0)[..., None, None], raised, moments)
        factor, failed = torch.linalg.cholesky_ex(moments)
        jitter *= 8.0
        if not jitter < 1.0:
            raise ValueError(NOT_FINITE)
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype)
    return torch.linalg.solve_triangular(factor, eye, upper=False)


def _inverse_gamma_divergence(
    shape: Tensor, rate: Tensor, prior_shape: Tensor, prior_rate: Tensor, prior_log_rate: Tensor
) -> Tensor:
    """KL divergence of IG(shape, rate) from IG(prior); expectations where the prior is random."""
    return (
        shape * rate.log()
        - torch.lgamma(shape)
        - prior_shape * prior_log_rate
        + torch.lgamma(prior_shape)
        - (shape - prior_shape) * (rate.log() - torch.digamma(shape))
        - shape
        + prior_rate * shape / rate
    )


def standard_gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from Gamma(shape, 1) with an explicit stream."""
    return torch._standard_gamma(shape.contiguous(), generator=generator)
