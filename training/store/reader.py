"""Read run directories into tidy frames; nothing in them is ever executed."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from training.store.layout import END_FILE, RUN_FILE, SCHEMA, segments

_NUMBERS = {int, float, type(None)}
_NONFINITE = {"nan", "inf", "-inf"}


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
        hook's share of the time; both missing for an unfinished run), ``every``, ``started``,
        ``git_commit`` and ``config.<key>`` for all that was configured (nested mappings joined by
        dots, lists as JSON text).
    nonfinite
        Every value that was logged as NaN or an infinity: ``run``, ``step``, ``metric``, ``value``.
    """

    rows: pd.DataFrame
    attributes: pd.DataFrame
    nonfinite: pd.DataFrame


def read(directory: str | os.PathLike[str]) -> StoredRuns:
    """Read one run, or every run below a folder; safe while they are being written.

    Runs are named by their path relative to the folder, with ``/`` between parts; a folder that is
    itself a run gets its own name. Rows that a restart superseded are left out, as is a last line
    that a killed process left unfinished.

    Parameters
    ----------
    directory
        A run directory or a folder of them, at any depth.

    Raises
    ------
    FileNotFoundError
        If the path does not exist, or no run is there.
    ValueError
        If a line is corrupt (file and line are named), or written by a newer version.
    """
    root = Path(directory)
    paths = find_runs(root)
    names = [
        root.resolve().name if path == root else path.relative_to(root).as_posix() for path in paths
    ]
    logged = [read_rows(path) for path in paths]
    rows = [(name, row) for name, some in zip(names, logged, strict=True) for row in some]
    nonfinite = [
        (name, row["step"], metric, float(value))
        for name, row in rows
        for metric, value in row.pop("_nonfinite", {}).items()
    ]
    attributes = [
        {"run": name} | _attributes(path, some)
        for name, path, some in zip(names, paths, logged, strict=True)
    ]
    return StoredRuns(
        rows=_tidy(rows, nonfinite),
        attributes=pd.DataFrame.from_records(attributes),
        nonfinite=pd.DataFrame(nonfinite, columns=["run", "step", "metric", "value"]),
    )


def find_runs(root: Path) -> list[Path]:
    """Return the run directories at or below a folder, numbers in their names in numeric order.

    Parameters
    ----------
    root
        A run directory or a folder of them.

    Raises
    ------
    FileNotFoundError
        If the path does not exist, or no run is there.
    NotADirectoryError
        If the path is a file.
    """
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file: give a run directory, or a folder of them")
    found = []
    for folder, below, files in os.walk(root):
        if RUN_FILE in files:
            found.append(Path(folder))
            below.clear()
    if not found:
        what = "holds no run" if any(root.iterdir()) else "is empty"
        raise FileNotFoundError(
            f"{root} {what}: a run is a directory with a {RUN_FILE}, made by training.MetricHook"
        )
    return sorted(found, key=lambda path: _natural(path.as_posix()))


def read_run(directory: Path) -> dict[str, Any]:
    """Return what ``run.json`` records.

    Parameters
    ----------
    directory
        The run directory.

    Raises
    ------
    ValueError
        If the file is corrupt, or written by a newer version.
    """
    path = directory / RUN_FILE
    recorded = _parse_file(path)
    _check_schema(recorded, path)
    return recorded


def read_end(directory: Path) -> dict[str, Any] | None:
    """Return what ``end.json`` says, or None where the run is still training or was killed.

    Parameters
    ----------
    directory
        The run directory.
    """
    try:
        return _parse_file(directory / END_FILE)
    except FileNotFoundError:
        return None


def _parse_file(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is corrupt: {error}") from error


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a run that count, by step: a restart supersedes what came after its state.

    Parameters
    ----------
    directory
        The run directory.

    Raises
    ------
    ValueError
        If a line is corrupt, or written by a newer version.
    """
    kept: dict[int, dict[str, Any]] = {}
    for path in segments(directory).values():
        records = _records(path)
        header = next(records, None)
        if header is None:  # killed before the header was whole
            continue
        _check_schema(header, path)
        if header["resumed_from"] is not None:
            kept = {step: row for step, row in kept.items() if step <= header["resumed_from"]}
        kept.update((row["step"], row) for row in records)
    return [kept[step] for step in sorted(kept)]


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the header and the rows of a segment, without a torn last line."""
    *lines, tail = path.read_bytes().split(b"\n")
    if _is_json(tail):
        lines.append(tail)
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line.decode(), parse_constant=_refuse_constant)
            (_check_row if number > 1 else _check_header)(record)
        except ValueError as error:
            raise ValueError(
                f"{path}:{number}: corrupt line ({error}): restore the file from a copy, or remove "
                "the line and do without its row"
            ) from error
        yield record


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode())
    except ValueError:
        return False
    return True


def _refuse_constant(token: str) -> None:
    raise ValueError(f"{token} is not JSON")


def _check_header(record: Any) -> None:
    if not (isinstance(record, dict) and {"_segment", "resumed_from"} <= record.keys()):
        raise ValueError("the first line is no segment header")


def _check_row(record: Any) -> None:
    if not (isinstance(record, dict) and type(record.get("step")) is int):
        raise ValueError("no row with an integer step")
    if not {type(value) for key, value in record.items() if key != "_nonfinite"} <= _NUMBERS:
        raise ValueError("a value is no number")
    marks = record.get("_nonfinite", {})
    if not (isinstance(marks, dict) and marks.keys() <= record.keys()):
        raise ValueError("_nonfinite names no metric of the row")
    if not set(marks.values()) <= _NONFINITE:
        raise ValueError(f"_nonfinite knows only {sorted(_NONFINITE)}")


def _check_schema(record: Mapping[str, Any], path: Path) -> None:
    if record.get("schema", SCHEMA) > SCHEMA:
        raise ValueError(
            f"{path} has schema {record['schema']}, and schemas up to {SCHEMA} are read: upgrade"
        )


def _tidy(
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    nonfinite: Sequence[tuple[str, int, str, float]],
) -> pd.DataFrame:
    metrics = dict.fromkeys(key for _, row in rows for key in row if key != "step")
    columns: dict[str, Any] = {
        "run": [name for name, _ in rows],
        "step": np.array([row["step"] for _, row in rows], dtype=np.int64),
    }
    for metric in metrics:
        columns[metric] = np.array([row.get(metric) for _, row in rows], dtype=np.float64)
    index = {(name, row["step"]): i for i, (name, row) in enumerate(rows)}
    for name, step, metric, value in nonfinite:
        columns[metric][index[name, step]] = value
    return pd.DataFrame(columns)


def _attributes(directory: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    recorded = read_run(directory)
    end = read_end(directory) or {}
    return {
        "run_id": recorded.get("run_id"),
        "seed": recorded.get("seed"),
        "status": end.get("status", "unfinished"),
        "last_step": end.get("last_step", rows[-1]["step"] if rows else None),
        "errors": end.get("errors"),
        "overhead": end.get("log/overhead"),
        "every": recorded.get("every"),
        "started": recorded.get("started"),
        "git_commit": recorded.get("git_commit"),
        **dict(_flatten("config", recorded.get("config") or {})),
    }


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _flatten(f"{prefix}.{key}", below)
    else:
        yield prefix, json.dumps(value) if isinstance(value, list) else value


def _natural(name: str) -> list[str | int]:
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
