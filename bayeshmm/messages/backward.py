"""The compiled backward pass: what every row's future says about its state.

Messages are logs, normalised at every row by the largest that any path can reach (a state that is
never entered may fit far better than all others). Sums are linear where a certificate shows that
nothing was lost, exact log-sum-exp elsewhere. A row is *free* once its visit has lasted ``dwell``
rows. The likelihood of a whole dwell is a sum over two partial blocks of rows, never a difference
of cumulative sums, so neither -inf nor an outlier reaches a window that does not contain it.

Compiled functions call none of another file, since numba's cache goes by file.
"""

import numpy as np
from numba import njit, prange

from bayeshmm.messages.chain import Array, Arrays

# Weights below exp(NEGLIGIBLE) are dropped: less than 1e-20 of a sum of at least CERTAIN.
NEGLIGIBLE = -650.0
CERTAIN = 1e-260


@njit(parallel=True, cache=True)
def look_back(runs: Arrays, messages: Arrays, log_density: Array, maximise: bool) -> None:
    """Fill messages and the log densities of the runs, or those of their best paths.

    Parameters
    ----------
    runs, messages : tuple of arrays
        The fields of `kernel.Runs` and, to be filled, of `kernel.Messages`.
    log_density : array
        (runs,), to be filled.
    maximise : bool
        Over paths, in place of summing over them.
    """
    for i in prange(len(log_density)):
        _mark_reachable(runs, messages, i)
        log_density[i] = _backward(runs, messages, i, maximise)


@njit
def _mark_reachable(runs: Arrays, messages: Arrays, i: int) -> None:
    """Write 0 where a path can arrive as an entry or free, -inf elsewhere."""
    log_initials, log_transitions, _, _, log_likelihoods, dwell, lengths, which = runs
    initial, transition, data = which[i]
    log_initial, log_transition = log_initials[initial], log_transitions[transition]
    log_likelihood = log_likelihoods[data]
    entry, free = messages[0][i], messages[1][i]
    n, K = lengths[i], len(dwell)
    per_step = len(log_transition) > 1
    impossible = np.full(K, -1)  # last row that the state cannot have emitted
    was_free = np.zeros(K, np.bool_)
    is_free = np.zeros(K, np.bool_)
    for t in range(n):
        s = t - 1 if per_step else 0
        for k in range(K):
            stays = was_free[k] and log_transition[s, k, k] > -np.inf
            enters = t == 0 and log_initial[k] > -np.inf
            for j in range(K):
                if enters:
                    break
                enters = was_free[j] and j != k and log_transition[s, j, k] > -np.inf
            free[t, k] = 0.0 if stays else -np.inf
            entry[t, k] = 0.0 if enters else -np.inf
            if log_likelihood[t, k] == -np.inf:
                impossible[k] = t
            start = t - dwell[k] + 1
            settles = start > impossible[k] and entry[start, k] == 0.0
            is_free[k] = impossible[k] < t and (stays or settles)
        was_free, is_free = is_free, was_free


