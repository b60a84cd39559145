"""Runs that are there twice, whole or for a part."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bayeshmm.lineage.findings import Finding, counted, of_runs
from bayeshmm.lineage.raw import Log

DIGITS = 5
"""Significant digits that must agree: files round, and float32 has seven digits."""

FEW_ROWS = 10
"""Rows that agree, below which runs are no copies: the same seed may begin alike."""

PART = 0.2
"""Share of the shorter run's rows that agree, from which runs are copies."""


def duplicate_runs(log: Log) -> list[Finding]:
    """Find runs that have the same values at the same steps, from start to end or for a long part.

    Only rows count whose values occur once in their run, so that saturated metrics do not.
    """
    run = log.ordered["run"].cat.codes.to_numpy()
    step = log.ordered["step"].to_numpy()
    values = pd.DataFrame(_rounded(log.ordered[log.metrics].to_numpy()))
    telling = ~values.assign(run=run).duplicated(keep=False) & values.notna().any(axis=1)
    row = pd.util.hash_pandas_object(values.assign(step=step), index=False)
    shared = np.flatnonzero(telling & row.where(telling).duplicated(keep=False))
    if not len(shared):
        return []
    place, distinct = pd.factorize(row[shared])
    size = len(log.names), len(distinct)
    held = coo_array((np.ones(len(shared)), (run[shared], place)), shape=size).tocsr()
    alike = (held @ held.T).tocoo()
    lengths = np.bincount(run[telling], minlength=len(log.names))
    shorter = np.minimum(lengths[alike.row], lengths[alike.col])
    copies = (alike.row < alike.col) & (alike.data >= np.maximum(FEW_ROWS, PART * shorter))
    links = coo_array((alike.data[copies], (alike.row[copies], alike.col[copies])), alike.shape)
    _, cluster = connected_components(links, directed=False)
    found = []
    for one in np.unique(cluster[alike.row[copies]]):
        runs = tuple(log.names[i] for i in np.flatnonzero(cluster == one))
        pairs = copies & (cluster[alike.row] == one)
        whole = bool((alike.data[pairs] >= shorter[pairs]).all())
        at = step[shared[cluster[run[shared]] == one]]
        what = "all rows" if whole else counted(int(alike.data[pairs].min()), "row")
        steps = int(at.min()), int(at.max())
        detail = f"{of_runs(runs)}: {what} agree, from step {steps[0]} to step {steps[1]}"
        mend = (
            f'keep one: df = df[~df["run"].isin({list(runs[1:])!r})]'
            if whole
            else "find out where they part, and keep one: they are one run up to there: "
            f'df = df[~df["run"].isin({list(runs[1:])!r})]'
        )
        found.append(Finding("duplicate_runs", "error", runs, steps, (), detail, mend))
    return found


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values of `DIGITS` significant digits."""
    power = DIGITS - 1 - np.floor(np.log10(np.abs(values)))
    scale = 10.0 ** np.where(np.isfinite(power), power, 0.0)
    rounded = np.round(values * scale) / scale
    return np.where(np.isfinite(rounded), rounded, values)
