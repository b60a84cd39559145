"""Numbers of unlimited range: a mantissa times two to an exponent, both plain doubles.

Likelihoods of rows differ by thousands of nats, where doubles underflow, and logarithms cost a
logarithm and an exponential for every message. A pair of mantissa and whole exponent costs a few
instructions and keeps all digits at any size. Everything here works on floats and on `Lanes`.
"""

import numpy as np
from numba import njit

from bayeshmm.messages.chain import Array
from bayeshmm.messages.lanes import (
    WIDTH,
    load,
    mantissa_of,
    maximum,
    minimum,
    power_of_two,
    size_of,
    store,
    where_less,
)

NOTHING = -1e300  # exponent of zero: finite, so that differences of exponents are never NaN
LOWEST = -1e15  # exponent below which a double no longer tells neighbours apart

LOG2_E = 1.4426950408889634
LN2_HIGH = 6.93145751953125e-1  # with its last bits free: products with 32-bit integers are exact
LN2_LOW = 1.42860682030941723212e-6
ROUND = 1.5 * 2.0**52  # added and taken away, it leaves the nearest integer


@njit(forceinline=True)
def exponential(log: float) -> tuple[float, float]:
    """Mantissa, in [0.7, 1.5), and exponent of exp(log); (0, `NOTHING`) for -inf.

    The mantissa is Taylor's polynomial on [-log(2) / 2, log(2) / 2], to one unit in the last place.
    """
    n = maximum((log * LOG2_E + ROUND) - ROUND, NOTHING)
    r = (log - n * LN2_HIGH) - n * LN2_LOW
    r = where_less(r * r, 1.0, r, 0.0)  # a log beyond 1e15 has no digits left for the mantissa
    p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return where_less(NOTHING, n, p, 0.0), n


@njit
def exponentials(log: Array, mantissa: Array, exponent: Array, count: int) -> None:
    """`exponential` of the first ``count`` entries; ``mantissa`` may be ``log`` itself."""
    for i in range(0, count, WIDTH):
        m, e = exponential(load(log, i))
        store(mantissa, i, m)
        store(exponent, i, e)


@njit(forceinline=True)
def scale(exponent: float) -> float:
    """Two to the exponent, cut at 2^-900 and 2^900: products of a few are not yet subnormal."""
    return power_of_two(minimum(maximum(exponent, -900.0), 900.0))


@njit(forceinline=True)
def normalised(x: float, exponent: float) -> tuple[float, float]:
    """The non-negative number ``x`` times two to the exponent, with a mantissa in [1, 2)."""
    mantissa = where_less(0.0, x, mantissa_of(x), 0.0)
    return mantissa, where_less(0.0, x, size_of(x) + exponent, NOTHING)


@njit
def logarithm(mantissa: float, exponent: float, level: float, lost: float) -> float:
    """Logarithm of an extended number, plus ``level`` and its small correction ``lost``."""
    if mantissa == 0.0:
        return -np.inf
    return (exponent * LN2_HIGH + level) + (np.log(mantissa) + exponent * LN2_LOW + lost)


@njit
def weights(
    probability: Array,
    log_probability: Array,
    mantissa: Array,
    exponent: Array,
    k: int,
    stay_mantissa: float,
    stay_exponent: float,
    weight: Array,
) -> tuple[float, float]:
    """Weights of moves, exact whatever their size: probabilities times extended numbers.

    The k-th number is replaced by that for staying. ``weight`` is filled, relative to two to the
    exponent that is returned after its sum.
    """
    top = NOTHING
    for j in range(len(probability)):
        m, e = _extended(probability[j], log_probability[j])
        m *= stay_mantissa if j == k else mantissa[j]
        e += stay_exponent if j == k else exponent[j]
        weight[j] = m
        if m > 0.0:
            top = max(top, e)
    total = 0.0
    for j in range(len(probability)):
        if weight[j] > 0.0:
            _, e = _extended(probability[j], log_probability[j])
            e += stay_exponent if j == k else exponent[j]
            weight[j] *= scale(e - top)
            total += weight[j]
    return total, top


@njit(forceinline=True)
def _extended(x: float, log: float) -> tuple[float, float]:
    """exp(log), of which x is all that a double can hold."""
    if 1e-200 < x < 1e200:
        return x, 0.0
    return exponential(log)


@njit(forceinline=True)
def plus(x: float, x_exponent: float, y: float, y_exponent: float) -> tuple[float, float]:
    """Sum of two extended numbers, normalised."""
    top = maximum(x_exponent, y_exponent)
    return normalised(x * scale(x_exponent - top) + y * scale(y_exponent - top), top)
