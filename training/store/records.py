"""What is recorded of a run besides its rows: ``run.json`` and ``end.json``."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.store.layout import END_FILE, RUN_FILE
from training.store.schemas import lift_run


def read_run(directory: Path) -> dict[str, Any]:
    """Return what ``run.json`` records, in the present schema.

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
    return lift_run(_parse(path), path)


def read_end(directory: Path) -> dict[str, Any] | None:
    """Return what ``end.json`` says, or None where the run is still training or was killed.

    Parameters
    ----------
    directory
        The run directory.

    Raises
    ------
    ValueError
        If the file is corrupt.
    """
    try:
        return _parse(directory / END_FILE)
    except FileNotFoundError:
        return None


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is whole or absent, whenever the process dies.

    Parameters
    ----------
    path
        The file.
    content
        What it says; what JSON cannot express becomes text.
    """
    text = json.dumps(content, ensure_ascii=False, indent=1, default=str)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def attributes(directory: Path, last_step: int | None, restarts: int) -> dict[str, Any]:
    """Return the attributes of a run, which `StoredRuns` lists.

    Parameters
    ----------
    directory
        The run directory.
    last_step
        The step of the last row.
    restarts
        How many times the run was resumed.
    """
    recorded = read_run(directory)
    end = read_end(directory) or {}
    cadence = recorded.get("cadence") or {}
    return {
        "run_id": recorded.get("run_id"),
        "seed": recorded.get("seed"),
        "status": end.get("status", "unfinished"),
        "last_step": end.get("last_step", last_step),
        "errors": end.get("errors"),
        "overhead": end.get("log/overhead"),
        "every": cadence.get("every"),
        "cadence": _cadence_text(cadence),
        "restarts": restarts,
        "started": recorded.get("started"),
        "git_commit": recorded.get("git_commit"),
        **dict(_flatten("config", recorded.get("config") or {})),
    }


def _cadence_text(cadence: Mapping[str, Any]) -> str | None:
    match cadence:
        case {"every": every}:
            return f"every {every}"
        case {"at": [*steps]}:
            return f"at {len(steps)} steps, {min(steps)} to {max(steps)}"
        case {"log_spaced": {"max_steps": last, "rows": rows}}:
            return f"log-spaced, {rows} rows to {last}"
    return json.dumps(cadence) if cadence else None


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _flatten(f"{prefix}.{key}", below)
    else:
        yield prefix, json.dumps(value) if isinstance(value, list) else value


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    except ValueError as error:
        raise ValueError(f"{path} is corrupt: {error}") from error
    return content
