"""Compiled best paths: the backward pass with maxima in place of sums, then a walk forward.

Messages are logarithms, normalised at every row by the largest that any path can reach (a state
that is never entered may fit far better than all others). Walking forward needs no back-pointers,
and taking the smallest state at every tie gives the lexicographically smallest of the best paths.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from bayeshmm.messages.backward import Run, Runs, run
from bayeshmm.messages.chain import Array
from bayeshmm.messages.compilation import SOURCES, compiled


@njit
def mark_reachable(run: Run, entry: Array, free: Array) -> None:
    """Write 0 where a path can arrive as an entry or free, -inf elsewhere; (n, K)."""
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
            free[t, k] = 0.0 if stays else -np.inf
            entry[t, k] = 0.0 if enters else -np.inf
            if run.log_likelihood[t, k] == -np.inf:
                impossible[k] = t
            start = t - run.dwell[k] + 1
            settles = start > impossible[k] and entry[start, k] == 0.0
            is_free[k] = impossible[k] < t and (stays or settles)
        was_free, is_free = is_free, was_free


@njit
def look_back_for_best(run: Run, entry: Array, free: Array, future: Array) -> float:
    """Fill the messages, (n, K); return the log density of the best path."""
    n, K = run.log_likelihood.shape
    log_likelihood, dwell = run.log_likelihood, run.dwell[:K]
    per_step = len(run.log_transition) > 1
    mark_reachable(run, entry, free)
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
            top = max(top, free[t, k], entry[t, k])
            best_fit = max(best_fit, fit)
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
        for k in range(K):
            best = run.log_transition[s, k, k] + free[t, k]
            for j in range(K):
                candidate = run.log_transition[s, k, j] + entry[t, j]
                if candidate > best and j != k:
                    best = candidate
            future[t - 1, k] = best
    return (run.log_initial + entry[0]).max() + (level + lost)


@njit
def follow_best(run: Run, entry: Array, free: Array, path: Array) -> None:
    """Walk forward along the best path of a run that is possible; -1 beyond its end."""
    n, K = run.log_likelihood.shape
    per_step = len(run.log_transition) > 1
    path[n:] = -1
    t = state = 0
    while t < n:
        s = t - 1 if per_step else 0
        chosen, best = 0, -np.inf
        for j in range(K):
            if t == 0:
                score = run.log_initial[j] + entry[t, j]
            else:
                score = free[t, j] if j == state else entry[t, j]
                score += run.log_transition[s, state, j]
            if score > best:
                chosen, best = j, score
        end = t + 1 if chosen == state and t > 0 else min(t + run.dwell[chosen], n)
        path[t:end] = chosen
        t, state = end, chosen


def _entry_point(sources: str) -> Any:  # a closure: see `compilation`
    @compiled
    def maximise_runs(runs: Runs, chunks: int, log_probability: Array, path: Array) -> None:
        """Fill (runs,) log densities of best paths and (runs, T) paths, -1 where there is none."""
        sources  # noqa: B018
        N = len(log_probability)
        _, T, K = runs.log_likelihood.shape
        for chunk in prange(chunks):
            entry, free, future = np.empty((T, K)), np.empty((T, K)), np.empty((T, K))
            for i in range(chunk * N // chunks, (chunk + 1) * N // chunks):
                log_probability[i] = look_back_for_best(run(runs, i), entry, free, future)
                if log_probability[i] > -np.inf:
                    follow_best(run(runs, i), entry, free, path[i])
                else:
                    path[i] = -1

    return maximise_runs


maximise_runs = _entry_point(SOURCES)
