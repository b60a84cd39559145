"""Names in a folder of runs, shared by those who write, read and collect."""

import contextlib
import os
import re
from pathlib import Path

RUN_FILE = "run.json"
END_FILE = "end.json"
COLLECTED = "trajectories.parquet"
_SEGMENT = re.compile(r"metrics\.(\d{4,})\.jsonl")

Signature = list[list[str | int]]


def segment_path(directory: Path, number: int) -> Path:
    """Return the file of a segment.

    Parameters
    ----------
    directory
        The run directory.
    number
        The segment's number, from 0.
    """
    return directory / f"metrics.{number:04d}.jsonl"


def segments(directory: Path) -> dict[int, Path]:
    """Return the segments of a run by number, in the order in which they were written.

    Parameters
    ----------
    directory
        The run directory.
    """
    matches = ((_SEGMENT.fullmatch(path.name), path) for path in directory.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def signature(directory: Path) -> Signature:
    """Return name, size and time of change (ns) of every file of a run: equal while it is the same.

    Parameters
    ----------
    directory
        The run directory.
    """
    found: Signature = []
    for name in os.listdir(directory):
        if name in {RUN_FILE, END_FILE} or _SEGMENT.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):  # a restart removes end.json
                status = os.stat(os.path.join(directory, name))
                found.append([name, status.st_size, status.st_mtime_ns])
    return sorted(found)


def named_runs(root: Path) -> dict[str, Path]:
    """Return the run directories at or below a folder by name, numbers in names in their order.

    A run is named by its path relative to the folder, with ``/`` between parts; a folder that is
    itself a run gets its own name. Hidden folders below, such as that which a sweep trains in, are
    left out.

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
    found = {}
    for folder, below, files in os.walk(root):
        if RUN_FILE in files:
            path = Path(folder)
            name = root.resolve().name if path == root else path.relative_to(root).as_posix()
            found[name] = path
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
    if not found:
        what = "holds no run" if any(root.iterdir()) else "is empty"
        raise FileNotFoundError(
            f"{root} {what}: a run is a directory with a {RUN_FILE}, made by training.MetricHook"
        )
    return dict(sorted(found.items(), key=lambda run: _natural(run[0])))


def _natural(name: str) -> list[str | int]:
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
