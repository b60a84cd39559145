"""Metrics that a model can make little of: functions of others, and mostly constant ones."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from bayeshmm.runs import Runs
from bayeshmm.scaling import observed_increments

UNEXPLAINED = 1e-4
"""Share of a metric's increments below which the rest of it counts as a function of others."""

MOSTLY_CONSTANT = 0.9
"""Share of increments that are exactly zero from which a metric counts as saturated."""


class MetricWarning(UserWarning):
    """A metric that the model can make little of; the message names it and the mend."""


class SpacingWarning(UserWarning):
    """Rows that are not evenly spaced in steps; the message names them."""


def warn_of_metrics(runs: Runs) -> None:
    """Warn of metrics that are functions of others or hardly move, and of uneven rows.

    Warns
    -----
    MetricWarning
        Naming the metrics and the mend.
    SpacingWarning
        Naming the run and the rows.
    """
    uneven = runs.uneven_spacing()
    if uneven is not None:
        warnings.warn(
            f"{uneven}. Every row counts as one step of the model, so dwell times and laws of "
            "motion are per logged row; times are still reported in training steps.",
            SpacingWarning,
            stacklevel=3,
        )
    dependent = dependent_metrics(runs)
    if dependent:
        listed = "; ".join(f"{name!r} of {', '.join(others)}" for name, others in dependent.items())
        warnings.warn(
            f"these metrics are, up to rounding, functions of others: {listed}. They tell the "
            "model nothing new, and the tiny noise of such a tie can be taken for phases: leave "
            "them out with metrics=.",
            MetricWarning,
            stacklevel=3,
        )
    saturated = saturated_metrics(runs)
    if saturated:
        warnings.warn(
            f"these metrics stand still in over {MOSTLY_CONSTANT:.0%} of the rows: {saturated}. "
            "A phase may then mean no more than that they moved: leave them out with metrics=, or "
            "log a finer measure of the same thing (a loss in place of an accuracy).",
            MetricWarning,
            stacklevel=3,
        )


def dependent_metrics(runs: Runs) -> dict[str, list[str]]:
    """Metrics that are smooth functions of others, with the others.

    The increments of a metric, and of its square, are regressed on those of one or two others,
    with coefficients that may change linearly with those metrics' levels. That is exact for sums,
    products, squares and roots of quadratic forms (norms, standard deviations), and near for other
    smooth functions. One metric of every such tie is named, the later in the list.
    """
    sd = np.nanstd(runs.values, axis=(0, 1))
    values = runs.values / np.where(sd > 0, sd, 1.0)
    increments = observed_increments(values)
    middle = values - 0.5 * increments
    remaining = list(range(values.shape[2]))
    found: dict[str, list[str]] = {}
    for j in reversed(range(values.shape[2])):
        others = [i for i in remaining if i != j]
        columns = _tied(increments, middle, j, others) if j in remaining else []
        if columns:
            *kept, last = sorted([*columns, j])
            remaining.remove(last)
            found[runs.metrics[last]] = [runs.metrics[i] for i in kept]
    return found


def saturated_metrics(runs: Runs) -> list[str]:
    """Metrics of which over `MOSTLY_CONSTANT` of all increments are exactly zero."""
    increments = observed_increments(runs.values)
    still = np.nansum(increments == 0, axis=(0, 1)) / np.maximum(
        (~np.isnan(increments)).sum(axis=(0, 1)), 1
    )
    return [runs.metrics[j] for j in np.flatnonzero(still > MOSTLY_CONSTANT)]


def _tied(
    increments: NDArray[np.float64], middle: NDArray[np.float64], j: int, others: list[int]
) -> list[int]:
    """The one of `others` that metric j is most nearly a function of, else two; empty if none."""
    centre = np.nanmean(middle, axis=(0, 1))
    square = increments[:, :, j] * middle[:, :, j]
    responses = np.stack([increments[:, :, j].ravel(), square.ravel()], -1)
    pairs = [[a, b] for i, a in enumerate(others) for b in others[:i]]
    for sets in ([[a] for a in others], pairs):
        best, columns = UNEXPLAINED, list[int]()
        for candidate in sets:
            levels = (middle - centre)[:, :, candidate]
            steps = increments[:, :, candidate]
            products = (steps[..., :, None] * levels[..., None, :]).reshape(*steps.shape[:2], -1)
            X = np.concatenate([steps, products], -1).reshape(len(responses), -1)
            rows = ~(np.isnan(responses).any(-1) | np.isnan(X).any(-1))
            if rows.sum() < 4 * X.shape[1] or not responses[rows, 0].any():
                continue
            unexplained = min(_unexplained(X[rows], response) for response in responses[rows].T)
            if unexplained < best:
                best, columns = unexplained, candidate
        if columns:
            return columns
    return []


def _unexplained(X: NDArray[np.float64], response: NDArray[np.float64]) -> float:
    """Share of `response` that a regression on `X` leaves, every row counting about the same.

    Without the weights a few rows that move far, as at the start of training, would be explained
    by as many coefficients, and stand for all the others.
    """
    size = np.abs(response)
    weights = 1.0 / (size + np.median(size[size > 0]))
    X, response = X * weights[:, None], response * weights
    scale = np.sqrt((X**2).mean(0))
    X = X / np.where(scale > 0, scale, 1.0)
    left = response - X @ np.linalg.lstsq(X, response)[0]
    return float((left**2).mean() / (response**2).mean())
