"""Conjugate Bayesian regressions with learned shrinkage: variational updates and exact draws.

The prior, with every response and regressor in units of its pooled root mean square:

* ``sigma^2_kj | psi_j ~ InverseGamma(a_j, psi_j / 2)``, ``a_j = a + j/2`` for a full covariance
  (j = 0, 1, ... in model order) and ``a`` otherwise;
* a past coefficient of group g: ``N(0, sigma^2_kj / lambda_g)``; a contrast with metric i:
  ``N(0, sigma^2_kj / psi_i)``;
* ``lambda_g, psi_j ~ Gamma(1/2, 1/2)``: learned, one per kind of coefficient (a learned Minnesota
  prior) and one per metric.

Contrasts and variances together are exactly an inverse-Wishart law of the row covariance with
``2a + D - 1`` degrees of freedom and scale ``diag(psi)``, whatever the order of the metrics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from bayeshmm.emissions.layout import Layout
from bayeshmm.emissions.likelihood import Law, Moments


class NormalInverseGamma(NamedTuple):
    """Law of the coefficients and variance of every equation in every state.

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
    """

    mean: Tensor
    covariance: Tensor
    log_det: Tensor
    shape: Tensor
    rate: Tensor

    @property
    def law(self) -> Law:
        """Expectations that the expected log-likelihood needs."""
        return Law(
            self.mean,
            self.shape / self.rate,
            self.rate.log() - torch.digamma(self.shape),
            self.covariance,
        )

    def updated(self, moments: Moments) -> NormalInverseGamma:
        """Posterior after data with these `moments`, by equation, this law being the prior."""
        precision = torch.linalg.inv(self.covariance)
        shift = (precision @ self.mean[..., None])[..., 0]
        offset = 2.0 * self.rate + (shift * self.mean).sum(-1)
        last = torch.cat([shift, offset[..., None]], -1)[..., None, :]
        prior = torch.cat([torch.cat([precision, shift[..., None]], -1), last], -2)
        return _posterior(prior, self.shape, moments)

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
        variance = self.rate / torch.empty(shape, dtype=torch.float64).copy_(
            _standard_gamma(self.shape.expand(shape), generator)
        )
        noise = torch.randn((*size, *self.mean.shape), dtype=torch.float64, generator=generator)
        factor = torch.linalg.cholesky(self.covariance)
        coefficients = self.mean + variance.sqrt()[..., None] * (factor @ noise[..., None])[..., 0]
        return Law(coefficients, 1.0 / variance, variance.log())


class Shrinkage(NamedTuple):
    """Gamma laws of the shrinkage precisions and of the noise scales.

    Attributes
    ----------
    group_shape, group_rate
        Of ``lambda_g``, (..., n, G).
    scale_shape, scale_rate
        Of ``psi_j``, (..., n, D).
    """

    group_shape: Tensor
    group_rate: Tensor
    scale_shape: Tensor
    scale_rate: Tensor

    @property
    def expected(self) -> Precisions:
        """Expectations."""
        return Precisions(self.group_shape / self.group_rate, self.scale_shape / self.scale_rate)

    @property
    def expected_log(self) -> Precisions:
        """Expectations of the logarithms."""
        return Precisions(
            torch.digamma(self.group_shape) - self.group_rate.log(),
            torch.digamma(self.scale_shape) - self.scale_rate.log(),
        )

    def sample(self, generator: torch.Generator) -> Precisions:
        """Draw values."""
        return Precisions(
            _standard_gamma(self.group_shape, generator) / self.group_rate,
            _standard_gamma(self.scale_shape, generator) / self.scale_rate,
        )


class Precisions(NamedTuple):
    """Values or expectations of the hyper-parameters lambda (..., n, G) and psi (..., n, D)."""

    groups: Tensor
    scales: Tensor


@dataclass(frozen=True)
class RegressionPrior:
    """Prior of K states' regressions.

    Attributes
    ----------
    layout
        Shape of the regressions.
    states
        K.
    noise_shape
        ``a``, the shape of the prior of the first metric's variance.
    group, scale
        Shape and rate of the Gamma priors of ``lambda`` and ``psi``.
    """

    layout: Layout
    states: int
    noise_shape: float = 1.0
    group: tuple[float, float] = (0.5, 0.5)
    scale: tuple[float, float] = (0.5, 0.5)

    @cached_property
    def shapes(self) -> Tensor:
        """Prior shape ``a_j`` of every metric's variance, (D,)."""
        steps = torch.arange(self.layout.metrics, dtype=torch.float64)
        return self.noise_shape + (0.5 * steps if self.layout.full else 0.0 * steps)

    def shrinkage(self, batch: tuple[int, ...]) -> Shrinkage:
        """Prior law of the hyper-parameters, with leading axes `batch`."""
        G, D = len(self.layout.group_names), self.layout.metrics
        ones = (
            torch.ones(*batch, G, dtype=torch.float64),
            torch.ones(*batch, D, dtype=torch.float64),
        )
        return Shrinkage(
            ones[0] * self.group[0], ones[0] * self.group[1],
            ones[1] * self.scale[0], ones[1] * self.scale[1],
        )  # fmt: skip

    def expand(self, precisions: Precisions) -> Tensor:
        """Prior precision (in units of 1/sigma^2) of every coefficient, (..., n, D, R)."""
        D = self.layout.metrics
        past = precisions.groups[..., self.layout.group_index]
        parts = [past[..., None, :].expand(*past.shape[:-1], D, past.shape[-1])]
        if self.layout.full:
            contrasts = precisions.scales[..., None, : D - 1]
            parts.append(contrasts.expand(*contrasts.shape[:-2], D, D - 1))
        return torch.where(self.layout.active, torch.cat(parts, -1), 1.0)

    def posterior(self, moments: Moments, precisions: Precisions) -> NormalInverseGamma:
        """Conjugate posterior of every equation and state, given the hyper-parameters."""
        scales = precisions.scales
        if moments.products.shape[-3] < self.layout.metrics:
            past = precisions.groups[..., self.layout.group_index]
            prior = torch.cat([past, scales], -1).diag_embed()[..., None, None, :, :]
            return _joint_posterior(prior, self.shapes, moments, self.layout.active)
        diagonal = torch.cat([self.expand(precisions), scales[..., None]], -1)
        return _posterior(diagonal.diag_embed()[..., None, :, :, :], self.shapes, moments)

    def posterior_shrinkage(self, law: Law) -> Shrinkage:
        """Conjugate law of the hyper-parameters given `law` (values or expectations)."""
        P = self.layout.past
        square = law.precision[..., None] * law.coefficients.square()
        if law.covariance is not None:
            square = square + law.covariance.diagonal(dim1=-2, dim2=-1)
        square = (square * self.layout.active).sum((-3, -2))
        groups = square[..., :P] @ self.layout.members
        scales = law.precision.sum(-2)
        if self.layout.full:
            scales = scales + torch.nn.functional.pad(square[..., P:], (0, 1))
        group_shape, scale_shape = self._updated_shapes
        return Shrinkage(
            group_shape.expand(groups.shape),
            self.group[1] + 0.5 * groups,
            scale_shape.expand(scales.shape),
            self.scale[1] + 0.5 * scales,
        )

    @cached_property
    def _updated_shapes(self) -> tuple[Tensor, Tensor]:
        """Shapes of the laws of ``lambda`` (G,) and ``psi`` (): half a unit per normal variable."""
        D, K = self.layout.metrics, self.states
        degrees = 2.0 * self.noise_shape + (D - 1.0 if self.layout.full else 0.0)
        size = K * D * self.layout.members.sum(0)
        return self.group[0] + 0.5 * size, self.scale[0] + 0.5 * K * size.new_tensor(degrees)

    def divergence(self, posterior: NormalInverseGamma, shrinkage: Shrinkage) -> Tensor:
        """Kullback-Leibler divergence of the posterior from the prior, hyper-parameters too.

        Parameters
        ----------
        posterior
            Of the regressions.
        shrinkage
            What `posterior_shrinkage` makes of it: expectations of the hyper-parameters then
            cancel, and the ratios of their normalisers remain.

        Returns
        -------
        Tensor
            Shape of the leading axes of `posterior`, (..., n).
        """
        shape, log_rate = posterior.shape, posterior.rate.log()
        equations = (
            shape * log_rate
            - torch.lgamma(shape)
            - (shape - self.shapes) * (log_rate - torch.digamma(shape))
            - shape
            - 0.5 * posterior.log_det
        )
        groups, scales = (
            (shape * rate.log() - torch.lgamma(shape)).sum(-1)
            for shape, rate in (shrinkage[:2], shrinkage[2:])
        )
        return equations.sum((-1, -2)) + groups + scales + self._constant

    @cached_property
    def _constant(self) -> Tensor:
        """What the divergence has of constants of the prior."""
        a, layout = self.shapes, self.layout
        equations = torch.lgamma(a) + a * math.log(2.0) - 0.5 * layout.active.sum(-1)
        hyper = [
            size * (math.lgamma(shape) - shape * math.log(rate))
            for size, (shape, rate) in (
                (len(layout.group_names), self.group),
                (layout.metrics, self.scale),
            )
        ]
        return self.states * equations.sum() + sum(hyper)


def _posterior(prior: Tensor, shape: Tensor, moments: Moments) -> NormalInverseGamma:
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


def _joint_posterior(
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
    """Inverse of the lower Cholesky factor."""
    factor = torch.linalg.cholesky(moments)
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


def _standard_gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from Gamma(shape, 1) with an explicit stream."""
    return torch._standard_gamma(shape.contiguous(), generator=generator)
