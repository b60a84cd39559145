"""Which state of one fit is which state of another, and in what order states are shown.

Labels of hidden states are arbitrary. Fits are matched on where their states *are* (the rows they
claim), never on emission parameters: this is invariant to the emission family and needs no ordering
constraint on a coordinate, which "fails in general" (Stephens, 2000, JRSS B 62).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

SAME = 0.5
"""Share of the rows of one of two states that the other must claim too if they are one phase."""


def overlap(reference: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """Rows that each pair of states shares, weighted by probability.

    Parameters
    ----------
    reference : array_like, (..., K)
        State probabilities (or one-hot states) of one fit; NaN or 0 on padding.
    other : array_like, (..., L)
        The same of another fit over the same rows.

    Returns
    -------
    ndarray, (K, L)
        Entry (k, l) is the sum over rows of ``reference[..., k] * other[..., l]``, in rows.

    Raises
    ------
    ValueError
        If the two do not cover the same rows.
    """
    first, second = _rows(reference), _rows(other)
    if np.shape(reference)[:-1] != np.shape(other)[:-1]:
        raise ValueError(
            f"reference covers rows of shape {np.shape(reference)[:-1]}, other "
            f"{np.shape(other)[:-1]}; both must hold probabilities of the same rows"
        )
    return first.T @ second


def match_states(reference: ArrayLike, other: ArrayLike) -> NDArray[np.int64]:
    """For each state of `other`, the state of `reference` that it is.

    The one-to-one matching that maximises the summed `overlap` (Hungarian algorithm; for paths,
    this is the ECR relabelling of Papastamoulis and Iliopoulos, 2010).

    Parameters
    ----------
    reference : array_like, (..., K)
        State probabilities (or one-hot states) of one fit; NaN or 0 on padding.
    other : array_like, (..., L)
        The same of another fit over the same rows.

    Returns
    -------
    ndarray of int, (L,)
        ``match[l]`` is the state of `reference` matched to state ``l`` of `other`. No state of
        `reference` appears twice. If L > K, the L - K states of `other` left over hold -1; if
        L < K, some states of `reference` do not appear. If L = K, ``argsort(match)`` reorders the
        states of `other` as `reference` has them.
    """
    shared = overlap(reference, other)
    match = np.full(shared.shape[1], -1, dtype=np.int64)
    states, matched = linear_sum_assignment(shared, maximize=True)
    match[matched] = states
    return match


def phase_numbers(
    states: Sequence[int], shared: Callable[[int, int], ArrayLike], reference: int = 0
) -> list[NDArray[np.int64]]:
    """Number the states of several fits so that a phase has one number in all of them.

    From the reference outwards by number of states, each fit is matched to the phases known so
    far, each as the fit nearest in number of states has it: of two states that a phase splits into,
    the one that has more of its rows is the phase. Two states are no match unless one of them has
    at least half (`SAME`) of its rows, and at least one row, in common with the other.

    Parameters
    ----------
    states : sequence of int
        Number of states of each fit.
    shared : callable
        ``shared(i, j)`` is the `overlap` of the states of fits i and j, in rows,
        (``states[i]``, ``states[j]``).
    reference : int
        The fit whose states have the numbers 0, 1, ...

    Returns
    -------
    list of ndarray of int
        The phase that each state of each fit is; what is no phase of the fits matched before it has
        the next number.
    """
    known = {reference: np.arange(states[reference])}
    phases = states[reference]

    def distance(one: int, other: int) -> int:
        return abs(states[one] - states[other])

    for i in sorted(range(len(states)), key=lambda i: distance(i, reference)):
        if i in known:
            continue
        rows: dict[int, NDArray[np.float64]] = {}
        for j in sorted(known, key=lambda j: distance(i, j)):  # dictionaries keep the first first
            if len(rows) < phases:
                rows = dict(zip(known[j].tolist(), _kindred(shared(j, i)), strict=True)) | rows
        table = np.stack([rows[phase] for phase in range(phases)])
        place, matched = linear_sum_assignment(table, maximize=True)
        number = np.full(states[i], -1)
        number[matched] = np.where(table[place, matched] > 0, place, -1)
        new = np.flatnonzero(number < 0)
        number[new] = phases + np.arange(len(new))
        known[i], phases = number, phases + len(new)
    return [known[i] for i in range(len(states))]


def agreement(reference: ArrayLike, other: ArrayLike) -> float:
    """Share of rows whose most probable states agree, after the best matching of the states.

    Each row counts by its most probable state (the lowest of ties), so a fit agrees with itself
    entirely however unsure it is. Symmetric; the numbers of states may differ, and rows in states
    without a partner then disagree.

    Parameters
    ----------
    reference : array_like, (..., K)
        State probabilities (or one-hot states) of one fit; NaN or 0 on padding.
    other : array_like, (..., L)
        The same of another fit over the same rows.

    Returns
    -------
    float
        In [0, 1]; rows that are padding in either fit are left out.

    Raises
    ------
    ValueError
        If the fits cover different rows, or have no row in common.
    """
    shared = overlap(most_probable(reference), most_probable(other))
    if not shared.any():
        raise ValueError("no row has state probabilities in both fits")
    matched = shared[linear_sum_assignment(shared, maximize=True)]
    return float(matched.sum() / shared.sum())


def display_order(paths: ArrayLike, states: int | None = None) -> NDArray[np.int64]:
    """Order in which states are shown: by when they are first visited.

    Parameters
    ----------
    paths : array_like of int, (..., T)
        State paths, commonly (draws, runs, rows); -1 on padding, which comes after a run's rows.
    states : int, optional
        Number of states, where some may be visited by no path; default: the largest label + 1.

    Returns
    -------
    ndarray of int, (K,)
        The states, sorted by their mean first visit as a share of the run's length, the mean taken
        over the paths that visit the state. States that no path visits come last, ties in the order
        of their labels.
    """
    labels = np.asarray(paths)
    lengths = np.count_nonzero(labels >= 0, axis=-1)
    K = int(labels.max(initial=-1)) + 1 if states is None else states
    first_visit = np.full(K, np.inf)
    for k in range(K):  # a state at a time keeps the memory at one boolean per row
        inside = labels == k
        visited = inside.any(axis=-1)
        if visited.any():
            first_visit[k] = np.mean(inside.argmax(axis=-1)[visited] / lengths[visited])
    return np.argsort(first_visit, kind="stable")


def most_probable(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Most probable state of every row, the lowest of ties, as zeros and ones; padding is 0.

    Parameters
    ----------
    probabilities : array_like, (..., K)
        State probabilities; NaN or 0 on padding.

    Returns
    -------
    ndarray, (..., K)
    """
    values = np.nan_to_num(np.asarray(probabilities, dtype=np.float64))
    hard = np.eye(values.shape[-1])[values.argmax(axis=-1)]
    return hard * values.any(axis=-1, keepdims=True)


def _kindred(shared: ArrayLike) -> NDArray[np.float64]:
    """Shared rows of the pairs of states that may be one phase, 0 of all others."""
    rows = np.asarray(shared, dtype=np.float64)
    least = SAME * np.minimum(rows.sum(1)[:, None], rows.sum(0))
    return np.where(rows >= np.maximum(least, 1.0), rows, 0.0)


def _rows(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Flatten all but the states; padding becomes 0."""
    values = np.nan_to_num(np.asarray(probabilities, dtype=np.float64))
    return values.reshape(-1, values.shape[-1])
