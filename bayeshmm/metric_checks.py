"""Metrics that a model can make little of: functions of others, and mostly constant ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bayeshmm import tidy
from bayeshmm.runs import Runs
from bayeshmm.scaling import Array, observed_increments, recording_step

UNEXPLAINED = 1e-4
"""Share of a metric's increments below which the rest of it counts as a function of others."""

UNEXPLAINED_BY_MANY = 1e-6
"""The same with three or more others, which explain a smooth metric of few runs by chance."""

MOSTLY_CONSTANT = 0.5
"""Share of rows in which a metric stands still from which it counts as saturated."""


class MetricWarning(UserWarning):
    """A metric that the model can make little of; the message names it and the mend."""


class SpacingWarning(UserWarning):
    """Rows that are not evenly spaced in steps, under laws of motion; the message names them."""


def warn_of_metrics(runs: Runs, dynamic: bool) -> None:
    """Warn of metrics that are functions of others or hardly move, and of uneven rows.

    Uneven rows are no matter for transitions, which are a law per base step whatever the gaps, nor
    for levels. A law of motion is per logged row.

    A metric that stands still is no error, and no density is infinite: `bayeshmm.scaling` bounds
    them all. Yet it is far more probable where it stands still than where it moves, and outweighs
    metrics that change less.

    Parameters
    ----------
    runs
        The runs.
    dynamic
        Whether the phases of the model are laws of motion.

    Warns
    -----
    MetricWarning
        Naming the metrics and the mend.
    SpacingWarning
        Naming the run and the rows.
    """
    uneven = runs.uneven_spacing() if dynamic else None
    if uneven is not None:
        warnings.warn(
            f"{uneven}. Transitions account for that, but a law of motion is one per logged row, "
            "and another had rows been logged at other steps. Log at even steps, or fit levels: "
            "with emission='gaussian' and minimum_dwell=1 the model is the same however runs were "
            "logged.",
            SpacingWarning,
            stacklevel=3,
        )
    dependent = dependent_metrics(runs)
    if dependent:
        listed = "; ".join(f"{name!r} of {', '.join(others)}" for name, others in dependent.items())
        warnings.warn(
            f"these metrics are, up to rounding, functions of others: {listed}. They tell the "
            "model nothing new, and the tiny noise of such a tie can hide phases or be taken for "
            "them: leave them out with metrics=.",
            MetricWarning,
            stacklevel=3,
        )
    saturated = saturated_metrics(runs)
    if saturated:
        shares = ", ".join(f"{name!r} in {share:.0%}" for name, share in saturated.items())
        warnings.warn(
            f"these metrics stand still in most rows: {shares}. A phase may then mean no more "
            "than that they moved: leave them out with metrics=, or log a finer measure of the "
            "same thing (a loss in place of an accuracy).",
            MetricWarning,
            stacklevel=3,
        )
    still = {name: at for name, at in still_metrics(runs).items() if name not in saturated}
    if still:
        listed = "; ".join(f"{name!r} in {tidy.listed(at)}" for name, at in still.items())
        warnings.warn(
            f"these metrics never move in some runs: {listed}. A phase may then mean no more than "
            "that it holds these runs: leave the metrics out with metrics=, or the runs with "
            "runs.subset([...]).",
            MetricWarning,
            stacklevel=3,
        )


def dependent_metrics(runs: Runs) -> dict[str, list[str]]:
    """Metrics that are smooth functions of others, with the others.

    The increments of a metric, and of its square, are regressed on those of one or two others,
    with coefficients that may change linearly with these metrics' levels; then on those of all
    others, with coefficients that are constant, or change with each metric's own level, and those
    that are not needed are taken out again. That is exact for sums and norms of any number of
    metrics and for products and standard deviations of two, and near for other smooth functions
    of two. One metric of every such tie is named, the last in the list.

    A metric is a function of others where all but `UNEXPLAINED` of its increments are explained:
    noise of a percent, a squared correlation of .9999, is something new. With three or more others
    all but `UNEXPLAINED_BY_MANY` must be, besides what the rounding of the records explains.
    """
    sd = np.nanstd(runs.values, axis=(0, 1))
    sd = np.where(sd > 0, sd, 1.0)
    values = runs.values / sd
    steps = np.array([recording_step(column) for column in np.moveaxis(runs.values, 2, 0)]) / sd
    remaining = list(range(values.shape[2]))
    found: dict[str, list[str]] = {}
    for j in reversed(range(values.shape[2])):
        others = [i for i in remaining if i != j]
        columns = _tied(values, steps, j, others) if j in remaining else []
        if columns:
            *kept, last = sorted([*columns, j])
            remaining.remove(last)
            found[runs.metrics[last]] = [runs.metrics[i] for i in kept]
    return found


