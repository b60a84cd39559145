"""Compiled forward passes on backward messages: expected counts, draws, best paths.

Given the rest of its run, the state path is again a chain with a minimum dwell, whose moves have
the probabilities of the transition matrix reweighted by the messages. So only probabilities move
forward, and whatever they drop cannot matter later. A row is *free* once its visit has lasted
``dwell`` rows.

Compiled functions call none of another file, since numba's cache goes by file.
"""

import numpy as np
from numba import njit, prange

from bayeshmm.messages.chain import Array, Arrays


@njit(parallel=True, cache=True)
def count(
    runs: Arrays,
    messages: Arrays,
    log_marginal: Array,
    initial: Array,
    transition: Array,
    state: Array,
    entered: Array,
) -> None:
    """Fill expected counts, all with a leading dimension of runs; 0 for an impossible run.

    Parameters
    ----------
    runs, messages : tuple of arrays
        The fields of `kernel.Runs` and `kernel.Messages`.
    log_marginal : array
        (runs,), what the backward pass found.
    initial, transition, state, entered : array
        (runs, K), (runs, S, K, K), (runs, T, K), (runs, T, K), to be filled.
    """
    for i in prange(len(log_marginal)):
        possible = log_marginal[i] > -np.inf
        _count(runs, messages, i, possible, initial[i], transition[i], state[i], entered[i])


@njit
def _count(
    runs: Arrays,
    messages: Arrays,
    i: int,
    possible: bool,
    initial: Array,
    transition: Array,
    state: Array,
    entered: Array,
) -> None:
    """Move posterior probabilities forward, adding up the transitions."""
    log_initials, log_transitions, stays, jumps, _, dwell, lengths, which = runs
    entries, frees, entry_weights, free_weights, totals = messages
    first, matrix, _ = which[i]
    log_transition, stay, jump = log_transitions[matrix], stays[matrix], jumps[matrix]
    entry, free, total = entries[i], frees[i], totals[i]
    entry_weight, free_weight = entry_weights[i], free_weights[i]
    n, K = lengths[i], len(dwell)
    per_step = len(log_transition) > 1
    weight = np.empty(K)
    stayed = np.zeros(K)
    # Visits that entered in the last w = dwell - 1 rows: those of the block of t, as a running
    # sum, and as many of the block before as fill up, from its suffix sums.
    recent = np.zeros(K)
    suffix = np.zeros((K, dwell.max() + 1))
    place = np.zeros(K, np.int64)

    initial[:] = 0.0
    transition[:] = 0.0
    state[:] = 0.0
    entered[:] = 0.0
    if not possible:
        return
    weight[:] = log_initials[first] + entry[0]
    share = 1.0 / _exponentiate(weight)
    initial[:] = share * weight
    entered[0] = initial
    for t in range(n):
        s = t if per_step else 0
        for k in range(K):
            w = dwell[k] - 1
            settled = stayed[k] + (entered[t - w, k] if t >= w else 0.0)
            stayed[k] = 0.0
            state[t, k] = settled
            if w > 0:
                recent[k] += entered[t, k]
                place[k] += 1
                state[t, k] += recent[k] + suffix[k, place[k]]
                if place[k] == w:
                    running = 0.0
                    for r in range(w - 1, 0, -1):
                        running += entered[t - w + 1 + r, k]
                        suffix[k, r] = running
                    recent[k] = 0.0
                    place[k] = 0
            if t == n - 1 or settled < 1e-100:
                continue
            if total[t, k] > 0.0:
                share = settled / total[t, k]
                stayed[k] = share * stay[s, k] * free_weight[t + 1, k]
                for j in range(K):
                    moved = share * jump[s, k, j] * entry_weight[t + 1, j]
                    transition[s, k, j] += moved
                    entered[t + 1, j] += moved
            else:
                _score(log_transition[s, k], entry[t + 1], free[t + 1], k, weight)
                share = settled / _exponentiate(weight)
                stayed[k] = share * weight[k]
                weight[k] = 0.0
                for j in range(K):
                    transition[s, k, j] += share * weight[j]
                    entered[t + 1, j] += share * weight[j]
            transition[s, k, k] += stayed[k]


@njit(parallel=True, cache=True)
def walk(
    runs: Arrays,
    messages: Arrays,
    log_density: Array,
    draws: Array,
    uniforms: Array,
    path: Array,
    maximise: bool,
) -> None:
    """Fill paths, a draw by inversion or the best one; -1 where there is none.

    ``draws``, (runs, draws of each), says which rows of ``uniforms`` and ``path`` are a run's.
    """
    each = draws.shape[1]
    for j in prange(draws.size):
        i = j // each
        draw = draws[i, j % each]
        possible = log_density[i] > -np.inf
        _walk(runs, messages, i, possible, uniforms[draw], path[draw], maximise)


@njit
def _walk(
    runs: Arrays,
    messages: Arrays,
    i: int,
    possible: bool,
    uniforms: Array,
    path: Array,
    maximise: bool,
) -> None:
    """Walk forward on the messages."""
    log_initials, log_transitions, stays, jumps, _, dwell, lengths, which = runs
    entries, frees, entry_weights, free_weights, totals = messages
    first, matrix, _ = which[i]
    log_transition, stay, jump = log_transitions[matrix], stays[matrix], jumps[matrix]
    entry, free, total = entries[i], frees[i], totals[i]
    entry_weight, free_weight = entry_weights[i], free_weights[i]
    n, K = lengths[i], len(dwell)
    per_step = len(log_transition) > 1
    weight = np.empty(K)

    path[:] = -1
    t = state = 0
    if not possible:
        return
    while t < n:
        s = t - 1 if per_step else 0
        weights = 0.0  # their sum, if they are linear already
        if t == 0:
            weight[:] = log_initials[first] + entry[0]
        elif maximise or total[t - 1, state] == 0.0:
            _score(log_transition[s, state], entry[t], free[t], state, weight)
        else:
            weights = total[t - 1, state]
            for j in range(K):
                weight[j] = jump[s, state, j] * entry_weight[t, j]
            weight[state] = stay[s, state] * free_weight[t, state]
        if maximise:
            chosen = int(np.argmax(weight))
        else:
            weights = weights or _exponentiate(weight)
            chosen = _invert(weight, weights, uniforms[t])
        end = t + 1 if chosen == state and t > 0 else min(t + dwell[chosen], n)
        path[t:end] = chosen
        t, state = end, chosen


@njit
def _score(log_weight: Array, entry: Array, free: Array, k: int, score: Array) -> None:
    """Log weights of the moves from k: to k itself by ``free``, to the others by ``entry``."""
    for j in range(len(score)):
        score[j] = log_weight[j] + (free[j] if j == k else entry[j])


@njit
def _exponentiate(score: Array) -> float:
    """Turn log weights into weights relative to the largest; return their sum."""
    score[:] = np.exp(score - score.max())
    return score.sum()


@njit
def _invert(weight: Array, total: float, uniform: float) -> int:
    """Smallest state whose cumulative share of the weights exceeds the uniform."""
    cumulative = 0.0
    last = 0
    for j in range(len(weight)):
        if weight[j] > 0.0:
            cumulative += weight[j]
            last = j
            if uniform * total < cumulative:
                break
    return last
