"""Bridge sampling: the integral of a density that draws are known of.

With p the joint density of parameters and data (states summed out, in unconstrained space) and q a
normalised law close to the posterior, the evidence is the one number z that satisfies, in means
over draws of q and of the posterior::

    E_q[ p / (s p + (1-s) z q) ]  =  z E_post[ q / (s p + (1-s) z q) ]

Both ratios are bounded, so that tails in which q and the posterior differ do little harm. One half
of the draws fits q, the other is the mean on the right; then they change places.

References
----------
Meng and Wong (1996), "Simulating ratios of normalizing constants via a simple identity".
Frühwirth-Schnatter (2004), "Estimating marginal likelihoods for mixture and Markov switching
models using bridge sampling techniques".
Gronau et al. (2017), "A tutorial on bridge sampling".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeshmm._arviz import az
from bayeshmm.inference.importance import smoothed
from bayeshmm.inference.surrogate import Surrogate
from bayeshmm.inference.unconstrained import Unconstrained, isolated

Array = NDArray[np.float64]


class Part(NamedTuple):
    """An independent part of a posterior.

    Attributes
    ----------
    space
        Its density.
    latent
        Its latent sites alone.
    points
        Draws in unconstrained space, (chains, draws, size).
    """

    space: Unconstrained
    latent: Callable[[], Any]
    points: Tensor


class Bridge(NamedTuple):
    """Estimate of the log of the integral of a density, its Monte-Carlo error, and k-hat."""

    value: float
    error: float
    k_hat: float


def bridge(part: Part, *, seed: int, at_once: int) -> Bridge:
    """Bridge estimate of the log integral of a density, from draws of it.

    Parameters
    ----------
    part
        The density, and the draws.
    seed
        Of the draws of the fitted law.
    at_once
        Points at which the density is computed as one batch.
    """
    half = part.points.shape[1] // 2
    halves = part.points[:, :half], part.points[:, -half:]
    generator = torch.Generator().manual_seed(seed)

    def log_density(points: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([part.space.log_density(some) for some in points.split(at_once)])

    folds = []
    with isolated(seed):
        for fitted, held in (halves, halves[::-1]):
            law = Surrogate.fit(part.space, part.latent, fitted.flatten(0, 1))
            known = held.flatten(0, 1)
            drawn = law.sample(len(known), generator)
            inside, outside = (
                (log_density(points) - law.log_density(points)).numpy() for points in (known, drawn)
            )
            folds.append(_meet(inside.reshape(held.shape[:2]), outside))
    values, errors, k_hats = np.transpose(folds)
    # the halves are nearly independent: how far they differ is a check of their own errors
    error = max(float(np.hypot(*errors)), float(np.ptp(values))) / 2.0
    return Bridge(float(values.mean()), error, float(k_hats.max()))


def _meet(inside: Array, outside: Array) -> Bridge:
    """The estimate from log ratios of the density to the law.

    Parameters
    ----------
    inside
        At draws of the density, (chains, draws).
    outside
        At independent draws of the law, (S,).
    """
    outside = np.where(np.isnan(outside), -np.inf, outside)
    lowest = outside[np.isfinite(outside)].min(initial=np.inf)
    if math.isinf(lowest):
        return Bridge(math.nan, math.inf, math.inf)
    share = _effective(inside) / (_effective(inside) + len(outside))
    log_share, log_rest = math.log(share), math.log1p(-share)
    value = float(np.median(inside))
    for _ in range(1000):
        above = outside - np.logaddexp(log_share + outside, log_rest + value)
        below = -np.logaddexp(log_share + inside, log_rest + value)
        before, value = value, float(_log_mean(above) - _log_mean(below))
        if abs(value - before) < 1e-9:
            break
    error = 0.0
    for log_terms, size in ((above, len(outside)), (below, _effective(np.exp(below + value)))):
        terms = np.exp(log_terms - _log_mean(log_terms))
        error += float(terms.var()) / size
    return Bridge(value, math.sqrt(error), smoothed(np.maximum(outside, lowest), 1.0)[1])


def _log_mean(log_terms: Array) -> float:
    return float(np.logaddexp.reduce(log_terms, axis=None)) - math.log(log_terms.size)


def _effective(terms: Array) -> float:
    """Effective number of draws (chains, draws) of their mean; at most their number."""
    size = float(az.ess(terms)) if np.ptp(terms) > 0 else terms.size
    return min(size, terms.size) if math.isfinite(size) else 1.0
