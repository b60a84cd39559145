"""The rows of a run that count: one trajectory, however often the run was restarted."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.store.layout import Signature, segment_path, signature
from training.store.logged import read_logged
from training.store.records import attributes


class Rows(NamedTuple):
    """n rows of c chosen metrics."""

    step: NDArray[np.int64]  # (n,)
    values: NDArray[np.float64]  # (c, n); NaN where missing, or logged as NaN
    nan: NDArray[np.int64]  # (m, 2), row and metric of every NaN that was logged


class Trajectory(Protocol):
    """The rows of a run that count, by step, wherever they are stored."""

    @property
    def length(self) -> int:
        """Number of rows."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that have a value, in the order of their first appearance."""

    @property
    def signature(self) -> Signature:
        """The files that the rows are those of."""

    @property
    def attributes(self) -> dict[str, Any]:
        """What `StoredRuns.attributes` lists of the run."""

    def rows(self, metrics: tuple[str, ...]) -> Rows:
        """Return the rows with the chosen metrics, missing where the run has them not."""


@dataclass(frozen=True)
class Parsed:
    """A trajectory that was parsed from its run directory."""

    metrics: tuple[str, ...]
    signature: Signature
    attributes: dict[str, Any]
    kept: tuple[str, ...]  # the metrics of `stored`
    stored: Rows

    @property
    def length(self) -> int:
        """Number of rows."""
        return len(self.stored.step)

    def rows(self, metrics: tuple[str, ...]) -> Rows:
        """Return the rows with the chosen metrics, missing where the run has them not."""
        if metrics == self.kept:
            return self.stored
        return _chosen(self.stored, self.kept, metrics)

    def only(self, metrics: tuple[str, ...]) -> "Parsed":
        """Return the same, holding no values but those of the chosen metrics."""
        return replace(self, kept=metrics, stored=self.rows(metrics))


def all_metrics(runs: Iterable[Trajectory]) -> tuple[str, ...]:
    """Return the metrics of several runs, in the order of their first appearance.

    Parameters
    ----------
    runs
        The runs.
    """
    return tuple(dict.fromkeys(chain.from_iterable(dict.fromkeys(run.metrics for run in runs))))


def joined(runs: list[Trajectory], metrics: tuple[str, ...]) -> Rows:
    """Return the rows of several runs, one below the other.

    Parameters
    ----------
    runs
        The runs; the list is emptied on the way, so that no value need be held twice.
    metrics
        The metrics to return.
    """
    n = sum(run.length for run in runs)
    runs.reverse()
    return stacked((runs.pop().rows(metrics) for _ in range(len(runs))), n, len(metrics))


def stacked(parts: Iterable[Rows], n: int, c: int) -> Rows:
    """Return rows below each other, n of c metrics in all.

    Parameters
    ----------
    parts
        The rows, all of the same metrics.
    n, c
        Number of rows and of metrics.
    """
    step, values = np.empty(n, dtype=np.int64), np.empty((c, n))
    nan = [np.empty((0, 2), dtype=np.int64)]
    at = 0
    for rows in parts:
        here = slice(at, at + len(rows.step))
        step[here], values[:, here] = rows.step, rows.values
        nan.append(rows.nan + np.array([at, 0]))
        at = here.stop
    return Rows(step, values, np.concatenate(nan))


def parse(directory: Path) -> Parsed:
    """Return the trajectory of a run directory.

    Parameters
    ----------
    directory
        The run directory.

    Raises
    ------
    ValueError
        If a line is corrupt, two lines of one segment hold the same step, or a newer version wrote
        them; file and line are named.
    """
    files = signature(directory)  # first: what is written meanwhile makes it another
    logged = read_logged(directory)
    counts = np.flatnonzero(logged.superseded_by() < 0)
    counts = counts[np.argsort(logged.step[counts], kind="stable")]
    step = logged.step[counts]
    for twice in np.flatnonzero(step[1:] == step[:-1])[:1]:
        first, second = logged.line[counts[twice : twice + 2]]
        path = segment_path(directory, int(logged.segment[counts[twice]]))
        raise ValueError(
            f"{path}: lines {first} and {second} both hold step {step[twice]}, and a start logs a "
            "step once: remove the line that is wrong"
        )
    values = logged.values[counts].T
    place = np.full(len(logged.step), -1)
    place[counts] = np.arange(len(counts))
    nan = np.column_stack([place[logged.nan[:, 0]], logged.nan[:, 1]])
    nan = nan[nan[:, 0] >= 0]
    has_value = {*np.flatnonzero(~np.isnan(values).all(axis=1)), *nan[:, 1]}
    metrics = tuple(metric for i, metric in enumerate(logged.metrics) if i in has_value)
    rows = _chosen(Rows(step, values, nan), logged.metrics, metrics)
    resumed = sum(start.resumed_from is not None for start in logged.starts)
    last_step = int(step[-1]) if len(step) else None
    return Parsed(metrics, files, attributes(directory, last_step, resumed), metrics, rows)


def restarts(directory: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the record of the restarts of one run.

    Parameters
    ----------
    directory
        The run directory.

    Returns
    -------
    pandas.DataFrame
        One row per restart, in their order: ``segment`` (the number of the segment that it
        opened), ``resumed_from`` (the step that it went on from), ``started`` (UTC, as text;
        missing where a version wrote it that did not say) and ``superseded`` (how many rows it took
        the place of).

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    ValueError
        If a line is corrupt (file and line are named), or written by a newer version.
    """
    logged = read_logged(Path(directory))
    by = logged.superseded_by()
    return pd.DataFrame(
        [
            (*start, int((by == start.segment).sum()))
            for start in logged.starts
            if start.resumed_from is not None
        ],
        columns=["segment", "resumed_from", "started", "superseded"],
    )


def _chosen(rows: Rows, held: tuple[str, ...], metrics: tuple[str, ...]) -> Rows:
    """Return rows with other metrics than those they hold, in another order."""
    column = {metric: i for i, metric in enumerate(metrics)}
    target = np.array([column.get(metric, -1) for metric in held], dtype=np.int64)
    values = np.full((len(metrics), len(rows.step)), np.nan)
    values[target[target >= 0]] = rows.values[target >= 0]
    nan = np.column_stack([rows.nan[:, 0], target[rows.nan[:, 1]]])
    return Rows(rows.step, values, nan[nan[:, 1] >= 0])
