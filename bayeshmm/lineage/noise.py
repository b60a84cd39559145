"""Runs that share their noise: the same batches in the same order."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.ndimage import uniform_filter1d
from scipy.stats import norm

from bayeshmm.lineage.findings import Finding, of_runs
from bayeshmm.lineage.raw import Log
from bayeshmm.lineage.values import LOSS

CARRIES_BATCHES = re.compile(rf"{LOSS.pattern}|grad", re.IGNORECASE)
"""Metrics that take the noise of the batches."""

SHARED = 0.3
"""Correlation from which noise counts as shared: any number of runs then tells no more about what
carries it than 1 / 0.3 independent ones."""

FALSE_ALARMS = 1e-3
"""Probability that independent runs are said to share noise, over all pairs and metrics."""

JOINS = 2.5
"""Standard deviations by which the mean correlation of runs must exceed 0 to make one set."""

FEW_ROWS = 30
"""Rows in common below which a correlation is not looked at."""

SPREAD_ROWS = 25
"""Rows over which the size of the noise is averaged: it changes over training."""

CLIP = 3.0
"""Noises at which a value is cut: spikes and steps of a schedule are rare and far larger."""

OWN_LAGS = range(1, 11)
"""Lags of the autocorrelations in the variance of a correlation."""

LAGS = range(3, 9)
"""Rows by which runs are shifted for comparison; second differences of noise reach two rows."""

RATIO = 2.0
"""Times by which the correlation must exceed those of shifted runs."""

CHANCE = 3.5
"""Standard deviations that these may reach by chance, the largest of 12."""


def shared_batches(log: Log) -> list[Finding]:
    """Find sets of runs whose losses or gradients go up and down together from row to row.

    Second differences remove the trend, and their local mean size the changes of the noise's
    spread. What remains of independent runs is uncorrelated, with the variance of Bartlett's
    formula (the sum over lags of the products of both autocorrelations, over the rows). What runs
    have in common because they are smooth correlates nearly as well when they are shifted by some
    rows; noise does not.
    """
    metrics = [name for name in log.metrics if CARRIES_BATCHES.search(name)]
    number = len(log.names)
    if number < 2 or not metrics:
        return []
    bound = norm.isf(FALSE_ALARMS / (len(metrics) * number * (number - 1) / 2))
    ties: dict[str, NDArray[np.float64]] = {}
    linked = np.zeros((number, number), dtype=bool)
    cut = SHARED
    for metric in metrics:
        noise = _noise(log, metric)
        tie, spread = _correlations(noise)
        sure = np.triu(tie > np.maximum(SHARED, bound * spread), 1)
        if sure.any():
            shifted = _shifted(noise)
            smooth = (tie < RATIO * shifted) & (shifted > CHANCE * spread)
            sure &= ~smooth
        if sure.any():
            linked |= sure
            ties[metric] = np.where(smooth, 0.0, tie)
            cut = max(cut, JOINS * float(np.median(spread)))
    if not ties:
        return []
    strongest = np.max(list(ties.values()), axis=0)
    distance = 1.0 - strongest[np.triu_indices(number, 1)]
    cluster = fcluster(linkage(distance, "average"), 1.0 - cut, "distance")
    found = []
    for members in (np.flatnonzero(cluster == one) for one in dict.fromkeys(cluster)):
        inside = np.ix_(members, members)
        pairs = np.triu_indices(len(members), 1)
        if not linked[inside].any():
            continue
        runs = tuple(log.names[i] for i in members)
        shares = {name: np.median(tie[inside][pairs]) for name, tie in ties.items()}
        seen = tuple(name for name, share in shares.items() if share > SHARED)
        detail = (
            f"{of_runs(runs)}: all {len(runs)} go up and down together from row to row "
            f"(correlation of the noise {np.median(strongest[inside][pairs]):.2f}): they saw the "
            f"same batches in the same order, and are not {len(runs)} independent runs"
        )
        mend = (
            "train each with a data order of its own; else model one of them, or metrics without "
            f'this noise: df = df[(df["run"] == {runs[0]!r}) | ~df["run"].isin({list(runs)!r})]'
        )
        found.append(Finding("shared_batches", "warning", runs, (), seen, detail, mend))
    return found


def _noise(log: Log, metric: str) -> NDArray[np.float64]:
    """Return the noise of a metric, (steps, runs): of about unit size, 0 where there is none."""
    rows = log.ordered[["run", "step", metric]]
    rows = rows[np.isfinite(rows[metric])]
    values = rows[metric].to_numpy()
    run = rows["run"].cat.codes.to_numpy()
    bend = np.zeros(len(rows))
    within = (run[2:] == run[:-2]) if len(rows) > 2 else np.zeros(0, dtype=bool)
    bend[1:-1][within] = (values[2:] - 2 * values[1:-1] + values[:-2])[within]
    _, place, counts = np.unique(rows["step"].to_numpy(), return_inverse=True, return_counts=True)
    common = counts >= max(2, 0.05 * len(log.names))
    position = np.cumsum(common) - 1
    noise = np.zeros((int(common.sum()), len(log.names)))
    kept = common[place]
    noise[position[place[kept]], run[kept]] = bend[kept]
    size = uniform_filter1d(np.abs(noise), SPREAD_ROWS, axis=0, mode="nearest")
    scaled = np.divide(noise, size, out=np.zeros_like(noise), where=size > 0)
    return np.clip(scaled, -CLIP, CLIP)


def _correlations(
    noise: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the correlation of every pair of runs, and its standard deviation without a tie."""
    if len(noise) < FEW_ROWS:
        nothing = np.zeros((noise.shape[1], noise.shape[1]))
        return nothing, np.ones_like(nothing)
    there = (noise != 0).astype(np.float64)
    rows = there.T @ there
    correlation = _normalised(noise.T @ noise, noise, there)
    power = (noise**2).sum(axis=0)
    power[power == 0] = 1.0
    own = np.array([(noise[lag:] * noise[:-lag]).sum(axis=0) / power for lag in OWN_LAGS])
    variance = (1.0 + 2.0 * own.T @ own) / np.maximum(rows, 1.0)
    return np.where(rows >= FEW_ROWS, correlation, 0.0), np.sqrt(np.maximum(variance, 0.0))


def _shifted(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest absolute correlation of every pair of runs when one is shifted."""
    largest = np.zeros((noise.shape[1], noise.shape[1]))
    there = (noise != 0).astype(np.float64)
    for lag in LAGS:
        early, late = noise[:-lag], noise[lag:]
        power = np.sqrt((early**2).T @ there[lag:] * (there[:-lag].T @ late**2))
        power[power == 0] = 1.0
        shifted = np.abs(early.T @ late / power)
        largest = np.maximum(largest, np.maximum(shifted, shifted.T))
    return largest


def _normalised(
    products: NDArray[np.float64], noise: NDArray[np.float64], there: NDArray[np.float64]
) -> NDArray[np.float64]:
    power = (noise**2).T @ there  # of each run over the rows that the other has too
    scale = np.sqrt(power * power.T)
    return np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
