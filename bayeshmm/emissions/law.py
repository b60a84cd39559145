"""What a row's law is made of: values of the parameters, or their expectations.

Parameters carry an axis of runs just before the axis of states: of size 1 where all runs share
them, of size N where each run has its own. Any further axes (restarts, chains, draws) lead.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Spread(NamedTuple):
    """What is not known of the run effects, in units of sigma^2.

    Attributes
    ----------
    leverage
        ``V c`` for coefficients of covariance V and the shrunken means c of a run's regressors,
        (..., N, K, D, R): minus the covariance of the effect with the coefficients.
    variance
        Of the effect, ``c'Vc + 1/kappa``, (..., N, K, D).
    """

    leverage: Tensor
    variance: Tensor


class Effects(NamedTuple):
    """Run effects: what each of N runs adds to the constant of every equation in every state.

    Attributes
    ----------
    mean
        Value or expectation, (..., N, K, D).
    spread
        None where the parameters are known.
    """

    mean: Tensor
    spread: Spread | None = None


class Tail(NamedTuple):
    """Degrees of freedom nu of Student-t noise.

    Attributes
    ----------
    degrees
        nu or its expectation, (..., 1).
    constant
        ``(nu/2) log(nu/2) - log Gamma(nu/2)`` or its expectation, (..., 1).
    """

    degrees: Tensor
    constant: Tensor


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
    effects
        Run effects; n is then 1. None where there are none, or where they are part of the
        coefficients.
    tail
        Of Student-t noise; None for normal noise.
    """

    coefficients: Tensor
    precision: Tensor
    log_variance: Tensor
    covariance: Tensor | None = None
    effects: Effects | None = None
    tail: Tail | None = None

    def by_run(self) -> Law:
        """The same law of known parameters with every run's effect part of its own constant."""
        if self.effects is None:
            return self
        effects = self.effects.mean[..., None]
        others = self.coefficients[..., 1:].expand(*effects.shape[:-1], -1)
        constant = self.coefficients[..., :1] + effects
        return self._replace(
            coefficients=torch.cat([constant, others], -1),
            precision=self.precision.expand(effects.shape[:-1]),
            log_variance=self.log_variance.expand(effects.shape[:-1]),
            effects=None,
        )

    def of_runs(self, runs: Tensor) -> Law:
        """The law of some of the runs, by index: they keep their effects."""
        if self.effects is None:
            return self
        mean = self.effects.mean.index_select(-3, runs)
        return self._replace(effects=Effects(mean))
