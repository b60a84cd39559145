"""Where runs come from: the run store that `training` writes, or a tidy file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from bayeshmm.tidy import Tidy, arrange, is_bookkeeping
from training import store


def read(path: Path) -> Tidy:
    """Read a folder of run directories, or a tidy file.

    `bayeshmm.Runs.read` describes what may be read. Values that are not finite are infinite in the
    result, whatever they were logged as; NaN means missing.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If the content cannot be read or arranged; the message names the file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if path.is_dir():
        return _read_folder(path)
    try:
        return arrange(read_file(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_folder(path: Path) -> Tidy:
    rows, attributes, nonfinite = store.read(path)
    unlogged = attributes.loc[~attributes["run"].isin(rows["run"].unique()), "run"]
    if len(unlogged):
        raise ValueError(f"{path}: run {unlogged.iloc[0]!r} has no row yet: move it elsewhere")
    df = rows
    if len(nonfinite):
        infinite = nonfinite.assign(value=np.inf).pivot(
            index=["run", "step"], columns="metric", values="value"
        )
        df = rows.set_index(["run", "step"]).fillna(infinite).reset_index()
    # a stored column is what was measured, constant or not
    metrics = [name for name in df.columns.drop(["run", "step"]) if not is_bookkeeping(name)]
    tidy = arrange(df, metrics=metrics)
    return tidy._replace(attributes=attributes.set_index("run").loc[list(tidy.names)])


def read_file(path: Path) -> pd.DataFrame:
    """Return what a tidy file holds, unchecked.

    Raises
    ------
    ValueError
        If the file is empty, cannot be parsed or has an unknown suffix.
    """
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    if path.suffix == ".csv":
        # a run called 007 keeps its name; a column without a name is an index that was written too
        return pd.read_csv(
            path, dtype={"run": str}, usecols=lambda name: not name.startswith("Unnamed: ")
        )
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".jsonl":
        return _read_jsonl(path)
    raise ValueError(
        f"cannot read {path.suffix or 'a file without suffix'}: give a folder of runs, or a .csv, "
        ".parquet or .jsonl file"
    )


def _read_jsonl(path: Path) -> pd.DataFrame:
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"line {number} is not a JSON object ({error})") from error
    return pd.DataFrame(rows)
