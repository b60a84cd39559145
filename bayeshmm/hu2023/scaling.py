"""Units of the protocol: every metric of every run by itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bayeshmm.runs import Runs

FIRST_ROWS = 1000
"""Rows of each run that are read."""


def scaled(runs: Runs) -> tuple[Tensor, Tensor]:
    """Metrics z-scored within each run over its first rows, (N, T, D), 0 on padding; lengths."""
    lengths = np.minimum(runs.lengths, FIRST_ROWS).astype(np.int64)
    values = runs.values[:, : lengths.max()]
    values = np.where((np.arange(values.shape[1]) < lengths[:, None])[..., None], values, np.nan)
    low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
    if constant := np.argwhere(low == high).tolist():
        n, j = constant[0]
        raise ValueError(
            f"run {runs.names[n]!r}: metric {runs.metrics[j]!r} is constant over the "
            f"{lengths[n]} rows that are read, and has no z-score: leave out the metric with "
            "runs.select([...]) or the run with runs.subset([...])."
        )
    mean, sd = (f(values, axis=1, keepdims=True) for f in (np.nanmean, np.nanstd))
    return torch.from_numpy(np.nan_to_num((values - mean) / sd)), torch.from_numpy(lengths)
