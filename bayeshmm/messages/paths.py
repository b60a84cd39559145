"""Compiled draws of state paths, forward on backward messages."""

from typing import Any

import numpy as np
from numba import njit, prange

from bayeshmm.messages.backward import (
    CERTAIN,
    LEADS,
    LIKELY,
    STAYS,
    Messages,
    Run,
    Runs,
    doubt_in,
    look_back,
    room,
    run,
)
from bayeshmm.messages.chain import Array
from bayeshmm.messages.compilation import SOURCES, compiled
from bayeshmm.messages.extended import scale, weights
from bayeshmm.messages.lanes import WIDTH, load, store


@njit
def weigh(n: int, dwelling: bool, messages: Messages) -> None:
    """Turn the mantissas of n rows into weights, relative to the scales of their rows.

    Nothing is lost: powers of two can be taken back.
    """
    free, free_exponent, entry, entry_exponent = messages[:4]
    scales, W = messages.scale, len(messages.stay)
    for t in range(n):
        for i in range(t * W, (t + 1) * W, WIDTH):
            store(entry, i, load(entry, i) * scale(load(entry_exponent, i) - scales[t]))
            if dwelling:
                store(free, i, load(free, i) * scale(load(free_exponent, i) - scales[t]))


@njit
def draw(run: Run, messages: Messages, uniforms: Array, path: Array) -> None:
    """Draw a path of a run that is possible, on messages that were weighed; -1 beyond its end.

    The state of a row is the smallest whose cumulative share of the weights exceeds the uniform,
    or the last of positive weight if rounding leaves none.
    """
    free, free_exponent, entry, entry_exponent, future, future_exponent, scales = messages[:7]
    weight, mantissa = messages.weight, messages.doubt
    transition, dwell = run.transition, run.dwell
    n, K = run.log_likelihood.shape
    W = len(run.dwell)
    dwelling = run.dwell.max() > 1
    per_step = len(run.transition) > 1
    path[n:] = -1
    t = state = 0
    while t < n:
        s = t - 1 if per_step else 0
        here, top = t * W, scales[t]
        certain, size = False, 0.0
        if t > 0:
            size = future_exponent[here - W + state] - top
            lead, entry_lead = free_exponent[here + state] - top, scales[t - 1] - top
            certain = doubt_in(size, lead) < CERTAIN and entry_lead <= LEADS
            may_stay = dwelling and run.bounded and entry_lead < STAYS
            if may_stay and lead > LEADS and transition[s, state, state] > LIKELY:
                path[t] = state
                t += 1
                continue
        if certain:
            total = future[here - W + state] * scale(size)
        else:
            for j in range(K):
                mantissa[j] = entry[here + j] * scale(top - entry_exponent[here + j])
            i = here + state
            total, _ = weights(
                run.transition[s, state] if t > 0 else run.initial,
                run.log_transition[s, state] if t > 0 else run.log_initial,
                mantissa,
                entry_exponent[here : here + K],
                state,
                free[i] * scale(top - free_exponent[i]) if t > 0 else mantissa[state],
                free_exponent[i] if t > 0 else entry_exponent[state],
                weight,
            )
        cumulative = 0.0
        chosen = 0
        threshold = uniforms[t] * total
        for j in range(K):
            if certain:
                share = free[here + j] if j == state else entry[here + j]
                share *= transition[s, state, j]
            else:
                share = weight[j]
            if share > 0.0:
                cumulative += share
                chosen = j
                if threshold < cumulative:
                    break
        end = t + 1 if chosen == state and t > 0 else min(t + dwell[chosen], n)
        for row in range(t, end):
            path[row] = chosen
        t, state = end, chosen


def _entry_point(sources: str) -> Any:  # a closure: see `compilation`
    @compiled
    def draw_runs(
        runs: Runs, chunks: int, log_marginal: Array, draws: Array, uniforms: Array, path: Array
    ) -> None:
        """Fill (runs,) log marginals and (paths, T) paths, -1 for an impossible run.

        ``draws``, (runs, draws of each), says which rows of ``uniforms`` and ``path`` are a run's.
        """
        sources  # noqa: B018
        N = len(log_marginal)
        for chunk in prange(chunks):
            messages = room(runs)
            for i in range(chunk * N // chunks, (chunk + 1) * N // chunks):
                log_marginal[i] = look_back(run(runs, i), messages)
                weigh(runs.lengths[i], runs.dwell.max() > 1, messages)
                for j in draws[i]:
                    if log_marginal[i] > -np.inf:
                        draw(run(runs, i), messages, uniforms[j], path[j])
                    else:
                        path[j] = -1

    return draw_runs


draw_runs = _entry_point(SOURCES)
