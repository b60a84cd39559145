"""Compiled causal pass: state probabilities and predictive densities, row by row.

Per state two log messages are carried, normalised by the density of the rows so far: free (the
visit has lasted its dwell) and young (it has not). Visits that are still young are summed by
blocks of w = dwell - 1 rows: those that started in the current block in a running sum, those of
the block before in sums over its last rows. Nothing is ever subtracted.

Everything compiled that this pass calls is in this file: numba's cache goes by file.
"""

import numpy as np
from numba import njit, prange

from bayeshmm.messages.backward import CERTAIN, NEGLIGIBLE
from bayeshmm.messages.chain import Array, Arrays


@njit(parallel=True, cache=True)
def filter_runs(runs: Arrays, probability: Array, log_predictive: Array) -> None:
    """Fill (runs, T, K) filtered probabilities and (runs, T) log predictive densities.

    From the first row that is impossible given those before it, the former are 0, the latter -inf.
    """
    for i in prange(len(probability)):
        log_initial, log_transition, _, jump, log_likelihood, dwell, lengths, which = runs
        initial, transition, data = which[i]
        _filter(
            log_initial[initial],
            log_transition[transition],
            jump[transition],
            log_likelihood[data, : lengths[i]],
            dwell,
            probability[i],
            log_predictive[i],
        )


@njit
def _filter(
    log_initial: Array,
    log_transition: Array,
    jump: Array,
    log_likelihood: Array,
    dwell: Array,
    probability: Array,
    log_predictive: Array,
) -> None:
    n, K = log_likelihood.shape
    per_step = len(log_transition) > 1
    widest = dwell.max()
    free = np.full(K, -np.inf)
    young = np.empty(K)
    arrived = log_initial.copy()  # log probability that a visit starts in this row
    started = np.empty((K, widest))  # the same, for the rows of the current block
    recent = np.full(K, -np.inf)  # density of visits that started in it, before this row
    prefix = np.zeros(K)  # likelihood of its rows, before this one
    mature = np.full((K, widest), -np.inf)  # visits by starting place in the block before, ...
    later = np.full((K, widest), -np.inf)  # ... and from that place on, both to the block's end
    place = np.zeros(K, np.int64)

    probability[:] = 0.0
    log_predictive[:] = 0.0
    for t in range(n):
        s = t - 1 if per_step else 0
        if t > 0:
            _arrive(free, log_transition[s], jump[s], arrived)
        for k in range(K):
            fit = log_likelihood[t, k]
            stayed = free[k] + log_transition[s, k, k] if t > 0 else -np.inf
            if dwell[k] == 1:
                free[k] = fit + _logaddexp(stayed, arrived[k])
                young[k] = -np.inf
            else:
                p = place[k]
                free[k] = fit + _logaddexp(stayed, mature[k, p] + prefix[k])
                recent[k] = _logaddexp(recent[k], arrived[k])
                young[k] = fit + _logaddexp(recent[k], later[k, p + 1] + prefix[k])

        top = max(free.max(), young.max())
        if top == -np.inf:
            log_predictive[t:n] = -np.inf
            return
        total = 0.0
        for k in range(K):
            probability[t, k] = _exp(free[k] - top) + _exp(young[k] - top)
            total += probability[t, k]
        scale = top + np.log(total)
        log_predictive[t] = scale
        for k in range(K):
            probability[t, k] /= total
            free[k] -= scale
            young[k] -= scale
            w = dwell[k] - 1
            if w == 0:
                continue
            fit = log_likelihood[t, k] - scale
            recent[k] += fit
            prefix[k] += fit
            started[k, place[k]] = arrived[k]
            place[k] += 1
            if place[k] == w:
                suffix, running = 0.0, -np.inf
                for r in range(w - 1, -1, -1):
                    row = t - w + 1 + r
                    suffix += log_likelihood[row, k] - log_predictive[row]
                    mature[k, r] = started[k, r] + suffix
                    running = _logaddexp(running, mature[k, r])
                    later[k, r] = running
                recent[k] = -np.inf
                prefix[k] = 0.0
                place[k] = 0


@njit
def _arrive(free: Array, log_transition: Array, jump: Array, arrived: Array) -> None:
    """Log probability that a visit to j starts now, from the free states of the row before."""
    K = len(free)
    top = free.max()
    if top == -np.inf:
        arrived[:] = -np.inf
        return
    weight = free - top
    for k in range(K):
        weight[k] = _exp(weight[k])
    for j in range(K):
        total = 0.0
        for k in range(K):
            total += weight[k] * jump[k, j]
        if CERTAIN <= total < np.inf:
            arrived[j] = top + np.log(total)
        else:
            arrived[j] = -np.inf
            for k in range(K):
                if k != j:
                    arrived[j] = _logaddexp(arrived[j], free[k] + log_transition[k, j])


@njit
def _logaddexp(x: float, y: float) -> float:
    if x < y:
        x, y = y, x
    if y - x < -38.0 or y == -np.inf:  # beyond the last bit of x
        return x
    return x + np.log1p(np.exp(y - x))


@njit
def _exp(x: float) -> float:
    return np.exp(x) if x > NEGLIGIBLE else 0.0
