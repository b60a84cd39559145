"""Conjugate Bayesian regressions with learned shrinkage: variational updates and exact draws.

The prior, with every response and regressor in units of its pooled root mean square:

* ``sigma^2_kj | psi_j ~ InverseGamma(a_j, psi_j / 2)``, ``a_j = a + j/2`` for a full covariance
  (j = 0, 1, ... in model order) and ``a`` otherwise;
* a past coefficient of group g: ``N(0, sigma^2_kj / lambda_g)``; a contrast with metric i:
  ``N(0, sigma^2_kj / psi_i)``;
* ``lambda_g, psi_j``: learned, one per kind of coefficient (a learned Minnesota prior) and one per
  metric;
* a run effect, which run n adds to the constant: ``N(0, sigma^2_kj / lambda_run)``. Effects are a
  column for every run, and are eliminated from the normal equations instead of being built.

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

from bayeshmm.emissions.conjugate import (
    NormalInverseGamma,
    RunMeans,
    eliminated,
    joint_posterior,
    posterior_of,
    standard_gamma,
)
from bayeshmm.emissions.hyperpriors import WEAKLY_INFORMATIVE, Hyperpriors
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.layout import RUN, Layout
from bayeshmm.emissions.likelihood import Moments


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

    def sample(self, generator: torch.Generator, size: tuple[int, ...] = ()) -> Precisions:
        """Draw values, with leading axes `size`."""
        shapes = (part.expand(*size, *part.shape) for part in (self.group_shape, self.scale_shape))
        groups, scales = (standard_gamma(shape, generator) for shape in shapes)
        return Precisions(groups / self.group_rate, scales / self.scale_rate)


class Precisions(NamedTuple):
    """Values or expectations of the hyper-parameters lambda (..., n, G) and psi (..., n, D).

    With run effects the last group is theirs.
    """

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
    hyperpriors
        What is believed of the noise and of the coefficients.
    """

    layout: Layout
    states: int
    hyperpriors: Hyperpriors = WEAKLY_INFORMATIVE

    @cached_property
    def shapes(self) -> Tensor:
        """Prior shape ``a_j`` of every metric's variance, (D,)."""
        steps = torch.arange(self.layout.metrics, dtype=torch.float64)
        return self.hyperpriors.noise_shape + (0.5 * steps if self.layout.full else 0.0 * steps)

    def shrinkage(self, batch: tuple[int, ...]) -> Shrinkage:
        """Prior law of the hyper-parameters, with leading axes `batch`."""
        D = self.layout.metrics
        shapes, rates = self._group_priors.unbind(-1)
        scale = self._scale_prior.expand(D, 2)
        return Shrinkage(
            shapes.expand(*batch, -1),
            rates.expand(*batch, -1),
            scale[:, 0].expand(*batch, -1),
            scale[:, 1].expand(*batch, -1),
        )

    @cached_property
    def _group_priors(self) -> Tensor:
        """Shape and rate of every group's precision, (G, 2)."""
        kinds = (
            self.hyperpriors.run_effects if name == RUN else self.hyperpriors.shrinkage
            for name in self.layout.group_names
        )
        return torch.tensor(list(kinds), dtype=torch.float64)

    @cached_property
    def _scale_prior(self) -> Tensor:
        return torch.tensor(self.hyperpriors.scale, dtype=torch.float64)

    def expand(self, precisions: Precisions) -> Tensor:
        """Prior precision (in units of 1/sigma^2) of every coefficient, (..., n, D, R)."""
        D = self.layout.metrics
        parts = [precisions.groups[..., self.layout.group_index]]
        if self.layout.full:
            contrasts = precisions.scales[..., None, : D - 1]
            parts.append(contrasts.expand(*contrasts.shape[:-2], D, D - 1))
        return torch.where(self.layout.active, torch.cat(parts, -1), 1.0)

    def posterior(
        self, moments: Moments, precisions: Precisions, weight: float = 1.0
    ) -> NormalInverseGamma:
        """Conjugate posterior of every equation and state, given the hyper-parameters.

        Every run counts `weight` times, each time with an effect of its own.
        """
        centres = variance = None
        if moments.first is not None:
            moments, centres, variance = eliminated(moments, precisions.groups[..., -1])
        if weight != 1.0:
            moments = moments.weighted(weight)
        scales = precisions.scales
        if moments.products.shape[-3] < self.layout.metrics:
            past = precisions.groups[..., self.layout.group_index[0]]
            prior = torch.cat([past, scales], -1).diag_embed()[..., None, None, :, :]
            law = joint_posterior(prior, self.shapes, moments, self.layout.active)
        else:
            diagonal = torch.cat([self.expand(precisions), scales[..., None]], -1)
            law = posterior_of(diagonal.diag_embed()[..., None, :, :, :], self.shapes, moments)
        if centres is None or variance is None:
            return law
        return law._replace(runs=self._run_means(centres, variance))

    def _run_means(self, centres: Tensor, variance: Tensor) -> RunMeans:
        """By equation, from shrunken means of ``[regressors, response]``, or of all columns."""
        D, R = self.layout.active.shape
        if centres.shape[-2] == D and centres.shape[-1] == R + 1:
            return RunMeans(centres[..., :R], centres[..., R], variance)
        joint = centres[..., 0, :]
        regressors = joint[..., None, :R] * self.layout.active
        return RunMeans(regressors, joint[..., -D:], variance.expand(*variance.shape[:-1], D))

    def posterior_shrinkage(self, law: Law, weight: float = 1.0) -> Shrinkage:
        """Conjugate law of the hyper-parameters given `law` (values or expectations).

        The effects of every run count `weight` times.
        """
        P = self.layout.past
        square = law.precision[..., None] * law.coefficients.square()
        if law.covariance is not None:
            square = square + law.covariance.diagonal(dim1=-2, dim2=-1)
        square = (square * self.layout.active).sum(-3)
        groups = square[..., :P].flatten(-2) @ self.layout.members
        sizes = self.states * self.layout.members.sum(0)
        if law.effects is not None:
            effects = law.precision * law.effects.mean.square()
            if law.effects.spread is not None:
                effects = effects + law.effects.spread.variance
            groups[..., -1] += weight * effects.sum((-3, -2, -1))[..., None]
            sizes = sizes + torch.nn.functional.one_hot(
                torch.tensor(len(sizes) - 1), len(sizes)
            ) * (weight * math.prod(effects.shape[-3:]))
        scales = law.precision.sum(-2)
        if self.layout.full:
            scales = scales + torch.nn.functional.pad(square[..., P:].sum(-2), (0, 1))
        shape, rate = self._group_priors.unbind(-1)
        scale_shape, scale_rate = self._scale_prior
        return Shrinkage(
            (shape + 0.5 * sizes).expand(groups.shape),
            rate + 0.5 * groups,
            (scale_shape + 0.5 * self.states * self._degrees).expand(scales.shape),
            scale_rate + 0.5 * scales,
        )

    @property
    def _degrees(self) -> float:
        """Normal variables of a state that have ``psi_j`` for a precision, or count as such."""
        return 2.0 * self.hyperpriors.noise_shape + (
            self.layout.metrics - 1.0 if self.layout.full else 0.0
        )

    def divergence(
        self, posterior: NormalInverseGamma, shrinkage: Shrinkage, weight: float = 1.0
    ) -> Tensor:
        """Kullback-Leibler divergence of the posterior from the prior, hyper-parameters too.

        Parameters
        ----------
        posterior
            Of the regressions.
        shrinkage
            What `posterior_shrinkage` makes of it: expectations of the hyper-parameters then
            cancel, and the ratios of their normalisers remain.
        weight
            How many times the effects of every run count.

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
        if posterior.runs is not None:
            variance = posterior.runs.variance
            effects = 0.5 * (variance.log() + 1.0).sum(-3, keepdim=True)
            equations = equations - weight * effects
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
        priors = torch.cat([self._group_priors, self._scale_prior.expand(layout.metrics, 2)])
        shape, rate = priors.unbind(-1)
        hyper = torch.lgamma(shape) - shape * rate.log()
        return self.states * equations.sum() + hyper.sum()
