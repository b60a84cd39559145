"""Measure checkpoints that stand in for a log."""

from __future__ import annotations

import json
from pathlib import Path

from bayeshmm.sources.imported import Imported
from bayeshmm.sources.run_store import of_stored

TITLE = "checkpoints"


def found(folder: Path) -> dict[str, Path]:
    """Return the runs below a folder that left checkpoints, as `training.checkpoints.found`.

    Parameters
    ----------
    folder : Path
        Where to look, at any depth.
    """
    from training import checkpoints

    return checkpoints.found(folder)


def read(path: Path) -> Imported:
    """Measure the checkpoints of all runs at or below a folder, by the core metrics.

    `training.checkpoints.measure` has the choices, and keeps what it measured.

    Parameters
    ----------
    path : Path
        The folder.

    Raises
    ------
    ValueError
        If a checkpoint cannot be read, or its step cannot be told.
    """
    from training import checkpoints

    rows, attributes, *_ = of_stored(checkpoints.measure(path), path)
    left_out = ["metrics of gradients and updates, which checkpoints do not tell"]
    if "config.left_out" in attributes:
        for run, files in attributes.pop("config.left_out").dropna().items():
            left_out += [f"{run!r}: {file}" for file in json.loads(files)]
    return Imported(rows, attributes, tuple(left_out))
