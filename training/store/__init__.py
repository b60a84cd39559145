"""The run store: one directory per training run, written while it trains, read at any time.

A run directory holds

``run.json``
    written once (temporary file, then rename): schema, run id, seed, configuration, cadence, what
    is measured and how, versions, git commit, start time;
``metrics.0000.jsonl``, ``metrics.0001.jsonl``, ...
    the segments, one per start. Line 1 is a header ``{"_segment": 0, "resumed_from": null,
    "schema": 2, "started": "2026-01-31T12:00:00+00:00"}``; every later line is one row,
    ``{"step": 10, "train/loss": 0.5, ...}``, written by one unbuffered ``write``. A number that is
    not finite is ``null`` and named in the row's ``_nonfinite``: ``{"train/loss": "nan"}``. Nothing
    is ever rewritten: a restart from step k opens a new segment with ``resumed_from`` k, and the
    rows after k of earlier segments no longer count;
``end.json``
    status, last step, number of errors and overhead; absent while the run trains or was killed.

`read` gives the rows that count, `logged_rows` all that were written, and `restarts` the record of
the restarts. `collect` gathers a folder of runs in its ``trajectories.parquet``, from which `read`
takes what has not changed since. Every older schema is read.
"""

from training.store.collecting import collect
from training.store.layout import named_runs
from training.store.logged import logged_rows
from training.store.reader import StoredRuns, read
from training.store.records import read_end, read_run
from training.store.trajectory import restarts
from training.store.writer import RunWriter

__all__ = [
    "RunWriter",
    "StoredRuns",
    "collect",
    "logged_rows",
    "named_runs",
    "read",
    "read_end",
    "read_run",
    "restarts",
]
