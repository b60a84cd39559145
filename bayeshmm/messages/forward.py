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
from bayeshmm.messages.lanes import WIDTH, gather, largest, load, spread, store, where_less

NEGLIGIBLE = 1e-100
"""Probability below which a state is left out of what follows."""

NEVER = -800.0
"""Size, as a power of two, below which an entry is left out of a sum that is `CERTAIN`."""


@njit
def count(
    run: Run, messages: Messages, initial: Array, transition: Array, state: Array, entered: Array
) -> None:
    """Fill the expected counts of a run that is possible. The messages are used up."""
    free, free_exponent, entry, entry_exponent, future, future_exponent, scales = messages[:7]
    _, stay, move, weight, unsure, rows = messages[7:]
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
    room = np.zeros((7, W))
    arrived, stayed, settled, inside, share = room[0], room[1], room[2], room[3], room[4]
    stayings, pairs = room[5], np.zeros(K * W)
    # Visits inside their dwell are those that entered in the last w = dwell - 1 rows. By blocks of
    # w rows: those of the block of t, as a running sum, and as many of the block before as fill
    # up, from its suffix sums.
    recent = room[6]
    place = np.zeros(W, np.int64)
    width = (dwell - 1).astype(np.float64)

    transition[:] = 0.0
    state[n:] = 0.0
    entered[n:] = 0.0
    total, _ = weights(
        run.initial,
        run.log_initial,
        entry[:K],
        entry_exponent[:K],
        0,
        entry[0],
        entry_exponent[0],
        weight,
    )
    arrived[:K] = weight[:K] / total
    initial[:] = arrived[:K]
    if not per_step:
        departures(run.transition[0], stay, move)
    mass = 1.0
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
            for k in range(1 if one_dwell else W):
                place[k] += 1
            since = (t - w + 1 if t >= w and place[0] < w else n) * W
            if not one_dwell:
                for k in range(W):
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
        last_mass, mass = mass, 0.0
        for k in range(K):
            state[t, k] = settled[k] + inside[k]
            mass += state[t, k]
        for k in range(K if t < len(entered) else 0):
            entered[t, k] = arrived[k]
        if t == n - 1:
            break

        top = scales[t + 1]
        if per_step:
            departures(run.transition[t], stay, move)
        entry_leads = scales[t] - top > LEADS
        may_stay = dwelling and run.bounded and scales[t] - top < STAYS
        worst = 0.0
        for k in range(0, W, WIDTH):
            # Rounding would let the mass drift with the rows: half of what is too much goes.
            probability = load(settled, k) * (1.5 - 0.5 * last_mass)
            probability = where_less(NEGLIGIBLE, probability, probability, 0.0)
            e = load(future_exponent, here + k) - top
            lead = load(free_exponent, after + k) - top
            stays, certain = spread(0.0), spread(0.0)
            if not entry_leads:
                certain = where_less(doubt_in(e, lead), CERTAIN, probability, 0.0)
            if may_stay:
                sure = where_less(LIKELY, load(stay, k), lead, 0.0)
                stays = where_less(LEADS, sure, probability, 0.0)
                certain = where_less(LEADS, sure, 0.0, certain)
            left = probability - certain - stays
            store(unsure, k, left)
            worst = max(worst, largest(left))
            shared = where_less(0.0, certain, certain / (load(future, here + k) * scale(e)), 0.0)
            store(share, k, shared)
            kept = load(free, after + k) * scale(lead)
            kept = where_less(0.0, shared, shared * load(stay, k) * kept, stays)
            store(stayed, k, kept)
            store(stayings, k, load(stayings, k) + kept)
        for j in range(0, W, WIDTH):
            e = load(entry_exponent, after + j) - top
            arrival = where_less(NEVER, e, load(entry, after + j) * scale(e), 0.0)
            total = spread(0.0)
            for k in range(K):
                total = total + load(move, k * W + j) * share[k]
                store(pairs, k * W + j, load(pairs, k * W + j) + arrival * share[k])
            store(arrived, j, total * arrival)
        if per_step:
            _write_pairs(move, pairs, stayings, transition[t])
        if worst == 0.0:
            continue
        s = t if per_step else 0
        for k in range(K):
            if unsure[k] == 0.0:
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
                moved = unsure[k] * (weight[j] / total)
                transition[s, k, j] += moved
                if j == k:
                    stayed[k] += moved
                else:
                    arrived[j] += moved
    if not per_step:
        _write_pairs(move, pairs, stayings, transition[0])


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
            if move[k * W + j] > 0.0:
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

        Arrays are (runs,), (runs, K), (runs, S, K, K), (runs, T, K), and the same again for the
        probability that a visit starts, or (runs, 0, K) if that is not wanted.
        """
        sources  # noqa: B018
        N = len(log_marginal)
        for chunk in prange(chunks):
            messages = room(runs)
            for i in range(chunk * N // chunks, (chunk + 1) * N // chunks):
                log_marginal[i] = look_back(run(runs, i), messages)
                if log_marginal[i] > -np.inf:
                    count(run(runs, i), messages, initial[i], transition[i], state[i], entered[i])
                else:
                    initial[i] = 0.0
                    transition[i] = 0.0
                    state[i] = 0.0
                    entered[i] = 0.0

    return count_runs


count_runs = _entry_point(SOURCES)
