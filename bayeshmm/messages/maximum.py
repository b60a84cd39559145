"""Compiled best paths: the backward pass with maxima in place of sums, then a walk forward.

Messages are logarithms. At every row the largest that any path can reach (a state that is never
entered may fit far better than all others), rounded to a whole number, is taken off: whole numbers
add up without error. Walking forward needs no back-pointers, and taking the smallest state at every
tie gives the lexicographically smallest of the best paths.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from bayeshmm.messages.backward import (
    Run,
    Runs,
    add_windows,
    arrivals,
    centre,
    compensated_sum,
    run,
)
from bayeshmm.messages.chain import Array, Arrays
from bayeshmm.messages.compilation import SOURCES, compiled
from bayeshmm.messages.lanes import WIDTH, gather, load, maximum, store


@njit
def mark_reachable(run: Run, entry: Array, free: Array) -> None:
    """Write whether a path can arrive as an entry or free; (n, K) bool."""
    n, K = run.log_likelihood.shape
    per_step = len(run.log_transition) > 1
    impossible = np.full(K, -1)  # last row that the state cannot have emitted
    was_free = np.zeros(K, np.bool_)
    is_free = np.zeros(K, np.bool_)
    for t in range(n):
        s = t - 1 if per_step else 0
        for k in range(K):
            stays = was_free[k] and run.log_transition[s, k, k] > -np.inf
            enters = t == 0 and run.log_initial[k] > -np.inf
            for j in range(K):
                if enters:
                    break
                enters = was_free[j] and j != k and run.log_transition[s, j, k] > -np.inf
            free[t, k] = stays
            entry[t, k] = enters
            if run.log_likelihood[t, k] == -np.inf:
                impossible[k] = t
            start = t - run.dwell[k] + 1
            settles = start > impossible[k] and entry[start, k]
            is_free[k] = impossible[k] < t and (stays or settles)
        was_free, is_free = is_free, was_free


@njit
def look_back_for_best(
    run: Run,
    reachable: Arrays,
    entry: Array,
    free: Array,
    future: Array,
    taken_off: Array,
) -> float:
    """Fill the messages, row t and state k at t * W + k; return the log density of the best path.

    Those of row t are short of ``taken_off[t]``.
    """
    n, K = run.log_likelihood.shape
    dwell, w = run.dwell, run.dwell[0] - 1
    W = len(dwell)
    dwelling = dwell.max() > 1
    one_dwell = dwell.min() == dwell.max()
    per_step = len(run.log_transition) > 1
    stay, move = np.full(W, -np.inf), np.full(K * W, -np.inf)
    shift, rows = np.zeros(W), np.zeros(W, np.int64)
    can_enter, can_stay = reachable

    centre(run.log_likelihood, W, free, taken_off)
    level, lost = compensated_sum(taken_off[:n])
    if dwelling:
        add_windows(free, dwell, n, future, entry, rows)
    else:
        entry[: n * W] = free[: n * W]
    all_reachable = run.log_initial.min() > -np.inf and run.log_likelihood.min() > -np.inf
    if len(run.log_transition) > 0:
        all_reachable = all_reachable and run.log_transition.min() > -np.inf
    if not all_reachable:
        mark_reachable(run, can_enter, can_stay)
    if not per_step:
        arrivals(run.log_transition[0], stay, move, -np.inf)
    future[(n - 1) * W : n * W] = 0.0
    taken_off[n - 1] = 0.0
    for t in range(n - 1, -1, -1):
        here = t * W
        ahead = min(t + w, n - 1)
        off = taken_off[ahead] - taken_off[t]
        if not one_dwell:
            for k in range(W):
                rows[k] = min(t + dwell[k] - 1, n - 1)
                shift[k] = taken_off[rows[k]] - taken_off[t]
        for k in range(0, W, WIDTH):
            i = here + k
            settled = load(free, i) + load(future, i)
            if one_dwell:
                entered = load(entry, i) + load(future, ahead * W + k) + off
            else:
                entered = load(entry, i) + gather(future, rows, k, W) + load(shift, k)
            store(free, i, settled)
            store(entry, i, entered)
            store(shift, k, maximum(settled, entered))
        if t == 0:
            break
        best = -np.inf
        for k in range(K):
            if all_reachable:
                best = max(best, shift[k])
            else:
                best = max(best, free[here + k]) if can_stay[t, k] else best
                best = max(best, entry[here + k]) if can_enter[t, k] else best
        off = np.rint(best) if best > -np.inf else 0.0
        taken_off[t - 1] = taken_off[t] + off
        if per_step:
            arrivals(run.log_transition[t - 1], stay, move, -np.inf)
        for k in range(0, W, WIDTH):
            top = load(stay, k) + load(free, here + k)
            for j in range(K):
                top = maximum(top, load(move, j * W + k) + entry[here + j])
            store(future, here - W + k, top - off)
    best = -np.inf
    for k in range(K):
        best = max(best, run.log_initial[k] + entry[k])
    return (taken_off[0] + level) + (best + lost)


@njit
def follow_best(run: Run, entry: Array, free: Array, path: Array) -> None:
    """Walk forward along the best path of a run that is possible; -1 beyond its end."""
    n, K = run.log_likelihood.shape
    log_initial, log_transition, dwell = run.log_initial, run.log_transition, run.dwell
    W = len(dwell)
    per_step = len(log_transition) > 1
    path[n:] = -1
    t = state = 0
    while t < n:
        s = t - 1 if per_step else 0
        chosen, best = 0, -np.inf
        for j in range(K):
            if t == 0:
                score = log_initial[j] + entry[j]
            else:
                score = free[t * W + j] if j == state else entry[t * W + j]
                score += log_transition[s, state, j]
            if score > best:
                chosen, best = j, score
        end = t + 1 if chosen == state and t > 0 else min(t + dwell[chosen], n)
        for row in range(t, end):
            path[row] = chosen
        t, state = end, chosen


def _entry_point(sources: str) -> Any:  # a closure: see `compilation`
    @compiled
    def maximise_runs(runs: Runs, chunks: int, log_probability: Array, path: Array) -> None:
        """Fill (runs,) log densities of best paths and (runs, T) paths, -1 where there is none."""
        sources  # noqa: B018
        N = len(log_probability)
        _, T, K = runs.log_likelihood.shape
        rows = (T + 1) * len(runs.dwell)
        for chunk in prange(chunks):
            reachable = np.empty((T, K), np.bool_), np.empty((T, K), np.bool_)
            entry, free, future = np.empty(rows), np.empty(rows), np.empty(rows)
            taken_off = np.empty(T)
            for i in range(chunk * N // chunks, (chunk + 1) * N // chunks):
                log_probability[i] = look_back_for_best(
                    run(runs, i), reachable, entry, free, future, taken_off
                )
                if log_probability[i] > -np.inf:
                    follow_best(run(runs, i), entry, free, path[i])
                else:
                    path[i] = -1

    return maximise_runs


maximise_runs = _entry_point(SOURCES)
