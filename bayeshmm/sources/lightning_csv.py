"""Read what Lightning's CSVLogger writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm.sources.imported import (
    Imported,
    attributes_of,
    files_below,
    last_written,
    settings,
)
from bayeshmm.sources.tidy_files import header
from bayeshmm.tidy import listed

TITLE = "Lightning CSV logs"

_FILE = "metrics.csv"
_HPARAMS = "hparams.yaml"
_VERSION = re.compile(r"version_(\d+)")


def is_log(path: Path) -> bool:
    """Whether a file is called and begins as the logger's do."""
    if path.name != _FILE or not path.is_file():
        return False
    names = header(path)
    return "step" in names and "run" not in names


def found(folder: Path) -> dict[str, Path]:
    """Return the logs below a folder: ``metrics.csv`` with a column ``step`` and none ``run``.

    A run is named by its folder's relative path (``lightning_logs/version_0``); a folder that is
    itself a run gets its own name.

    Parameters
    ----------
    folder : Path
        Where to look, at any depth.
    """
    return {
        folder.resolve().name
        if path.parent == folder
        else path.parent.relative_to(folder).as_posix(): path
        for path in files_below(folder)
        if path.name == _FILE and is_log(path)
    }


def read(path: Path) -> Imported:
    """Read the log of a run.

    Parameters
    ----------
    path : Path
        A ``metrics.csv``, or its folder.

    Returns
    -------
    Imported
        A column per metric; rows of training and of validation at one step are one row. What
        ``hparams.yaml`` beside it holds are the attributes ``config.<name>``.

    Raises
    ------
    ValueError
        If the file cannot be parsed, or a row has no step.
    """
    path = path / _FILE if path.is_dir() else path
    name = path.resolve().parent.name
    left_out = []
    try:
        # an empty cell is missing, and nan was logged
        cells = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False).fillna("")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not path.read_bytes().endswith(b"\n"):
        cells = cells.iloc[:-1]
        left_out.append("the last line, which was not written to its end")
    logged: dict[str, NDArray[np.float64]] = {}
    texts: list[str] = []
    for metric, column in zip(map(str, cells.columns), cells.to_numpy(dtype=object).T, strict=True):
        try:
            logged[metric] = _numbers(column)
        except ValueError:
            texts.append(metric)
    if "step" not in logged or not np.isfinite(logged["step"]).all():
        raise ValueError(f"{path}: the column 'step' must hold a number in every row")
    rows, caveats = last_written(pd.DataFrame(logged))
    rows.insert(0, "run", name)
    if texts:
        left_out.append(f"columns that are not numeric ({listed(texts, 3)})")
    given, unread = _hparams(path.with_name(_HPARAMS))
    # of what is logged both on_step and on_epoch
    means = [f"{metric[:-5]}_epoch" for metric in logged if metric.endswith("_step")]
    means = [metric for metric in means if metric in logged]
    if means:
        caveats += (f"means over an epoch, not values at their steps: {listed(means, 3)}",)
    return Imported(
        rows,
        attributes_of(name, settings(given)),
        (*left_out, *unread),
        (*caveats, *_later_start(path, rows)),
    )


def _numbers(cells: NDArray[np.object_]) -> NDArray[np.float64]:
    """Return the numbers in cells, infinite where not finite and NaN where nothing is written."""
    written = cells != ""
    numbers = np.where(written, cells, "nan").astype(np.float64)
    numbers[np.isnan(numbers) & written] = np.inf
    return numbers


def _hparams(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the hyperparameters beside a log, and what to say if they cannot be read."""
    if not path.is_file():
        return {}, ()
    try:
        import yaml
    except ImportError:
        return {}, (f"{path.name}, which takes PyYAML",)

    class Plain(yaml.SafeLoader):
        """Makes no objects: what is not plain data is the name of its type."""

    python = "tag:yaml.org,2002:python/"
    Plain.add_constructor(f"{python}tuple", Plain.construct_sequence)
    Plain.add_multi_constructor(python, lambda _, kind, node: kind)
    try:
        given = yaml.load(path.read_text("utf-8"), Plain)
    except yaml.YAMLError as error:
        why = str(error).splitlines()[0]
        return {}, (f"{path.name}, which cannot be read ({why})",)
    return (given if isinstance(given, dict) else {}), ()


def _later_start(path: Path, rows: pd.DataFrame) -> Iterator[str]:
    """Say that a version begins where the one before was, and may be its continuation."""
    version = _VERSION.fullmatch(path.resolve().parent.name)
    if version is None or rows.empty:
        return
    before = path.resolve().parent.with_name(f"version_{int(version[1]) - 1}") / _FILE
    if is_log(before):
        earlier = pd.read_csv(before, usecols=["step"])["step"].min()
        if rows["step"].iloc[0] > earlier:
            yield (
                f"it begins at step {rows['step'].iloc[0]:.0f}, {before.parent.name} at step "
                f"{earlier:.0f}: if it continues that run, give the rows of both one name, with "
                "Runs.from_dataframe"
            )
