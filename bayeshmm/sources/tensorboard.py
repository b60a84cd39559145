"""Read TensorBoard event files: every scalar, none sampled."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayeshmm.sources.imported import Imported
from bayeshmm.tidy import listed

TITLE = "TensorBoard event files"

_COLUMNS = ["tag", "step", "time", "value"]
_KINDS = {"histo": "histograms", "image": "images", "audio": "audio clips", "tensor": "tensors"}
_SETTINGS = "_hparams_/session_start_info"
_EXPERIMENT = "_hparams_/experiment"  # the first tag of what add_hparams writes
_HEAD = 1024  # bytes of a file among which its first tag is
_FRAME = 16  # bytes of a record beside its content: its length and two checksums


@dataclass
class _EventFile:
    """What one event file holds."""

    scalars: list[tuple[str, int, float, float]] = field(default_factory=list)  # of _COLUMNS
    settings: dict[str, Any] = field(default_factory=dict)  # hyperparameters
    others: list[tuple[str, str]] = field(default_factory=list)  # kind and tag of what is no scalar
    unread: int = 0  # bytes at the end that are no whole record
    begun: float = np.inf  # unix time
    restart: float = np.inf  # the step from which it says that it starts anew


def found(folder: Path) -> dict[str, Path]:
    """Return the runs below a folder: the folders that hold event files.

    A folder that is itself a run gets its own name, the others their relative paths. A folder that
    ``SummaryWriter.add_scalars`` or ``add_hparams`` made belongs to the run above it.

    Parameters
    ----------
    folder : Path
        Where to look, at any depth.
    """
    logs = _folders(folder)
    return {
        folder.resolve().name if log == folder else log.relative_to(folder).as_posix(): log
        for log in logs
        if _run_above(log, logs) is None
    }


def read(path: Path) -> Imported:
    """Read the scalars of a run.

    The files of a run are taken in the order in which they were begun. Where a later one goes back,
    it takes the place of what earlier ones hold of its tags from its first step on, and of what
    they hold of every tag where it says that it starts anew (``purge_step=``), as when TensorBoard
    itself purges. Of several values of a tag at one step the last written counts.

    Parameters
    ----------
    path : Path
        A folder with event files, or one such file.

    Returns
    -------
    Imported
        A column per tag, in the order of appearance; ``add_scalars("loss", {"train": ...})`` gives
        ``loss/train``. ``time`` is the unix time in seconds of the last value of a row.
        Hyperparameters are the attributes ``config.<name>``.

    Raises
    ------
    ImportError
        If tensorboard is not installed.
    """
    name = (path if path.is_dir() else path.parent).resolve().name
    logs = _folders(path) if path.is_dir() else [path]
    parts: list[pd.DataFrame] = []
    settings: dict[str, Any] = {}
    others: Counter[tuple[str, str]] = Counter()
    notes: list[str] = []
    written = 0
    for log in logs:
        if log != path and _run_above(log, logs) != path:
            continue  # a run of its own
        files = {file: _read_file(file) for file in _files(log)}
        for file, content in files.items():
            settings |= content.settings
            others.update(content.others)
            written += len(content.scalars)
            if content.unread:
                notes.append(
                    f"the last {content.unread} bytes of {file.name}, which are no whole record "
                    "(the writer was stopped, or the file is damaged)"
                )
        part = _continued(files.values())
        if log != path:
            series = {
                tag: _series(tag, log.relative_to(path).as_posix()) for tag in part["tag"].unique()
            }
            ...
        parts.append(part)
