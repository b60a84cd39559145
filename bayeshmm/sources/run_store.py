"""Read run directories, as `training.MetricHook` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bayeshmm.sources.imported import Imported
from training import store

TITLE = "run directories"


def found(folder: Path) -> dict[str, Path]:
    """Return the run directories at or below a folder by name.

    Parameters
    ----------
    folder : Path
        Where to look, at any depth.
    """
    try:
        return store.named_runs(folder)
    except FileNotFoundError:
        return {}


def read(path: Path) -> Imported:
    """Read all run directories at or below a folder.

    Parameters
    ----------
    path : Path
        The folder.

    Raises
    ------
    ValueError
        If a file is corrupt, or a run has no row yet.
    """
    return of_stored(store.read(path), path)


def of_stored(stored: store.StoredRuns, path: Path) -> Imported:
    """Return stored runs as `Imported`: what was logged and is not finite becomes infinite.

    Parameters
    ----------
    stored : StoredRuns
        The runs.
    path : Path
        Where they are from, for messages.

    Raises
    ------
    ValueError
        If a run has no row yet.
    """
    rows, attributes, nonfinite = stored
    unlogged = attributes.loc[~attributes["run"].isin(rows["run"].unique()), "run"]
    if len(unlogged):
        raise ValueError(f"{path}: run {unlogged.iloc[0]!r} has no row yet: move it elsewhere")
    if len(nonfinite):
        infinite = nonfinite.assign(value=np.inf).pivot(
            index=["run", "step"], columns="metric", values="value"
        )
        rows = rows.set_index(["run", "step"]).fillna(infinite).reset_index()
    return Imported(rows, attributes.set_index("run"))
