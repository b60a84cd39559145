"""Which state of one fit is which state of another, and in what order states are shown.

Labels of hidden states are arbitrary. Fits are matched on where their states *are* (the rows they
claim), never on emission parameters: this is invariant to the emission family and needs no ordering
constraint on a coordinate, which "fails in general" (Stephens, 2000, JRSS B 62).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment


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
    shared = overlap(_one_hot(reference), _one_hot(other))
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


def _rows(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Flatten all but the states; padding becomes 0."""
    values = np.nan_to_num(np.asarray(probabilities, dtype=np.float64))
    return values.reshape(-1, values.shape[-1])


def _one_hot(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Most probable state of every row as one-hot rows; padding stays 0."""
    values = np.nan_to_num(np.asarray(probabilities, dtype=np.float64))
    hard = np.eye(values.shape[-1])[values.argmax(axis=-1)]
    return hard * values.any(axis=-1, keepdims=True)
