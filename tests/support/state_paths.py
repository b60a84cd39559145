"""Sampled state paths made by hand, and what questions read of a posterior that has such."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from bayeshmm.runs import Runs
from bayeshmm.transitions import Calendar, Chain

NAMES = ["a", "b"]
STATES = ["warm-up", "plateau", "grok"]
# Four draws of two runs; run b is two rows shorter. Rows are logged at uneven steps.
STEPS = np.array([[0, 10, 30, 70, 80, 100], [5, 15, 25, 35, -1, -1]])
PATHS = np.array(
    [
        [[0, 0, 1, 1, 1, 2], [0, 0, 1, 1, -1, -1]],
        [[0, 1, 1, 0, 1, 1], [0, 1, 1, 1, -1, -1]],
        [[0, 1, 0, 1, 0, 1], [0, 0, 0, 1, -1, -1]],
        [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, -1, -1]],
    ],
    dtype=np.int8,
)


def random_paths(seed=0, draws=60, runs=4, rows=50, states=3, stay=1):
    """Paths, uneven steps, names and lengths; visits last at least `stay` rows."""
    rng = np.random.default_rng(seed)
    paths = rng.integers(0, states, (draws, runs, -(-rows // stay))).astype(np.int8)
    paths = paths.repeat(stay, axis=-1)[..., :rows]
    lengths = rng.integers(rows // 2, rows + 1, runs)
    keep = np.arange(rows) < lengths[:, None]
    steps = np.where(keep, np.cumsum(rng.integers(1, 9, (runs, rows)), axis=1), -1)
    return np.where(keep, paths, -1), steps, [f"run-{n}" for n in range(runs)], lengths


def row(table, **key):
    """The one row of a table with these values."""
    for name, value in key.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def posterior_of(
    paths, state_names, steps=None, names=None, minimum_dwell=1, stay=0.9, kinds=None, by=None
):
    """What is read of a posterior with these paths (S, N, T), and one chance to stay per step.

    `kinds` are the values of an attribute ``kind`` of the runs, by which the chain may differ.
    """
    paths = np.asarray(paths)
    (S, N, T), K = paths.shape, len(state_names)
    names = [f"run-{n}" for n in range(N)] if names is None else names
    steps = np.where(paths[0] >= 0, 10 * np.arange(T), -1) if steps is None else steps
    kinds = ["same"] * N if kinds is None else kinds
    frame = pd.concat(
        pd.DataFrame({"run": name, "step": own[own >= 0], "loss": 1.0, "kind": kind})
        for name, own, kind in zip(names, steps, kinds, strict=True)
    )
    frame["loss"] += np.random.default_rng(0).normal(size=len(frame))
    runs = Runs.from_dataframe(frame, metrics=["loss"], attributes=["kind"])
    groups = 1 if by is None else len(set(kinds))
    transition = torch.full((S, groups, K, K), (1 - stay) / max(K - 1, 1), dtype=torch.float64)
    transition.diagonal(dim1=-2, dim2=-1)[:] = stay
    chain = Chain(torch.full((S, 1, K), 1 / K, dtype=torch.float64), transition)
    return SimpleNamespace(
        runs=runs,
        states=K,
        state_names=tuple(state_names),
        palette=tuple(range(K)),
        paths=paths,
        draws=SimpleNamespace(chain=chain),
        encoding=SimpleNamespace(calendar=Calendar.of(runs, by)),
        minimum_dwell=minimum_dwell,
        seed=0,
    )
