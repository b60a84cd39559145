"""Hyper-priors of an emission family: the one place where they are set."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

Gamma = tuple[float, float]
"""Shape and rate of a Gamma law."""


@dataclass(frozen=True)
class Hyperpriors:
    """What is believed of the noise and of the coefficients before any run is seen.

    Every response and every regressor is in units of its pooled root mean square, so that one
    weakly informative setting serves all metrics. Gamma laws are given by (shape, rate).

    ================  ===========================================  ==========================
    part              prior                                        hyper-prior
    ================  ===========================================  ==========================
    noise             ``sigma^2 ~ InverseGamma(a, psi/2)``         ``psi ~ Gamma(1/2, 1/2)``,
                                                                   one a metric; ``a = 1``
    coefficients      ``b ~ N(0, sigma^2 / lambda)``               ``lambda ~ Gamma(1/2,
                                                                   1/2)``, one a kind
    run effects       ``o ~ N(0, sigma^2 / lambda_run)``           ``lambda_run ~ Gamma(1/2,
                                                                   1/2)``
    weights of rows   ``u ~ Gamma(nu/2, nu/2)`` (Student-t)        ``nu ~ Gamma(2, 1/10)`` on
                                                                   [1, 200]
    ================  ===========================================  ==========================

    With a full covariance, ``a`` grows by one half a metric and the contrasts between metrics i
    and j are ``N(0, sigma^2 / psi_i)``: together an inverse-Wishart law of the covariance of a row
    with ``2a + D - 1`` degrees of freedom and learned scales, whatever the order of the metrics.

    Parameters
    ----------
    noise_shape
        ``a``, the shape of a variance's law.
    scale
        Of ``psi``, the scale of each metric's noise.
    shrinkage
        Of ``lambda``, the precision of each kind of coefficient: own and cross, level, each lag,
        each average. ``Gamma(1/2, 1/2)`` makes the ratio of a coefficient to the noise Cauchy.
    run_effects
        Of ``lambda_run``, the precision of the run effects.
    degrees
        Of ``nu``, the degrees of freedom of Student-t noise.
    """

    noise_shape: float = 1.0
    scale: Gamma = (0.5, 0.5)
    shrinkage: Gamma = (0.5, 0.5)
    run_effects: Gamma = (0.5, 0.5)
    degrees: Gamma = (2.0, 0.1)

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            numbers = (value,) if part.name == "noise_shape" else tuple(value)
            size = 1 if part.name == "noise_shape" else 2
            if len(numbers) != size or not all(0 < x < math.inf for x in numbers):
                raise ValueError(
                    f"Hyperpriors.{part.name} must be "
                    f"{'a positive number' if size == 1 else '(shape, rate), both positive'}, "
                    f"not {value!r}."
                )
            if size == 2:
                object.__setattr__(self, part.name, tuple(float(x) for x in numbers))


WEAKLY_INFORMATIVE = Hyperpriors()
"""The default."""
