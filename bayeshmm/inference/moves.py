"""Moves out of a local mode: states merged, split, widened and shifted, and converged again.

In the spirit of split-and-merge EM (Ueda, Nakano, Ghahramani and Hinton, 2000): coordinate ascent
cannot undo two states that share a phase, nor move a border that all runs have at the wrong end of
a gradual change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Paths = NDArray[np.int64]


def moved(rng: np.random.Generator, paths: Paths, states: int) -> Paths:
    """One random move of hard state paths.

    Parameters
    ----------
    rng
        Source of randomness.
    paths
        (N, T), -1 beyond the end of a run.
    states
        K, at least 2.

    Returns
    -------
    ndarray
        New paths, the same shape and padding.
    """
    new = (_widen, _merge_and_split, _shift)[rng.integers(3)](rng, paths, states)
    return np.where(paths >= 0, new, -1)


def _widen(rng: np.random.Generator, paths: Paths, states: int) -> Paths:
    """Extend every visit to one state, at its beginning or at its end."""
    inside = paths == rng.integers(states)
    state = paths[inside][:1]
    new = paths.copy()
    reach = int(rng.integers(1, max(2, paths.shape[1] // 12)))
    backwards = rng.random() < 0.5
    for rows in range(1, reach + 1):
        if backwards:
            new[:, :-rows][inside[:, rows:]] = state
        else:
            new[:, rows:][inside[:, :-rows]] = state
    return new


def _merge_and_split(rng: np.random.Generator, paths: Paths, states: int) -> Paths:
    """Give the rows of one state to another, and use it for the later part of a third's rows."""
    freed, kept = rng.choice(states, 2, replace=False)
    split = rng.integers(states)
    new = np.where(paths == freed, kept, paths)
    rank = (new == split).cumsum(axis=1)
    late = rank > rng.uniform(0.2, 0.8) * rank[:, -1:]
    return np.where((new == split) & late, freed, new)


def _shift(rng: np.random.Generator, paths: Paths, states: int) -> Paths:
    """Make every change of every run earlier or later by the same number of rows."""
    T = paths.shape[1]
    reach = max(1, T // 20)
    rows = int(rng.integers(-reach, reach + 1))
    source = paths[:, np.clip(np.arange(T) - rows, 0, T - 1)]
    return np.where(source >= 0, source, paths)
