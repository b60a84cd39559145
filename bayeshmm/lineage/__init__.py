"""The audit: what is wrong with runs, or worth a look, before they are modelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from bayeshmm.lineage import (
    copies,
    findings,
    noise,
    raw,
    rows,
    settings,
    units,
    values,
    weights,
)
from bayeshmm.sources import Format

__all__ = ["audit"]

_CHECKS = (
    rows.duplicate_rows,
    rows.disorder,
    copies.duplicate_runs,
    weights.weight_returns,
    values.diverged,
    units.unit_jumps,
    units.other_units,
    values.missing_metrics,
    settings.different_settings,
    rows.gaps,
    rows.different_grids,
    rows.truncated,
    rows.late_starts,
    values.constant_metrics,
)


def audit(source: str | Path | pd.DataFrame, *, format: Format | None = None) -> pd.DataFrame:
    """Look for faults in runs as they were logged, before they are modelled.

    Parameters
    ----------
    source : str, Path or DataFrame
        A tidy frame, with the columns ``run`` and ``step`` and a column per metric, or a folder or
        file that `bayeshmm.Runs.read` recognises. Frames, run directories and tables with a column
        ``run`` are looked at raw: rows may repeat, be in any order or lack values, all that `Runs`
        refuses. Of the logs of others, rows of one step are merged first.
    format : str, optional
        What a folder or file is to be taken for, as in `bayeshmm.Runs.read`.

    Returns
    -------
    DataFrame
        One row per finding, errors first: ``finding`` (the name of the fault), ``severity``
        ("error": the data are wrong as they stand; "warning": look before you model), ``runs``,
        ``steps`` and ``metrics`` (tuples; empty where the fault is one of whole runs or rows),
        ``detail`` (a sentence with numbers) and ``mend`` (what to do, as code where possible, on
        the frame ``df``). No row where nothing was found.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path, or no run in the folder.
    ValueError
        If a file cannot be parsed or tells no step, or a frame lacks ``run`` or ``step``.

    Notes
    -----
    What is found, by name:

    ``duplicate_rows``, ``steps_out_of_order``
        rows that repeat a step of their run, and rows after those of later steps;
    ``duplicate_runs``
        the same trajectory, or a long part of it, under several names;
    ``weights_return``
        rows whose weights are those of an earlier row: a restart that was not declared (one that
        was is none), or a stale checkpoint;
    ``diverged``
        values that are not finite, and losses that blow up and stay there;
    ``unit_jump``, ``other_unit``
        a metric that is multiplied by 100, 1000, ... from one row on, or in one run;
    ``missing_metric``, ``constant_metric``
        a metric that is never recorded, or never changes, in some runs only;
    ``settings_differ``
        hyper-parameters that differ between the runs of one folder, or of one ``group``;
    ``shared_batches``
        runs whose losses share their noise, and that are not independent;
    ``gap``, ``different_grids``, ``truncated``, ``late_start``
        rows that a regular grid lacks, runs that are logged at other steps, and runs that end
        much earlier than the others, have not ended, or begin later;
    ``unreadable_run``, ``no_rows``, ``invalid_rows``, ``not_numeric``, ``doubled_column``
        what could not be read.

    Runs of one folder, or of one value of an attribute ``group``, are meant to be alike in their
    settings and lengths. Every check has thresholds with their reasons as constants of its module.
    """
    log = raw.read(source, format)
    found = list(log.findings)
    with np.errstate(all="ignore"):  # values may be anything: that is what is looked at
        found += [finding for check in _CHECKS for finding in check(log)]
        copied = {
            run
            for finding in found
            if finding.finding == "duplicate_runs"
            for run in finding.runs[1:]
        }
        found += noise.shared_batches(log.only([run for run in log.names if run not in copied]))
    return findings.table(found)
