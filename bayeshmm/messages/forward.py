"""The compiled forward pass on backward messages: expected counts.

Given the rest of its run, the state path is again a chain with a minimum dwell, whose moves have
the probabilities of the transition matrix reweighted by the messages. So only probabilities move
forward, and whatever they drop cannot matter later:

    settled[t, k]  = stayed[t, k] + entered[t-w, k]                P(k in row t, past its dwell)
    share[t, k]    = settled[t, k] / future[t, k]
    stayed[t+1, k] = share[t, k] A[k, k] free[t+1, k]
    entered[t+1, j] = entry[t+1, j] sum over k != j of share[t, k] A[k, j]
    state[t, k]    = settled[t, k] + sum of entered[t-w+1..t, k],  w = dwell[k] - 1.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from bayeshmm.messages.backward import CERTAIN, Messages, Run, Runs, look_back, room, run
from bayeshmm.messages.chain import Array
from bayeshmm.messages.compilation import SOURCES, compiled
from bayeshmm.messages.extended import scale, weights
from bayeshmm.messages.lanes import WIDTH, gather, largest, load, spread, store, where_less

NEGLIGIBLE = 1e-100
"""Probability below which a state is left out of what follows."""


@njit
def count(
    run: Run, messages: Messages, initial: Array, transition: Array, state: Array, entered: Array
) -> None:
    """Fill the expected counts of a run that is possible. The messages are used up."""
    free, free_exponent, entry, entry_exponent, future, future_exponent, tops = messages[:7]
    _, stay, move, weight, rows = messages[7:]
    n, K = run.log_likelihood.shape
    W = len(run.dwell)
    dwell, w = run.dwell, run.dwell[0] - 1
    dwelling = dwell.max() > 1
    one_dwell = dwell.min() == dwell.max()
    per_step = len(run.transition) > 1
    # Rows of messages that are no longer needed take what must be remembered of past rows.
    past, suffix = free, free_exponent
    past[n * W : (n + 1) * W] = 0.0  # a row for what is not there
    suffix[n * W : (n + 1) * W] = 0.0
    arrived = np.zeros(W)
    stayed = np.zeros(W)
    settled = np.zeros(W)
    inside = np.zeros(W)
    share = np.zeros(W)
    stays = np.zeros(W)
    pairs = np.zeros(K * W)
    # Visits inside their dwell are those that entered in the last w = dwell - 1 rows. By blocks of
    # w rows: those of the block of t, as a running sum, and as many of the block before as fill
    # up, from its suffix sums.
    recent = np.zeros(W)
    place = np.zeros(W, np.int64)
    width = (dwell - 1).astype(np.float64)

    transition[:] = 0.0
    state[n:] = 0.0
    entered[n:] = 0.0
    total, _ = weights(
        run.initial, run.log_initial, entry[:K], entry_exponent[:K], 0, entry[0], entry_exponent[0], weight
    )
    arrived[:K] = weight[:K] / total
    initial[:] = arrived[:K]
    if not per_step:
        departures(run.transition[0], stay, move)
    for t in range(n):
        here, after = t * W, (t + 1) * W
        for i in range(0, W, WIDTH):
            store(past, here + i, load(arrived, i))
        since = (t - w if t >= w else n) * W
        if not one_dwell:
            for k in range(W):
                rows[k] = t - dwell[k] + 1 if t >= dwell[k] - 1 else n
        for k in range(0, W, WIDTH):
            new = load(past, since + k) if one_dwell else gather(past, rows, k, W)
            store(settled, k, load(stayed, k) + new)
        if dwelling:
            place[0] += 1
            since = (t - w + 1 if t >= w and place[0] < w else n) * W
            if not one_dwell:
                for k in range(W):
                    place[k] += k > 0
                    fills_up = t >= dwell[k] - 1 and place[k] < dwell[k] - 1
                    rows[k] = t - dwell[k] + 2 if fills_up else n
            for k in range(0, W, WIDTH):
                young = load(recent, k) + load(arrived, k)
                store(recent, k, young)
                older = load(suffix, since + k) if one_dwell else gather(suffix, rows, k, W)
                store(inside, k, where_less(0.0, load(width, k), young + older, 0.0))
            if not one_dwell:
                _close_blocks(dwell, t, past, suffix, recent, place)
            elif place[0] == w:
                place[0] = 0
                for k in range(0, W, WIDTH):
                    older = spread(0.0)
                    for i in range(here + k, here + k - w * W, -W):
                        older = older + load(past, i)
                        store(suffix, i, older)
                    store(recent, k, spread(0.0))
        for k in range(K):
            state[t, k] = settled[k] + inside[k]
            entered[t, k] = arrived[k]
        if t == n - 1:
            break

        top = tops[t + 1]
        if per_step:
            departures(run.transition[t], stay, move)
        unsure = 0.0
        for k in range(0, W, WIDTH):
            probability = load(settled, k)
            e = load(future_exponent, here + k) - top
            certain = where_less(e * e, CERTAIN * CERTAIN, probability, 0.0)
            unsure = max(unsure, largest(probability - certain))
            certain = where_less(NEGLIGIBLE, certain, certain, 0.0)
            shared = where_less(0.0, certain, certain / (load(future, here + k) * scale(e)), 0.0)
            store(share, k, shared)
            kept = load(free, after + k) * scale(load(free_exponent, after + k) - top)
            kept = where_less(0.0, shared, shared * load(stay, k) * kept, 0.0)
            store(stayed, k, kept)
            store(stays, k, load(stays, k) + kept)
        for j in range(0, W, WIDTH):
            arrival = load(entry, after + j) * scale(load(entry_exponent, after + j) - top)
            total = spread(0.0)
            for k in range(K):
                total = total + load(move, k * W + j) * share[k]
                store(pairs, k * W + j, load(pairs, k * W + j) + arrival * share[k])
            store(arrived, j, total * arrival)
        if per_step:
            _write_pairs(move, pairs, stays, transition[t])
        if unsure < NEGLIGIBLE:
            continue
        s = t if per_step else 0
        for k in range(K):
            e = future_exponent[here + k] - top
            if settled[k] < NEGLIGIBLE or abs(e) < CERTAIN:
                continue
            total, _ = weights(
                run.transition[s, k],
                run.log_transition[s, k],
                entry[after : after + K],
                entry_exponent[after : after + K],
                k,
                free[after + k],
                free_exponent[after + k],
                weight,
            )
            for j in range(K):
                moved = settled[k] * (weight[j] / total)
                transition[s, k, j] += moved
                if j == k:
                    stayed[k] += moved
                else:
                    arrived[j] += moved
    if not per_step:
        _write_pairs(move, pairs, stays, transition[0])


@njit(forceinline=True)
def departures(transition: Array, stay: Array, move: Array) -> None:
    """Lay a transition matrix out by the state that is moved from."""
    K, W = len(transition), len(stay)
    for k in range(K):
        move[k * W : k * W + K] = transition[k]
        move[k * W + k] = 0.0
        stay[k] = transition[k, k]


@njit
def _write_pairs(move: Array, pairs: Array, stays: Array, transition: Array) -> None:
    """Add what was summed in lanes to the expected transitions; leave zeros."""
    K, W = len(transition), len(stays)
    for k in range(K):
        for j in range(K):
            if pairs[k * W + j] > 0.0:
                transition[k, j] += pairs[k * W + j] * move[k * W + j]
        transition[k, k] += stays[k]
    pairs[:] = 0.0
    stays[:] = 0.0


@njit
def _close_blocks(
    dwell: Array, t: int, past: Array, suffix: Array, recent: Array, place: Array
) -> None:
    """Form the suffix sums of the blocks that end in row t, where states differ in their dwell."""
    W = len(dwell)
    for k in range(W):
        w = dwell[k] - 1
        if place[k] < w:
            continue
        older = 0.0
        for i in range(t * W + k, (t - w) * W + k, -W):
            older += past[i]
            suffix[i] = older
        recent[k] = 0.0
        place[k] = 0


def _entry_point(sources: str) -> Any:  # a closure: see `compilation`
    @compiled
    def count_runs(
        runs: Runs,
        chunks: int,
        log_marginal: Array,
        initial: Array,
        transition: Array,
        state: Array,
        entered: Array,
    ) -> None:
        """Fill expected counts, all with a leading dimension of runs; 0 for an impossible run.

        Arrays are (runs,), (runs, K), (runs, S, K, K), (runs, T, K), (runs, T, K).
        """
        sources  # noqa: B018
        N = len(log_marginal)
        for chunk in prange(chunks):
            messages = room(runs)
            for i in range(chunk * N // chunks, (chunk + 1) * N // chunks):
                log_marginal[i] = look_back(run(runs, i), messages)
                if log_marginal[i] > -np.inf:
                    count(
                        run(runs, i), messages, initial[i], transition[i], state[i], entered[i]
                    )
                else:
                    initial[i] = 0.0
                    transition[i] = 0.0
                    state[i] = 0.0
                    entered[i] = 0.0

    return count_runs


count_runs = _entry_point(SOURCES)
