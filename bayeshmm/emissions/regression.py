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

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayeshmm.emissions.layout import Layout
from bayeshmm.emissions.likelihood import Law


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

    def updated(self, moments: Tensor, counts: Tensor) -> NormalInverseGamma:
        """Posterior after data with these `moments` and `counts`, this law being the prior."""
        precision = torch.linalg.inv(self.covariance)
        shift = (precision @ self.mean[..., None])[..., 0]
        offset = 2.0 * self.rate + (shift * self.mean).sum(-1)
        return _posterior(precision, shift, offset, self.shape, moments, counts)

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

    @property
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

    def expand(self, precisions: Precisions, inactive: float = 1.0) -> Tensor:
        """Prior precision (in units of 1/sigma^2) of every coefficient, (..., n, D, R)."""
        D = self.layout.metrics
        past = precisions.groups[..., self.layout.group_index]
        parts = [past[..., None, :].expand(*past.shape[:-1], D, past.shape[-1])]
        if self.layout.full:
            contrasts = precisions.scales[..., None, : D - 1]
            parts.append(contrasts.expand(*contrasts.shape[:-2], D, D - 1))
        return torch.where(self.layout.active, torch.cat(parts, -1), inactive)

    def posterior(
        self, moments: Tensor, counts: Tensor, precisions: Precisions
    ) -> NormalInverseGamma:
        """Conjugate posterior of every equation and state, given the hyper-parameters."""
        diagonal = self.expand(precisions)[..., None, :, :]
        return _posterior(
            torch.diag_embed(diagonal),
            torch.zeros_like(diagonal),
            precisions.scales[..., None, :],
            self.shapes,
            moments,
            counts,
        )

    def posterior_shrinkage(self, law: Law) -> Shrinkage:
        """Conjugate law of the hyper-parameters given `law` (values or expectations)."""
        D, K, P = self.layout.metrics, self.states, self.layout.past
        square = law.precision[..., None] * law.coefficients.square()
        if law.covariance is not None:
            square = square + law.covariance.diagonal(dim1=-2, dim2=-1)
        square = (square * self.layout.active).sum(-3)
        members = torch.nn.functional.one_hot(
            self.layout.group_index, len(self.layout.group_names)
        ).to(torch.float64)
        size = K * D * members.sum(0)
        groups = square[..., :P].sum(-2) @ members
        scales = law.precision.sum(-2)
        degrees = 2.0 * self.noise_shape
        if self.layout.full:
            scales = scales + torch.nn.functional.pad(square[..., P:].sum(-2), (0, 1))
            degrees += D - 1
        return Shrinkage(
            (self.group[0] + 0.5 * size).expand(groups.shape),
            self.group[1] + 0.5 * groups,
            torch.full_like(scales, self.scale[0] + 0.5 * K * degrees),
            self.scale[1] + 0.5 * scales,
        )

    def divergence(self, posterior: NormalInverseGamma, shrinkage: Shrinkage) -> Tensor:
        """Kullback-Leibler divergence of the posterior from the prior, hyper-parameters too.

        Returns
        -------
        Tensor
            Shape of the leading axes of `posterior`, (..., n).
        """
        expected, log = shrinkage.expected, shrinkage.expected_log
        precision = self.expand(expected)[..., None, :, :]
        log_precision = self.expand(log, inactive=0.0)[..., None, :, :]
        ratio = posterior.shape / posterior.rate
        variance = posterior.covariance.diagonal(dim1=-2, dim2=-1)
        square = variance + ratio[..., None] * posterior.mean.square()
        coefficients = 0.5 * (
            (precision * square).sum(-1)
            - log_precision.sum(-1)
            - posterior.log_det
            - posterior.mean.shape[-1]
        )
        noise = _inverse_gamma_divergence(
            posterior.shape,
            posterior.rate,
            self.shapes,
            0.5 * expected.scales[..., None, :],
            log.scales[..., None, :] - torch.log(torch.tensor(2.0, dtype=torch.float64)),
        )
        hyper = _gamma_divergence(shrinkage.group_shape, shrinkage.group_rate, *self.group).sum(-1)
        hyper = hyper + _gamma_divergence(
            shrinkage.scale_shape, shrinkage.scale_rate, *self.scale
        ).sum(-1)
        return (coefficients + noise).sum((-1, -2)) + hyper


def _posterior(
    precision: Tensor,
    shift: Tensor,
    offset: Tensor,
    shape: Tensor,
    moments: Tensor,
    counts: Tensor,
) -> NormalInverseGamma:
    """Update a normal-inverse-gamma prior in natural form.

    One Cholesky factor of the prior's and the data's moments of ``[regressors, response]`` holds
    everything: its last diagonal entry squared is twice the posterior rate, the Schur complement
    of the response.
    """
    prior = torch.cat(
        [
            torch.cat([precision, shift[..., None]], -1),
            torch.cat([shift, offset.expand(shift.shape[:-1])[..., None]], -1)[..., None, :],
        ],
        -2,
    )
    factor = torch.linalg.cholesky(prior + moments)
    inner = factor[..., :-1, :-1]
    mean = torch.linalg.solve_triangular(
        inner.transpose(-1, -2), factor[..., -1, :-1, None], upper=True
    )[..., 0]
    log_det = -2.0 * inner.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return NormalInverseGamma(
        mean,
        torch.cholesky_inverse(inner),
        log_det,
        shape + 0.5 * counts,
        0.5 * factor[..., -1, -1].square(),
    )


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


def _gamma_divergence(shape: Tensor, rate: Tensor, prior_shape: float, prior_rate: float) -> Tensor:
    """KL divergence of Gamma(shape, rate) from Gamma(prior_shape, prior_rate)."""
    prior = torch.tensor([prior_shape, prior_rate], dtype=torch.float64)
    return (
        (shape - prior[0]) * torch.digamma(shape)
        - torch.lgamma(shape)
        + torch.lgamma(prior[0])
        + prior[0] * (rate.log() - prior[1].log())
        + shape * (prior[1] / rate - 1.0)
    )


def _standard_gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from Gamma(shape, 1) with an explicit stream."""
    return torch._standard_gamma(shape.contiguous(), generator=generator)
