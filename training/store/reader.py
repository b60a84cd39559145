"""Read run directories into tidy frames; nothing in them is ever executed."""

import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from training.store.layout import COLLECTED, named_runs, signature
from training.store.trajectory import Rows, Trajectory, all_metrics, joined, parse


class StoredRuns(NamedTuple):
    """What a run directory, or a folder of them, holds.

    Attributes
    ----------
    rows
        One row per run and logged step, by run and step: ``run``, ``step`` (training steps) and one
        float64 column per metric. NaN means absent, unless `nonfinite` lists it.
    attributes
        One row per run: ``run``, ``run_id``, ``seed``, ``status`` ("finished", "failed", or
        "unfinished": still training or killed), ``last_step``, ``errors`` and ``overhead`` (the
        hook's share of the time; both missing for an unfinished run), ``every`` (steps from row to
        row; missing where the cadence is another), ``cadence`` (in words), ``restarts`` (how often
        the run was resumed), ``started``, ``git_commit`` and ``config.<key>`` for all that was
        configured (nested mappings joined by dots, lists as JSON text).
    nonfinite
        Every value that was logged as NaN or an infinity: ``run``, ``step``, ``metric``, ``value``.
    """

    rows: pd.DataFrame
    attributes: pd.DataFrame
    nonfinite: pd.DataFrame


def read(
    directory: str | os.PathLike[str], metrics: str | Iterable[str] | None = None
) -> StoredRuns:
    """Read one run, or every run below a folder; safe while they are being written.

    Runs are named by their path relative to the folder, with ``/`` between parts; a folder that is
    itself a run gets its own name. Rows that a restart superseded are left out, as is a last line
    that a killed process left unfinished. What `collect` has collected of the folder is taken from
    there, so far as the files of a run are still those that it collected: the result is the same.

    Parameters
    ----------
    directory
        A run directory or a folder of them, at any depth.
    metrics
        The metrics to read, in this order; None for all, in the order of their first appearance.

    Raises
    ------
    FileNotFoundError
        If the path does not exist, or no run is there.
    ValueError
        If a line is corrupt or repeats a step (file and line are named), a file was written by a
        newer version, the collected file is corrupt, or no run has a metric that is asked for.
    """
    root = Path(directory)
    wanted = None if metrics is None else _named(metrics)
    collected = _collected(root)
    names: list[str] = []
    runs: list[Trajectory] = []
    for name, path in named_runs(root).items():
        run = collected.get(name)
        if run is None or run.signature != signature(path):
            parsed = parse(path)
            run = parsed if wanted is None else parsed.only(wanted)
        names.append(name)
        runs.append(run)
    known = all_metrics(runs)
    unknown = [] if wanted is None else [name for name in wanted if name not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, n=3) or known
        raise ValueError(f"{root}: no run has a metric {unknown[0]!r}: there are {', '.join(near)}")
    attributes = pd.DataFrame.from_records(
        [{"run": name} | run.attributes for name, run in zip(names, runs, strict=True)]
    )
    run_of_row = pd.Series(names, dtype=str).repeat([run.length for run in runs])
    chosen = known if wanted is None else wanted
    rows = joined(runs, chosen)
    df = pd.DataFrame(rows.values.T, columns=pd.Index(chosen, dtype=str), copy=False)
    df.insert(0, "step", rows.step)
    df.insert(0, "run", run_of_row.reset_index(drop=True))
    return StoredRuns(df, attributes, _nonfinite(run_of_row, rows, chosen))


def _named(metrics: str | Iterable[str]) -> tuple[str, ...]:
    return (metrics,) if isinstance(metrics, str) else tuple(dict.fromkeys(metrics))


def _collected(root: Path) -> Mapping[str, Trajectory]:
    """Return the runs in the collected file of a folder, where there is one that can be read."""
    path = root / COLLECTED
    if not path.exists():
        return {}
    try:
        from training.store.parquet import Collected
    except ImportError:
        return {}
    return Collected(path).runs() or {}


def _nonfinite(run: pd.Series, rows: Rows, metrics: Sequence[str]) -> pd.DataFrame:
    infinite = np.argwhere(np.isinf(rows.values.T))
    at = np.concatenate([infinite, rows.nan])
    row, metric = at[np.lexsort((at[:, 1], at[:, 0]))].T
    return pd.DataFrame(
        {
            "run": run.iloc[row].reset_index(drop=True),
            "step": rows.step[row],
            "metric": pd.Series(metrics, dtype=str).iloc[metric].reset_index(drop=True),
            "value": rows.values[metric, row],
        }
    )