def saturated_metrics(runs: Runs) -> dict[str, float]:
    """Metrics that stand still in over `MOSTLY_CONSTANT` of the rows, with that share of rows."""
    still, moves = (counts.sum(axis=0) for counts in _rests_and_moves(runs))
    shares = still / np.maximum(still + moves, 1)
    return {runs.metrics[j]: float(shares[j]) for j in np.flatnonzero(shares > MOSTLY_CONSTANT)}


def still_metrics(runs: Runs) -> dict[str, list[str]]:
    """Metrics that never move in some runs, with the names of these runs."""
    still, moves = _rests_and_moves(runs)
    found: dict[str, list[str]] = {}
    for j, n in np.argwhere(((still > 0) & (moves == 0)).T):
        found.setdefault(runs.metrics[j], []).append(runs.names[n])
    return found


def _rests_and_moves(runs: Runs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Increments of each metric in each run that are zero up to rounding, and others: (N, D)."""
    increments = observed_increments(runs.values)
    steps = np.array([recording_step(column) for column in np.moveaxis(runs.values, 2, 0)])
    still = np.abs(increments) <= 0.5 * steps
    return still.sum(axis=1), (~np.isnan(increments) & ~still).sum(axis=1)


def _tied(values: Array, steps: Array, j: int, others: Sequence[int]) -> list[int]:
    """The few of `others` that metric j is a function of; empty if it is none."""
    for size in (1, 2):
        sets = [list(columns) for columns in combinations(others, size)]
        shares = [_unexplained(values, steps, j, one, np.ones((size, size)))[0] for one in sets]
        if sets and min(shares) < UNEXPLAINED:
            return sets[int(np.argmin(shares))]

    def explained(columns: Sequence[int], levels: int) -> bool:
        share, rounding = _unexplained(values, steps, j, columns, levels * np.eye(len(columns)))
        # what rounding explains is an estimate, of as many rows as there are
        return share < min(UNEXPLAINED_BY_MANY + 1.3 * rounding, UNEXPLAINED)

    seen = ~np.isnan(values)
    together = (seen & seen[:, :, [j]]).sum(axis=(0, 1))
    needed = [i for i in others if 2 * together[i] > together[j]]
    for levels in (0, 1):
        if explained(needed, levels):
            for i in tuple(needed):
                fewer = [column for column in needed if column != i]
                needed = fewer if explained(fewer, levels) else needed
            return needed
    return []


def _unexplained(
    values: Array, steps: Array, j: int, columns: Sequence[int], levels: Array
) -> tuple[float, float]:
    """Share of the increments of metric j, or of its square, that `columns` do not explain.

    Each increment of a column is a regressor, and so is its product with each column's level for
    which `levels`, (columns, columns), is not zero: the levels halfway, with which the increments
    of products and squares are exact. Increments are between rows in which all these metrics are
    observed; every row counts about the same. Without these weights a few rows that move far, as
    at the start of training, would be explained by as many coefficients, and stand for the others.

    Returns the share, 1 where there are fewer than four moves to every coefficient, and that which
    rounding explains: a difference of two records has a variance of a sixth of the squared step.
    """
    rows = values[:, :, [j, *columns]]
    complete = ~np.isnan(rows).any(-1)
    run = np.nonzero(complete)[0]
    rows = rows[complete]
    within = run[1:] == run[:-1]
    moves, middle = np.diff(rows, axis=0)[within], 0.5 * (rows[1:] + rows[:-1])[within]
    i, of = np.nonzero(levels)
    source = np.concatenate([np.arange(len(columns)), i])
    if np.count_nonzero(moves[:, 0]) < 4 * len(source) or not columns:
        return 1.0, 0.0
    level = middle[:, 1:] - middle[:, 1:].mean(axis=0)
    factors = np.concatenate([np.ones_like(level), level[:, of]], axis=1)
    X = factors * moves[:, 1:][:, source]
    shares = []
    for scale in (np.ones(len(moves)), middle[:, 0]):
        response = scale * moves[:, 0]
        if not response.any():  # the square of a metric that only changes sign
            continue
        weights = 1.0 / (np.abs(response) + np.median(np.abs(response[response != 0])))
        coefficients = _regression(weights[:, None] * X, weights * response)
        slopes = (factors * coefficients) @ np.eye(len(columns))[source]
        rounding = ((scale * steps[j]) ** 2 + slopes**2 @ steps[[*columns]] ** 2) / 6.0
        total, left, rounding = (
            weights**2 @ part
            for part in (response**2, (response - X @ coefficients) ** 2, rounding)
        )
        shares.append((float(left / total), float(rounding / total)))
    return min(shares)


def _regression(X: Array, response: Array) -> Array:
    """Coefficients of least squares, whatever the units of the columns."""
    scale = np.sqrt((X**2).mean(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    return np.linalg.lstsq(X / scale, response)[0] / scale
