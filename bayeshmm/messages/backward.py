"""The compiled backward pass: what the rows from t on say about the state of row t.

For a state k, ``entry`` is the density of the rows from t on if a visit to k starts at t, ``free``
that if row t is a row of k after its dwell, ``future`` that of the rows after such a row:

    future[t-1, k] = A[k, k] free[t, k] + sum over j != k of A[k, j] entry[t, j]
    free[t, k]     = b[t, k] future[t, k]
    entry[t, k]    = b[t, k] ... b[t+w, k] future[t+w, k],        w = dwell[k] - 1.

Messages are extended numbers (`bayeshmm.messages.extended`), so none can underflow. A row is summed
in plain doubles, relative to the best entry of the row after it, which is known early; where a
weight or the sum comes out so small or large that something may have been cut, it is formed again
in full. The likelihood of a whole dwell is the sum of two partial blocks of rows, never a
difference of cumulative sums, so neither -inf nor an outlier reaches a window that does not contain
it (van Herk 1992; Gil and Werman 1993).
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from bayeshmm.messages.chain import Array
from bayeshmm.messages.compilation import SOURCES, compiled
from bayeshmm.messages.extended import (
    LOWEST,
    exponentials,
    logarithm,
    normalised,
    scale,
    weights,
)
from bayeshmm.messages.lanes import WIDTH, gather, largest, load, maximum, spread, store, where_less

CERTAIN = 600.0
"""Size, as a power of two, up to which a sum of weights has lost nothing that counts: `scale` cuts
off at 2^-900, and what a double cannot hold of a probability is below 2^-1000."""

LEADS = 300.0
"""Size of a weight, as a power of two, beyond which it is not summed as a plain double."""

STAYS = 60.0
BOUND = 2.0**90
LIKELY = 2.0**-50
"""A free row whose weight `LEADS` stays for sure if it is `LIKELY` to, entries lead by no more than
`STAYS` and no transition exceeds `BOUND`: what moves is 2^-100 of it."""


class Runs(NamedTuple):
    """A batch of runs. Every input is stored once, and runs point to theirs."""

    log_initial: Array  # (initials, K)
    initial: Array  # its exponential
    log_transition: Array  # (transitions, S, K, K), S = 1 if constant: matrix s rules s -> s + 1
    transition: Array  # its exponential
    bounded: Array  # (transitions,), whether all of that is below `BOUND`
    log_likelihood: Array  # (data, T, K)
    dwell: Array  # (W,): W is K filled up to whole lanes
    lengths: Array  # (runs,)
    which: Array  # (runs, 3): which initial, transition and data


class Run(NamedTuple):
    """One of them, n rows."""

    log_initial: Array  # (K,)
    initial: Array  # (K,)
    log_transition: Array  # (S, K, K)
    transition: Array  # (S, K, K)
    bounded: bool
    log_likelihood: Array  # (n, K)
    dwell: Array  # (W,)


class Messages(NamedTuple):
    """Messages of one run, for row t and state k at t * W + k, and room to work in.

    The arrays of messages have room for one more row than the longest run.
    """

    free: Array  # mantissas
    free_exponent: Array
    entry: Array  # the arrays of free if no state has a dwell
    entry_exponent: Array
    future: Array
    future_exponent: Array
    scale: Array  # (T,), exponent to which a row is summed relative
    exists: Array  # (W,), 1 for states, 0 for lanes that fill up
    stay: Array  # (W,), diagonal of the transition matrix
    move: Array  # (K * W,), the rest of it: [j, k] is k -> j in `look_back`, j -> k in `count`
    weight: Array  # (W,)
    doubt: Array  # (W,)
    rows: Array  # (W,), whole numbers


@njit
def room(runs: Runs) -> Messages:
    """Room for the messages of any of these runs."""
    _, T, K = runs.log_likelihood.shape
    W = len(runs.dwell)
    rows = (T + 1) * W
    free, free_exponent = np.empty(rows), np.empty(rows)
    entry, entry_exponent = free, free_exponent
    if runs.dwell.max() > 1:
        entry, entry_exponent = np.empty(rows), np.empty(rows)
    exists = np.zeros(W)
    exists[:K] = 1.0
    return Messages(
        free,
        free_exponent,
        entry,
        entry_exponent,
        np.empty(rows),
        np.empty(rows),
        np.empty(T),
        exists,
        np.zeros(W),
        np.zeros(K * W),
        np.zeros(W),
        np.zeros(W),
        np.zeros(W, np.int64),
    )


@njit
def run(runs: Runs, i: int) -> Run:
    """Inputs of run i."""
    initial, transition, data = runs.which[i]
    return Run(
        runs.log_initial[initial],
        runs.initial[initial],
        runs.log_transition[transition],
        runs.transition[transition],
        runs.bounded[transition],
        runs.log_likelihood[data, : runs.lengths[i]],
        runs.dwell,
    )


@njit
def look_back(run: Run, messages: Messages) -> float:
    """Fill the messages of a run; return its log density."""
    free, free_exponent, entry, entry_exponent, future, future_exponent, scales = messages[:7]
    exists, stay, move, weight, doubt, rows = messages[7:]
    n, K = run.log_likelihood.shape
    W = len(run.dwell)
    dwell, w = run.dwell, run.dwell[0] - 1
    dwelling = dwell.max() > 1
    one_dwell = dwell.min() == dwell.max()
    per_step = len(run.transition) > 1

    centre(run.log_likelihood, W, free, scales)
    level, lost = compensated_sum(scales[:n])
    if dwelling:
        add_windows(free, dwell, n, future, entry, rows)
        exponentials(entry, entry, entry_exponent, n * W)
    exponentials(free, free, free_exponent, n * W)
    for i in range((n - 1) * W, n * W, WIDTH):
        store(future, i, spread(1.0))
        store(future_exponent, i, spread(0.0))
    if not per_step:
        arrivals(run.transition[0], stay, move, 0.0)

    reference = 0.0
    for t in range(n - 1, -1, -1):
        here, before = t * W, (t - 1) * W
        for i in range(here, here + W, WIDTH):
            store(free, i, load(free, i) * load(future, i))
            store(free_exponent, i, load(free_exponent, i) + load(future_exponent, i))
        if dwelling:
            ahead = min(t + w, n - 1) * W
            if not one_dwell:
                for k in range(W):
                    rows[k] = min(t + dwell[k] - 1, n - 1)
            for k in range(0, W, WIDTH):
                if one_dwell:
                    m, e = load(future, ahead + k), load(future_exponent, ahead + k)
                else:
                    m, e = gather(future, rows, k, W), gather(future_exponent, rows, k, W)
                store(entry, here + k, load(entry, here + k) * m)
                store(entry_exponent, here + k, load(entry_exponent, here + k) + e)
        scales[t] = reference
        if t == 0:
            break

        if per_step:
            arrivals(run.transition[t - 1], stay, move, 0.0)
        best = LOWEST
        for k in range(0, W, WIDTH):
            e = load(entry_exponent, here + k)
            best = max(best, largest(e))
            store(weight, k, load(entry, here + k) * scale(e - reference))
        may_stay = dwelling and run.bounded and best - reference < STAYS
        worst = 0.0
        for k in range(0, W, WIDTH):
            lead = load(free_exponent, here + k) - reference
            stays = load(stay, k) * load(free, here + k)
            even, odd = stays * scale(lead), spread(0.0)
            for j in range(1, K, 2):
                even = even + load(move, (j - 1) * W + k) * weight[j - 1]
                odd = odd + load(move, j * W + k) * weight[j]
            if K % 2:
                even = even + load(move, (K - 1) * W + k) * weight[K - 1]
            m, e = normalised(even + odd, 0.0)
            doubtful = where_less(0.0, load(exists, k), doubt_in(e, lead), 0.0)
            if may_stay:
                sure = where_less(LIKELY, load(stay, k), lead, 0.0)
                stays, stays_e = normalised(stays, lead)
                m = where_less(LEADS, sure, stays, m)
                e = where_less(LEADS, sure, stays_e, e)
                doubtful = where_less(LEADS, sure, 0.0, doubtful)
            store(future, before + k, m)
            store(future_exponent, before + k, e + reference)
            store(doubt, k, doubtful)
            worst = max(worst, largest(doubtful))
        entry_leads, reference = best - reference > LEADS, best
        if worst < CERTAIN and not entry_leads:
            continue
        s = t - 1 if per_step else 0
        for k in range(K):
            i = before + k
            if entry_leads or not doubt[k] < CERTAIN:
                total, e = weights(
                    run.transition[s, k],
                    run.log_transition[s, k],
                    entry[here : here + K],
                    entry_exponent[here : here + K],
                    k,
                    free[here + k],
                    free_exponent[here + k],
                    weight,
                )
                future[i], future_exponent[i] = normalised(total, e)
    total, top = weights(
        run.initial,
        run.log_initial,
        entry[:K],
        entry_exponent[:K],
        0,
        entry[0],
        entry_exponent[0],
        weight,
    )
    return logarithm(total, top, level, lost)


@njit(forceinline=True)
def doubt_in(size: float, lead: float) -> float:
    """What must be below `CERTAIN`: that a sum is, and that staying does not lead by `LEADS`."""
    return maximum(maximum(size, 0.0 - size), lead * (CERTAIN / LEADS))


@njit
def centre(log_likelihood: Array, W: int, centred: Array, best: Array) -> None:
    """Take the best fit off every row, W to a row, and write it down, (n,)."""
    n, K = log_likelihood.shape
    for t in range(n):
        top = log_likelihood[t, 0]
        for k in range(1, K):
            top = max(top, log_likelihood[t, k])
        best[t] = top if top > -np.inf else 0.0
        for k in range(K):
            centred[t * W + k] = log_likelihood[t, k] - best[t]
        for k in range(K, W):
            centred[t * W + k] = -np.inf


@njit
def compensated_sum(values: Array) -> tuple[float, float]:
    """Sum, and what its rounding lost (Neumaier 1974)."""
    total = lost = 0.0
    for x in values:
        step = total + x
        lost += (total - step) + x if abs(total) >= abs(x) else (x - step) + total
        total = step
    return total, lost


@njit(forceinline=True)
def arrivals(transition: Array, stay: Array, move: Array, never: float) -> None:
    """Lay a transition matrix out by the state that is moved to."""
    K, W = len(transition), len(stay)
    for k in range(K):
        for j in range(K):
            move[j * W + k] = transition[k, j]
        move[k * W + k] = never
        stay[k] = transition[k, k]


@njit
def add_windows(
    logs: Array, dwell: Array, n: int, prefix: Array, window: Array, rows: Array
) -> None:
    """Add up the ``dwell[k]`` rows from t on; rows past the last count zero.

    Blocks of w = dwell - 1 rows: the rows t..t+w are a block's suffix and the prefix of the next.
    """
    W = len(dwell)
    one_dwell = dwell.min() == dwell.max()
    block = np.maximum(dwell - 1, 1).astype(np.float64)
    place = np.zeros(W)  # of a row in its block
    rest = np.zeros(W)  # of its block after it
    for t in range(n):
        for k in range(0, W, WIDTH):
            i, p = t * W + k, load(place, k)
            before = load(prefix, i - W) if t > 0 else spread(0.0)
            store(prefix, i, load(logs, i) + where_less(0.0, p, before, 0.0))
            store(place, k, where_less(p + 1.0, load(block, k), p + 1.0, 0.0))
    prefix[n * W : (n + 1) * W] = 0.0  # a row for what is not there
    final = (n - 1) // block * block  # first row of the last block
    final[dwell == 1] = 0.0
    place[:] = (n - 1) % block
    for t in range(n - 1, -1, -1):
        ahead = (min(t + dwell[0] - 1, n - 1) if t < final[0] else n) * W
        if not one_dwell:
            for k in range(W):
                rows[k] = min(t + dwell[k] - 1, n - 1) if t < final[k] else n
        for k in range(0, W, WIDTH):
            i, p = t * W + k, load(place, k)
            later = load(prefix, ahead + k) if one_dwell else gather(prefix, rows, k, W)
            suffix = load(logs, i) + load(rest, k)
            store(window, i, suffix + later)
            store(rest, k, where_less(0.0, p, suffix, 0.0))
            store(place, k, where_less(0.0, p, p, load(block, k)) - 1.0)


def _entry_point(sources: str) -> Any:  # a closure: see `compilation`
    @compiled
    def log_marginals(runs: Runs, chunks: int, log_marginal: Array) -> None:
        """Fill log_marginal, (runs,)."""
        sources  # noqa: B018
        N = len(log_marginal)
        for chunk in prange(chunks):
            messages = room(runs)
            for i in range(chunk * N // chunks, (chunk + 1) * N // chunks):
                log_marginal[i] = look_back(run(runs, i), messages)

    return log_marginals


log_marginals = _entry_point(SOURCES)
