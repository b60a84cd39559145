"""Sums over arrays on the host in one pass each, compiled: what a training leaves cold is dear."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from training.metrics.measure import Floats


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use, and keep the code on disk where anything can be written."""
    # terms may be added in any order, which vectors need; NaN and infinities stay what they are
    options = {"fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy", "nogil": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return njit(**options)(function)


@_compiled
def add_weights(values: Floats, sums: Floats) -> None:
    """Add the sums of ``|x|``, of ``x**2`` and of the quarters of an array to those so far.

    Parameters
    ----------
    values
        float32 or float64, of shape (n,).
    sums
        Of shape (6,), the quarters last; changed in place.
    """
    rest = values.size % 4
    absolute, square, start = 0.0, 0.0, 0
    for quarter in range(4):
        stop = rest + (quarter + 1) * (values.size // 4)
        total = 0.0
        for i in range(start, stop):
            value = np.float64(values[i])
            total += value
            absolute += abs(value)
            square += value * value
        sums[2 + quarter] += total
        start = stop
    sums[0] += absolute
    sums[1] += square


@_compiled
def square_sum(values: Floats) -> float:
    """Return the sum of ``x**2``.

    Parameters
    ----------
    values
        float32 or float64, of shape (n,).
    """
    square = 0.0
    for i in range(values.size):
        value = np.float64(values[i])
        square += value * value
    return square


@_compiled
def square_distance(values: Floats, others: Floats) -> float:
    """Return the sum of ``(x - y)**2``.

    Parameters
    ----------
    values, others
        float32 or float64, of shape (n,).
    """
    square = 0.0
    for i in range(values.size):
        difference = np.float64(values[i]) - np.float64(others[i])
        square += difference * difference
    return square
