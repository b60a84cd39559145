"""Compiled causal pass: state probabilities and predictive densities, row by row.

Joint densities of a state and the rows so far are carried as extended numbers: ``free`` for states
past their dwell, ``young`` for those inside it, ``arrived`` for a visit that starts in a row, given
the rows before. With w = dwell - 1,

    arrived[t, j] = sum over k != j of free[t-1, k] A[k, j]
    free[t, k]    = b[t, k] (free[t-1, k] A[k, k] + arrived[t-w, k] b[t-w, k] ... b[t-1, k])
    young[t, k]   = sum over s = t-w+1..t of arrived[s, k] b[s, k] ... b[t, k].

Visits that are still young are summed by blocks of w rows: those that started in the current block
in a running sum, those of the block before in sums over its last rows. Nothing is ever
subtracted, and no row sees a later one.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from bayeshmm.messages.backward import CERTAIN, Run, Runs, centre, run
from bayeshmm.messages.chain import Array, Arrays
from bayeshmm.messages.compilation import SOURCES, compiled
from bayeshmm.messages.extended import (
    LN2_HIGH,
    LN2_LOW,
    LOWEST,
    NOTHING,
    exponential,
    exponentials,
    normalised,
    plus,
    scale,
    weights,
)
from bayeshmm.messages.forward import departures
from bayeshmm.messages.lanes import (
    WIDTH,
    constant,
    gather,
    get,
    largest,
    load,
    maximum,
    put,
    spread,
    store,
    where_less,
)


@njit
def filter_run(
    run: Run, room: Arrays, filtered: Array, predicted: Array, log_predictive: Array
) -> None:
    """Fill (T, K) probabilities given the rows up to each and before each, (T,) log densities.

    From the first row that is impossible given those before it, the former are 0, the latter -inf.
    ``room`` is eight arrays, mantissas and exponents by turns, W to a row: four for all rows, four
    for those of a block.
    """
    fit, fit_e, arrived, arrived_e, mature, mature_e, later, later_e = room
    dwell, transition = run.dwell, run.transition
    n, K = run.log_likelihood.shape
    W = len(dwell)
    dwelling = dwell.max() > 1
    one_dwell = dwell.min() == dwell.max()
    per_step = len(transition) > 1
    free, free_e = np.zeros(W), np.full(W, NOTHING)
    young, young_e = np.zeros(W), np.full(W, NOTHING)
    recent, recent_e = np.zeros(W), np.full(W, NOTHING)  # visits that started in this block
    prefix, prefix_e = np.ones(W), np.zeros(W)  # likelihood of its rows so far
    place = np.zeros(W, np.int64)  # of the row in it
    stay, move, row, spare = np.zeros(W), np.zeros(K * W), np.zeros(W), np.zeros(W)
    exists, width = np.zeros(W), (dwell - 1).astype(np.float64)
    exists[:K] = 1.0
    rows, next_rows = np.zeros(W, np.int64), np.zeros(W, np.int64)

    filtered[:] = 0.0
    predicted[:] = 0.0
    log_predictive[n:] = 0.0
    centre(run.log_likelihood, W, fit, log_predictive)
    exponentials(fit, fit, fit_e, n * W)
    for part, exponent in ((mature, mature_e), (later, later_e)):
        part[:] = 0.0
        exponent[:] = NOTHING
    arrived[:W] = 0.0
    arrived_e[:W] = NOTHING
    for k in range(K):
        arrived[k], arrived_e[k] = exponential(run.log_initial[k])
    stay_e = np.zeros(W)
    if n > 1 and not per_step:
        departures(transition[0], spare, move)
        _stays(run.log_transition[0], stay, stay_e)
    for k in range(K if len(predicted) else 0):
        predicted[0, k] = run.initial[k]
    last, last_e = 1.0, 0.0
    for t in range(n):
        here = t * W
        if t > 0:
            if per_step:
                departures(transition[t - 1], spare, move)
                _stays(run.log_transition[t - 1], stay, stay_e)
            best = NOTHING
            for k in range(0, W, WIDTH):
                best = max(best, largest(load(free_e, k)))
            top = max(best, LOWEST)
            for k in range(0, W, WIDTH):
                store(row, k, load(free, k) * scale(load(free_e, k) - top))
            size = 0.0
            for j in range(0, W, WIDTH):
                total = spread(0.0)
                for k in range(K):
                    total = total + load(move, k * W + j) * row[k]
                m, e = normalised(total, 0.0)
                store(arrived, here + j, m)
                store(arrived_e, here + j, e + top)
                size = max(size, largest(where_less(0.0, load(exists, j), e * e, 0.0)))
            if not size < CERTAIN * CERTAIN and best > NOTHING:
                s = t - 1 if per_step else 0
                for j in range(K):
                    if not abs(arrived_e[here + j] - top) < CERTAIN:
                        to, log_to = transition[s, :, j], run.log_transition[s, :, j]
                        total, e = weights(to, log_to, free, free_e, j, 0.0, NOTHING, spare)
                        arrived[here + j], arrived_e[here + j] = normalised(total, e)
            for k in range(0, W if t < len(predicted) else 0, WIDTH):
                state = load(young, k) * scale(load(young_e, k) - last_e)
                state = state + load(arrived, here + k) * scale(load(arrived_e, here + k) - last_e)
                e = load(free_e, k) + load(stay_e, k) - last_e
                store(row, k, state + load(free, k) * load(stay, k) * scale(e))
            for k in range(K if t < len(predicted) else 0):
                predicted[t, k] = row[k] / last

        if not one_dwell:
            for k in range(W):
                rows[k] = place[k]
                next_rows[k] = place[k] + 1
        highest = spread(NOTHING)
        for k in range(0, W, WIDTH):
            b, b_e = load(fit, here + k), load(fit_e, here + k)
            new, new_e = load(arrived, here + k), load(arrived_e, here + k)
            kept, kept_e = load(free, k) * load(stay, k), load(free_e, k) + load(stay_e, k)
            if not dwelling:
                x, x_e = plus(kept, kept_e, new, new_e)
                store(free, k, x * b)
                store(free_e, k, x_e + b_e)
                highest = maximum(highest, x_e + b_e)
                continue
            p, p_e = load(prefix, k), load(prefix_e, k)
            if one_dwell:
                i = place[0] * W + k
                x, x_e = load(mature, i), load(mature_e, i)
                y, y_e = load(later, i + W), load(later_e, i + W)
            else:
                x, x_e = gather(mature, rows, k, W), gather(mature_e, rows, k, W)
                y, y_e = gather(later, next_rows, k, W), gather(later_e, next_rows, k, W)
            no_dwell = load(width, k)  # 0 there: who arrives is free at once
            x = where_less(0.0, no_dwell, x * p, new)
            x_e = where_less(0.0, no_dwell, x_e + p_e, new_e)
            x, x_e = plus(kept, kept_e, x, x_e)
            store(free, k, x * b)
            store(free_e, k, x_e + b_e)
            new = where_less(0.0, no_dwell, new, 0.0)
            new_e = where_less(0.0, no_dwell, new_e, NOTHING)
            z, z_e = plus(load(recent, k), load(recent_e, k), new, new_e)
            y, y_e = plus(z, z_e, y * p, y_e + p_e)
            store(young, k, y * b)
            store(young_e, k, y_e + b_e)
            store(recent, k, z * b)
            store(recent_e, k, z_e + b_e)
            p, p_e = normalised(p * b, p_e + b_e)
            store(prefix, k, p)
            store(prefix_e, k, p_e)
            highest = maximum(highest, maximum(x_e, y_e) + b_e)
        if dwelling:
            for k in range(0, W, W if one_dwell else 1):
                place[k] += 1
                if place[k] < dwell[k] - 1:
                    continue
                place[k] = 0
                lanes = W // WIDTH if one_dwell else 0
                for j in range(lanes):
                    _close_block(
                        dwell[k] - 1, t, j * WIDTH, W, spread(0.0),
                        fit, fit_e, arrived, arrived_e, mature, mature_e, later, later_e,
                        recent, recent_e, prefix, prefix_e,
                    )  # fmt: skip
                if not one_dwell:
                    _close_block(
                        dwell[k] - 1, t, k, W, 0.0,
                        fit, fit_e, arrived, arrived_e, mature, mature_e, later, later_e,
                        recent, recent_e, prefix, prefix_e,
                    )  # fmt: skip

        top = largest(highest)
        for k in range(0, W, WIDTH):
            state = load(free, k) * scale(load(free_e, k) - top)
            store(row, k, state + load(young, k) * scale(load(young_e, k) - top))
        total = 0.0
        for k in range(K):
            total += row[k]
        if total == 0.0:
            log_predictive[t:n] = -np.inf
            return
        for k in range(K if t < len(filtered) else 0):
            filtered[t, k] = row[k] / total
        grown = top - last_e
        log_predictive[t] += np.log(total / last) + grown * LN2_LOW + grown * LN2_HIGH
        last, last_e = total, top


@njit
def _stays(log_transition: Array, stay: Array, stay_e: Array) -> None:
    """Probabilities of staying, as extended numbers."""
    for k in range(len(log_transition)):
        stay[k], stay_e[k] = exponential(log_transition[k, k])


@njit
def _close_block(
    w: int,
    t: int,
    k: int,
    W: int,
    zero: float,
    fit: Array,
    fit_e: Array,
    arrived: Array,
    arrived_e: Array,
    mature: Array,
    mature_e: Array,
    later: Array,
    later_e: Array,
    recent: Array,
    recent_e: Array,
    prefix: Array,
    prefix_e: Array,
) -> None:
    """Sum up the block that ends in row t, for a state or for lanes of states, and begin anew."""
    suffix, suffix_e = constant(1.0, zero), zero
    y, y_e = zero, constant(NOTHING, zero)
    for r in range(w - 1, -1, -1):
        i, j = (t - w + 1 + r) * W + k, r * W + k
        b, b_e = get(fit, i, zero), get(fit_e, i, zero)
        suffix, suffix_e = normalised(suffix * b, suffix_e + b_e)
        x, x_e = get(arrived, i, zero) * suffix, get(arrived_e, i, zero) + suffix_e
        put(mature, j, x)
        put(mature_e, j, x_e)
        y, y_e = plus(y, y_e, x, x_e)
        put(later, j, y)
        put(later_e, j, y_e)
    put(recent, k, zero)
    put(recent_e, k, constant(NOTHING, zero))
    put(prefix, k, constant(1.0, zero))
    put(prefix_e, k, zero)


def _entry_point(sources: str) -> Any:  # a closure: see `compilation`
    @compiled
    def filter_runs(
        runs: Runs, chunks: int, filtered: Array, predicted: Array, log_predictive: Array
    ) -> None:
        """Fill (runs, T, K) filtered and predicted probabilities, (runs, T) log densities.

        Either of the first two may be (runs, 0, K), where it is not wanted.
        """
        sources  # noqa: B018
        N = len(log_predictive)
        rows = (runs.log_likelihood.shape[1] + 1) * len(runs.dwell)
        block = (runs.dwell.max() + 1) * len(runs.dwell)
        for chunk in prange(chunks):
            room = (
                np.empty(rows), np.empty(rows), np.empty(rows), np.empty(rows),
                np.empty(block), np.empty(block), np.empty(block), np.empty(block),
            )  # fmt: skip
            for i in range(chunk * N // chunks, (chunk + 1) * N // chunks):
                filter_run(run(runs, i), room, filtered[i], predicted[i], log_predictive[i])

    return filter_runs


filter_runs = _entry_point(SOURCES)