@njit
def _backward(runs: Arrays, messages: Arrays, i: int, maximise: bool) -> float:
    """Fill the messages of a run; return its log density, or that of its best path."""
    log_initials, log_transitions, stays, jumps, log_likelihoods, dwell, lengths, which = runs
    entries, frees, entry_weights, free_weights, totals = messages
    initial, transition, data = which[i]
    log_initial = log_initials[initial]
    log_transition, log_likelihood = log_transitions[transition], log_likelihoods[data]
    stay, jump = stays[transition], jumps[transition]
    entry, free, total = entries[i], frees[i], totals[i]
    entry_weight, free_weight = entry_weights[i], free_weights[i]
    n, K = lengths[i], len(dwell)
    per_step = len(log_transition) > 1
    future = np.empty((n, K))  # log density of the rows after t if t is free, rescaled
    scale = np.empty(n)
    future[n - 1] = 0.0
    level = lost = 0.0  # sum of the scales, compensated (Neumaier 1974)
    # The w = dwell - 1 rows after t, by blocks of w rows: what is left of the block of t, as a
    # running sum, and as many of the next block as fill up, from its prefix sums.
    rest = np.zeros(K)
    prefix = np.zeros((K, dwell.max()))
    place = (n - 1) % np.maximum(dwell - 1, 1)  # of t in its block

    for t in range(n - 1, -1, -1):
        top = best_fit = -np.inf
        for k in range(K):
            fit = log_likelihood[t, k]
            settled = t + dwell[k] - 1
            later = future[settled, k] if settled < n else 0.0
            free[t, k] += fit + future[t, k]
            entry[t, k] += fit + (rest[k] + prefix[k, place[k]]) + later
            if free[t, k] > top:
                top = free[t, k]
            if entry[t, k] > top:
                top = entry[t, k]
            if fit > best_fit:
                best_fit = fit
        dwelling = top == -np.inf  # all paths are inside their first dwell
        if dwelling:
            top = best_fit if best_fit > -np.inf else 0.0
        scale[t] = top
        step = level + top
        lost += (level - step) + top if abs(level) >= abs(top) else (top - step) + level
        level = step

        for k in range(K):
            free[t, k] -= top
            entry[t, k] -= top
            w = dwell[k] - 1
            if place[k] > 0:
                rest[k] += log_likelihood[t, k] - top
                place[k] -= 1
            elif w > 0:
                rest[k] = running = 0.0
                place[k] = w - 1
                for r in range(w):
                    if t + r < n:
                        running += log_likelihood[t + r, k] - scale[t + r]
                    prefix[k, r] = running
        if t == 0:
            break

        s = t - 1 if per_step else 0
        if dwelling:
            future[t - 1] = -np.inf
            continue
        if maximise:
            for k in range(K):
                best = log_transition[s, k, k] + free[t, k]
                for j in range(K):
                    candidate = log_transition[s, k, j] + entry[t, j]
                    if candidate > best and j != k:
                        best = candidate
                future[t - 1, k] = best
            continue
        best_entry = -np.inf
        for j in range(K):
            if entry[t, j] > best_entry:
                best_entry = entry[t, j]
        for j in range(K):
            entry_weight[t, j] = _exp(entry[t, j] - best_entry)
            if free[t, j] == entry[t, j]:
                free_weight[t, j] = entry_weight[t, j]
            else:
                free_weight[t, j] = _exp(free[t, j] - best_entry)
        for k in range(K):
            weight = stay[s, k] * free_weight[t, k]
            for j in range(K):
                weight += jump[s, k, j] * entry_weight[t, j]
            if CERTAIN <= weight <= 1.0 / CERTAIN:
                total[t - 1, k] = weight
                future[t - 1, k] = best_entry + np.log(weight)
            else:
                total[t - 1, k] = 0.0
                future[t - 1, k] = _logsumexp(log_transition[s, k], entry[t], free[t], k)
    if maximise:
        return (log_initial + entry[0]).max() + (level + lost)
    return _logsumexp(log_initial, entry[0], entry[0], 0) + (level + lost)


@njit
def _exp(x: float) -> float:
    """Exponential without the negligible; not finite if there is no entry to be relative to."""
    return 0.0 if x < NEGLIGIBLE else np.exp(x)


@njit
def _logsumexp(log_weight: Array, entry: Array, free: Array, k: int) -> float:
    """Exact sum over the moves from k: to k itself by ``free``, to the others by ``entry``."""
    top = log_weight[k] + free[k]
    for j in range(len(entry)):
        if j != k:
            top = max(top, log_weight[j] + entry[j])
    if top == -np.inf:
        return top
    total = 0.0
    for j in range(len(entry)):
        total += np.exp(log_weight[j] + (free[j] if j == k else entry[j]) - top)
    return top + np.log(total)
