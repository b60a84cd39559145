"""Read the log that the Trainer of Hugging Face keeps in its checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayeshmm.sources.imported import (
    Imported,
    attributes_of,
    files_below,
    last_written,
    settings,
)
from bayeshmm.tidy import listed

TITLE = "Hugging Face trainer states"

FILE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_SETTINGS = ("max_steps", "num_train_epochs", "train_batch_size", "logging_steps", "eval_steps")
_RESULTS = ("best_metric", "best_global_step")
_SUMMARY = {"train_runtime", "total_flos"}  # keys of the entry that ends a training

State = dict[str, Any]


def found(folder: Path) -> dict[str, Path]:
    """Return the runs below a folder: the output folders of trainers.

    A run is named by its relative path, whether the state is in the folder itself or in its
    ``checkpoint-*`` folders; a folder that is itself a run gets its own name.

    Parameters
    ----------
    folder : Path
        Where to look, at any depth.
    """
    runs = {}
    for file in files_below(folder):
        if file.name == FILE:
            path = file.parent
            run = path if path == folder else _folder_of_run(path)
            runs[folder.resolve().name if run == folder else run.relative_to(folder).as_posix()] = (
                run
            )
    return runs


def read(path: Path) -> Imported:
    """Read the history of a run from the state of its latest step.

    Parameters
    ----------
    path : Path
        The output folder of a trainer, of whose states that with the largest ``global_step`` is
        read; or a ``trainer_state.json``.

    Returns
    -------
    Imported
        A column per key of ``log_history``, what was logged at one step in one row. Attributes are
        settings (``config.max_steps``, ...; those of a search, ``config.<name>``), ``last_step``
        and, where a best model was kept, ``best_metric`` and ``best_global_step``.

    Raises
    ------
    ValueError
        If a file is not what the Trainer writes; the message names it.
    """
    files = [path] if path.is_file() else list(_states(path))
    states = {file: _parsed(file) for file in files}
    latest = max(
        states, key=lambda file: (states[file]["global_step"], len(states[file]["log_history"]))
    )
    state = states[latest]
    history = state["log_history"]
    folder = _folder_of_run(latest.parent) if path.is_file() else path
    entries = [entry for entry in history if not _is_summary(entry)]
    rows, others = _rows(entries)
    rows, caveats = last_written(rows)
    rows.insert(0, "run", folder.resolve().name)
    left_out = []
    if len(entries) < len(history):
        summary = next(entry for entry in history if _is_summary(entry))
        left_out.append(f"the summary at the end ({listed(summary, 3)})")
    if others:
        left_out.append(f"what is not a number ({listed(others, 3)})")
    return Imported(
        rows,
        attributes_of(folder.resolve().name, _attributes(state)),
        tuple(left_out),
        (*caveats, *_means(rows), *_strays(states, latest)),
    )


def _folder_of_run(place: Path) -> Path:
    return place.parent if _CHECKPOINT.fullmatch(place.name) else place


def _states(folder: Path) -> Iterator[Path]:
    """Yield the files of a run, its own folder's last."""
    for place in sorted(folder.glob("checkpoint-*")):
        if _CHECKPOINT.fullmatch(place.name) and (place / FILE).is_file():
            yield place / FILE
    if (folder / FILE).is_file():
        yield folder / FILE


def _parsed(path: Path) -> State:
    try:
        state = json.loads(path.read_text("utf-8"))  # NaN and Infinity are read as such
        if not isinstance(state["global_step"], int):
            raise ValueError("its global_step is not a whole number")
        if any("step" not in entry for entry in state["log_history"]):
            raise ValueError("an entry of its log_history has no step")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not the state of a Trainer: {error!r}") from error
    return state


def _is_summary(entry: Mapping[str, Any]) -> bool:
    return entry.keys() >= _SUMMARY and "loss" not in entry


def _rows(entries: list[State]) -> tuple[pd.DataFrame, list[str]]:
    """Return the numbers of each entry, infinite where not finite, and the keys of all else."""
    others: dict[str, None] = {}
    rows = []
    for entry in entries:
        row = {}
        for key, value in entry.items():
            if isinstance(value, int | float) and key != "run":
                row[key] = np.inf if np.isnan(value) else float(value)
            elif value is not None:
                others[key] = None
        rows.append(row)
    df = pd.DataFrame(
        rows, columns=list(dict.fromkeys(["step", *(k for row in rows for k in row)]))
    )
    return df.astype({"step": np.int64}), list(others)


def _attributes(state: State) -> dict[str, Any]:
    given = {name: state.get(name) for name in _SETTINGS} | (state.get("trial_params") or {})
    results = {"last_step": state["global_step"]} | {name: state.get(name) for name in _RESULTS}
    known = settings(given) | results
    return {name: value for name, value in known.items() if value is not None}


def _means(rows: pd.DataFrame) -> Iterator[str]:
    """Say of the loss what its rows are, where that is not the loss at their steps."""
    if "loss" in rows:
        gaps = np.diff(rows.loc[rows["loss"].notna(), "step"], prepend=0)
        if (gaps > 1).any():
            yield (
                "'loss' is the mean since the row before, not the value at its step; unless "
                "logging_nan_inf_filter=False, losses that are not finite are left out of it"
            )


def _strays(states: Mapping[Path, State], latest: Path) -> Iterator[str]:
    """Name the states whose history is not the beginning of the latest."""
    history = [json.dumps(entry) for entry in states[latest]["log_history"]]
    strays = []
    for file, state in states.items():
        own = [json.dumps(entry) for entry in state["log_history"]]
        if own != history[: len(own)]:
            strays.append(file.parent.name)
    if strays:
        yield (
            f"{listed(strays, 3)} logged other values than {latest.parent.name!r}, which is read: "
            "of an earlier training in the same folder, or before it was resumed"
        )
