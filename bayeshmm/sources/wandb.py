"""Read Weights & Biases: the files that it writes beside a run, and histories exported from it."""

from __future__ import annotations

import csv
import json
import math
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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

TITLE = "Weights & Biases runs"

STEPS = ("trainer/global_step", "train/global_step", "global_step", "step")
"""Keys that tell the training step, where every row has one and none goes back."""

_INTERNAL = ("_step", "_runtime", "_timestamp", "_file")
_TAKEN = ("run", "step", "time")
_EXPORTS = (".csv", ".jsonl", ".parquet")
_SAMPLED = 500  # rows to which run.history() samples
_START = b":W&B\xe1\xbe\x00"  # of a file: name, magic number and version of the format
_BLOCK = 32768  # bytes, of which a record never leaves the block that it begins in
_HEADER = struct.Struct("<IHB")  # of a record: checksum, length, which part of a message it is
_WHOLE, _LAST = 1, 4  # parts that end a message
_INSTALL = "{}: reading it takes {}: pip install 'bayeshmm[readers]'"

Row = dict[str, Any]


def found(folder: Path) -> dict[str, Path]:
    """Return the runs below a folder: ``run-<id>.wandb`` files and exported histories.

    A run is named by its id, below the path of the folder that holds ``wandb/``; of one that was
    resumed the last file is given. An exported history is a ``.csv``, ``.jsonl`` or ``.parquet``
    file with the columns ``_step`` and ``_timestamp``, and is named by its path without suffix.

    Parameters
    ----------
    folder : Path
        Where to look, at any depth.
    """
    runs: dict[str, Path] = {}
    files = files_below(folder)
    logs = [file for file in files if file.suffix == ".wandb" and file.name.startswith("run-")]
    for path in sorted(logs, key=_begun):
        places = [place for place in path.relative_to(folder).parts[:-2] if place != "wandb"]
        runs["/".join([*places, path.stem.removeprefix("run-")])] = path
    for path in files:
        if path.suffix in _EXPORTS and is_export(path):
            whole = path.relative_to(folder)
            name = whole.with_suffix("").as_posix()
            runs[whole.as_posix() if name in runs else name] = path
    return runs


def read(path: Path) -> Imported:
    """Read the history of a run.

    The step is the first of `STEPS` that every row has and that never goes back, else ``_step``.
    Of several values of a key at one step the last written counts. The files of a run that was
    resumed are read together: a later one takes the place of earlier rows from its first step on.

    Parameters
    ----------
    path : Path
        A ``run-<id>.wandb`` file, or the rows of ``run.scan_history()`` or ``run.history()`` in a
        ``.csv``, ``.jsonl`` or ``.parquet`` file; a column ``run`` there tells several runs apart.

    Returns
    -------
    Imported
        A column per key, nested keys joined by dots. ``time`` is the unix time in seconds.
        The run of a ``.wandb`` file has the name that it was given, or else its id. Its attributes
        are ``run_id``, ``group``, ``status`` (as in `training.store.read`) and ``config.<key>``.

    Raises
    ------
    ImportError
        If the library that the file takes, wandb or pyarrow, is not installed.
    ValueError
        If the file is not what its suffix says.
    """
    return _read_log(path) if path.suffix == ".wandb" else _read_export(path)


def _begun(path: Path) -> str:
    """Return when the file was begun, from its folder: ``(offline-)run-20260131_120000-<id>``."""
    return path.parent.name.removeprefix("offline-")


def is_export(path: Path) -> bool:
    """Whether a file has the columns of a history, from its first line or its end.

    Parameters
    ----------
    path : Path
        A ``.csv``, ``.jsonl`` or ``.parquet`` file.
    """
    with path.open("rb") as file:
        if path.suffix == ".parquet":  # the names stand at the end, each after its length
            file.seek(-min(path.stat().st_size, 1 << 20), 2)
            end = file.read()
            return b"\x05_step" in end and b"\x0a_timestamp" in end
        line = file.readline(1 << 20).decode(errors="replace")
    try:
        names = json.loads(line) if path.suffix == ".jsonl" else next(csv.reader([line]), ())
    except (ValueError, csv.Error):
        return False
    return isinstance(names, dict | list) and "_step" in names and "_timestamp" in names


def _read_export(path: Path) -> Imported:
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise ImportError(_INSTALL.format(path, "pyarrow")) from error
        written = parquet.read_table(path).to_pylist()
    else:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                written = [_parsed(line, path, number) for number, line in enumerate(file, 1)]
            else:
                written = list(csv.DictReader(file))
    rows = [{"_file": 0, **dict(_flat(row))} for row in written]
    runs = [str(row.pop("run", path.stem)) for row in rows]
    names = pd.Index(dict.fromkeys(runs), name="run")
    imported = _imported(rows, runs, pd.DataFrame(index=names))
    if sampled := [run for run, count in Counter(runs).items() if count == _SAMPLED]:
        caveat = (
            f"{listed(sampled, 3)} may be sampled: to {_SAMPLED} rows run.history() samples any "
            "longer history; run.scan_history() gives all"
        )
        return imported._replace(caveats=(caveat, *imported.caveats))
    return imported


def _parsed(line: str, path: Path, number: int) -> Row:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}, line {number}: not a JSON object ({error})") from error


