"""Pareto-smoothed importance sampling.

References
----------
Vehtari, Simpson, Gelman, Yao and Gabry (2024), "Pareto smoothed importance sampling".
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from bayeshmm._arviz import az

Array = NDArray[np.float64]

RELIABLE = 0.7
"""Largest k-hat at which weighted draws are believed."""

LARGEST = 5.0
"""Weight, in units of the mean, up to which a tail of weights is of no account."""


class ApproximationWarning(UserWarning):
    """The draws are those of a poor approximation; the message names the remedy."""


def smoothed(log_ratio: Array, efficiency: float) -> tuple[Array, float]:
    """Weights of the draws, which sum to 1, and the k-hat of their tail.

    Where no draw has more than `LARGEST` times the mean weight there is no tail that could matter,
    whatever its shape: k-hat is then 0.

    Parameters
    ----------
    log_ratio
        Of the target's to the drawn density, up to a constant, (S,).
    efficiency
        Independent draws that each draw is worth.
    """
    log_weights = log_ratio - logsumexp(log_ratio)
    if log_weights.max() < math.log(LARGEST / len(log_ratio)):
        return np.exp(log_weights), 0.0
    log_weights, k_hat = az.psislw(log_ratio, reff=efficiency)
    return np.exp(log_weights), float(k_hat)