def _read_log(path: Path) -> Imported:
    """Read the files of a run: several if it was resumed."""
    try:
        from wandb.proto.wandb_internal_pb2 import Record
    except ImportError as error:
        raise ImportError(_INSTALL.format(path, "wandb")) from error
    name = run_id = path.stem.removeprefix("run-")
    group, status = None, ""
    config: Row = {}
    rows: list[Row] = []
    left_out = ["system metrics, console output and the summary"]
    parts = {part.resolve() for part in (path, *path.parent.parent.glob(f"*run-*/{path.name}"))}
    for number, file in enumerate(sorted(parts, key=_begun)):
        status = "unfinished"
        messages, rest = _messages(file)
        for message in messages:
            record = Record.FromString(message)
            match record.WhichOneof("record_type"):
                case "history":
                    rows.append({"_file": number, **dict(_flat(_nested(record.history.item)))})
                case "run":
                    name = record.run.display_name or name
                    group = record.run.run_group or group
                    config |= _nested(record.run.config.update)
                case "config":
                    config |= _nested(record.config.update)
                case "exit":
                    status = "failed" if record.exit.exit_code else "finished"
        if rest:
            where = f"{file.parent.name}/{file.name} (it was killed, or the file is damaged)"
            left_out.append(f"the last {rest} bytes, no whole record, of {where}")
    known = {"run_id": run_id, "status": status} | ({"group": group} if group else {})
    known |= settings({key: value for key, value in config.items() if key != "_wandb"})
    imported = _imported(rows, [name] * len(rows), attributes_of(name, known))
    return imported._replace(left_out=(*imported.left_out, *left_out))


def _messages(path: Path) -> tuple[list[bytes], int]:
    """Return the messages of a file, and how many bytes follow the last whole one.

    Messages are cut into records and these laid into blocks as in the log files of LevelDB, but
    with the checksum of zlib.
    """
    data = path.read_bytes()
    if data[: len(_START)] != _START[: len(data)]:
        raise ValueError(f"{path} is not a file of Weights & Biases, or of a newer format")
    messages: list[bytes] = []
    parts: list[bytes] = []
    place = end = len(_START)
    while place + _HEADER.size <= len(data):
        if (room := _BLOCK - place % _BLOCK) < _HEADER.size:
            place += room  # too little for a record: padding
            continue
        checksum, length, kind = _HEADER.unpack_from(data, place)
        place += _HEADER.size
        part = data[place : place + length]
        if zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            break
        place += length
        parts.append(part)
        if kind in (_WHOLE, _LAST):
            messages.append(b"".join(parts))
            parts = []
            end = place
    return messages, max(len(data) - end, 0)


def _nested(items: Iterable[Any]) -> Row:
    """Return items, each a key or the keys of nested mappings and its JSON, as one mapping."""
    nested: Row = {}
    for item in items:
        *above, key = item.nested_key or [item.key]
        level = nested
        for name in above:
            level = level.setdefault(name, {})
        level[key] = json.loads(item.value_json)
    return nested


def _flat(nested: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Return nested keys joined by dots with their values; media stay whole."""
    for key, value in nested.items():
        if isinstance(value, dict) and "_type" not in value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _number(value: Any) -> float | None:
    """Return a value, or a text such as "NaN", as float64; infinite if it is not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return math.inf if math.isnan(number) else number


def _imported(rows: list[Row], runs: list[str], attributes: pd.DataFrame) -> Imported:
    """Arrange rows, in the order of writing, of these runs."""
    if not rows:
        return Imported(pd.DataFrame(columns=["run", "step", "time"]), attributes)
    numbers: list[dict[str, float]] = []
    others: Counter[str] = Counter()
    for row in rows:
        # an empty cell of a CSV is a missing value, a column without a name an index written too
        given = {key: value for key, value in row.items() if key and value not in (None, "")}
        values = {key: _number(value) for key, value in given.items()}
        numbers.append({key: value for key, value in values.items() if value is not None})
        others.update(key for key, value in values.items() if value is None)
    logged = pd.DataFrame(numbers, dtype=float).sort_index(axis="columns")
    known = [key for key in (*STEPS, "_step") if key in logged]
    of_file = logged[known].groupby([runs, logged["_file"]])
    usable = logged[known].mod(1).eq(0).all() & ~of_file.diff().lt(0).any()
    step = next((key for key in known if usable[key]), None)
    if step is None:
        raise ValueError("no `_step` in every row: this is no history of Weights & Biases")
    metrics = logged.columns.difference([step, *_INTERNAL, *_TAKEN])
    table = logged[metrics].assign(time=logged.get("_timestamp", np.nan))
    table.insert(0, "step", logged[step].astype(np.int64))
    left_out, caveats, parts = [], [], []
    for run, rows_of_run in table.groupby(runs, sort=False):
        part, said = last_written(rows_of_run[rows_of_run[metrics].notna().any(axis="columns")])
        part.insert(0, "run", run)
        parts.append(part)
        caveats += [f"{run}: {text}" if len(set(runs)) > 1 else text for text in said]
    if step != "_step":
        left_out.append(f"`_step`, which counts calls of wandb.log: the step is {step!r}")
    elif logged["_step"].groupby(runs).diff().dropna().eq(1).all():
        caveats.append("the step is `_step`, which counts calls of wandb.log if not given step=")
    left_out += [
        f"{key!r} as the step: a row lacks it, or it goes back" for key in known if not usable[key]
    ]
    if taken := [key for key in _TAKEN if key in logged and key != step]:
        left_out.append(f"keys that are the names of other columns ({listed(taken)})")
    if others:
        keys = listed(sorted(others), 3)
        left_out.append(f"{others.total()} values that are not numbers (keys {keys})")
    return Imported(pd.concat(parts, ignore_index=True), attributes, (*left_out,), (*caveats,))
