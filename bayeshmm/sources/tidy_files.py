"""Read plain tables: .csv, .jsonl and .parquet files."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from bayeshmm.sources.imported import Imported, files_below, last_written, replaced
from bayeshmm.tidy import is_bookkeeping, listed
from training.store.layout import COLLECTED

TITLE = "plain .csv, .jsonl or .parquet files"

STEPS = ("step", "global_step", "_step", "iter", "iteration", "Step", "epoch")
"""Columns that tell the step of a row: the first of them that is there."""

KEYS = ("metric", "name", "key", "tag")
"""Columns that tell, beside one called ``value``, of which metric a row is."""

SUFFIXES = (".csv", ".jsonl", ".parquet")


def found(folder: Path) -> dict[str, Path]:
    """Return the tables below a folder, by relative paths without suffix.

    A ``.csv`` or ``.jsonl`` file is one if its first line names a column of `STEPS`; a
    ``.parquet`` file is taken to be one.

    Parameters
    ----------
    folder : Path
        Where to look, at any depth.
    """
    tables: dict[str, Path] = {}
    for path in files_below(folder):
        if path.suffix not in SUFFIXES or path.name == COLLECTED:
            continue
        if path.suffix != ".parquet" and not header(path).intersection(STEPS):
            continue
        whole = path.relative_to(folder)
        name = whole.with_suffix("").as_posix()
        tables[whole.as_posix() if name in tables else name] = path
    return tables


def header(path: Path) -> set[str]:
    """Return the names that the first line of a .csv or .jsonl file holds; no others are known."""
    if path.suffix not in {".csv", ".jsonl"}:
        return set()
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline(1 << 20)
    try:
        names = json.loads(line) if path.suffix == ".jsonl" else next(csv.reader([line]), ())
    except (ValueError, csv.Error):
        return set()
    return set(names) if isinstance(names, dict | list) else set()


def read(path: Path) -> Imported:
    """Read a table: wide (a column per metric) or long (a row per run, step and metric).

    With a column ``run`` it holds several runs and is taken as it is, as `Runs.from_dataframe`
    does. Without, it is the log of one run, named by the file: of several values of a metric at one
    step the last counts, and so do the later ones where the steps go back.

    Parameters
    ----------
    path : Path
        The file. NaN means missing.

    Returns
    -------
    Imported
        The rows have all columns of the file, those that are constant within runs among them.

    Raises
    ------
    ValueError
        If the file cannot be parsed, or has no column that tells the step.
    """
    try:
        df = read_file(path)
        df = df.set_axis(df.columns.map(str), axis="columns")
        step = next((name for name in STEPS if name in df), None)
        if step is None:
            raise ValueError(
                f"no column 'step' to tell the training step of each row: add it, or call it by "
                f"one of {listed(STEPS[1:])}; there are {listed(df.columns)}"
            )
        df = df.rename(columns={step: "step"})
        key = next((name for name in KEYS if name in df and "value" in df), None)
        several = "run" in df
        left_out: list[str] = []
        caveats: tuple[str, ...] = ()
        if key is not None:
            df, left_out, caveats = _pivoted(df if several else df.assign(run=path.stem), key)
        elif not several:
            df, left_out, caveats = _of_one_run(df)
            df.insert(0, "run", path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if step == "epoch":
        caveats = ("there is no step but the epoch: all times are in epochs", *caveats)
    elif step != "step":
        left_out.insert(0, f"the name {step!r} of the column that is taken as the step")
    known = pd.DataFrame(index=pd.Index(df["run"].astype(str).unique(), name="run"))
    return Imported(df, known, tuple(left_out), caveats)


Arranged = tuple[pd.DataFrame, list[str], tuple[str, ...]]  # rows, what is left out, caveats


def _of_one_run(df: pd.DataFrame) -> Arranged:
    """Merge the rows of a log by step."""
    left_out = []
    if absent := int(df["step"].isna().sum()):
        left_out.append(f"rows without a step ({absent})")
        df = df[df["step"].notna()].dropna(axis="columns", how="all")
    df = df.assign(step=_steps(df))
    texts = []
    for name in df.columns.drop("step"):
        numbers = pd.to_numeric(df[name].astype(object), errors="coerce")
        if numbers.notna().equals(df[name].notna()):
            df = df.assign(**{name: numbers})
        elif df[name].dropna().astype(str).nunique() > 1:
            texts.append(name)
    if texts:
        left_out.append(f"columns that are not numeric ({listed(texts, 3)})")
    rows, caveats = last_written(df.drop(columns=texts))
    return rows, left_out, caveats


def _pivoted(df: pd.DataFrame, key: str) -> Arranged:
    """Give every metric of a long table its column."""
    df = df.reset_index(drop=True).assign(step=_steps(df).to_numpy(), run=df["run"].astype(str))
    others = df.columns.drop(["run", "step", key, "value"])
    constant = df[others].astype(str).groupby(df["run"]).nunique().le(1).all()
    kept = [name for name in others if constant[name] or is_bookkeeping(name)]
    left_out = [f"the column {name!r}, which varies" for name in others if name not in kept]
    numbers = pd.to_numeric(df["value"].astype(object), errors="coerce")
    texts = df.loc[numbers.isna() & df["value"].notna(), key].unique()
    if len(texts):
        left_out.append(f"what is not numeric ({listed(texts, 3)})")
    logged = df.assign(value=numbers)[numbers.notna() & ~df[key].isin(texts)]

    # as `last_written`, all series at once: the smallest step that is written after each value
    ahead = logged[::-1]
    series = [ahead["run"], ahead[key]]
    after = ahead["step"].groupby(series).cummin().groupby(series).shift(1).reindex(logged.index)
    counts = ~(logged["step"] >= after)
    where = ["run", "step", key]
    last = logged[counts].set_index(where)["value"]
    gone = logged[~counts].set_index(where)["value"]
    lost = gone[gone.to_numpy() != last.reindex(gone.index).to_numpy()]
    wide = last.unstack(key)[list(logged[key].unique())].rename_axis(columns=None)
    wide = wide.join(df.groupby(["run", "step"])[kept].last()).reset_index()
    order = pd.Categorical(wide["run"], categories=df["run"].unique()).codes
    wide = wide.iloc[np.lexsort((wide["step"], order))].reset_index(drop=True)
    return wide, left_out, replaced(Counter(lost.index.get_level_values(key)))


def _steps(df: pd.DataFrame) -> pd.Series:
    """Return the steps as numbers, having checked that they are."""
    steps = pd.to_numeric(df["step"], errors="coerce")
    if steps.isna().any():
        row = steps.isna().argmax()
        raise ValueError(
            f"row {row}: {df['step'].iloc[row]} is not a step: the column must hold whole numbers "
            "from 0"
        )
    return steps


def read_file(path: Path) -> pd.DataFrame:
    """Return what a table holds, unchecked.

    Raises
    ------
    ImportError
        If it is a .parquet file and pyarrow is not installed.
    ValueError
        If the file is empty, cannot be parsed or has an unknown suffix.
    """
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    if path.suffix == ".csv":
        # a run called 007 keeps its name; a column without a name is an index that was written too
        return pd.read_csv(
            path,
            dtype={"run": str},
            usecols=lambda name: not name.startswith("Unnamed: "),
        )
    if path.suffix == ".parquet":
        try:
            return pd.read_parquet(path)
        except ImportError as error:
            raise ImportError(
                f"{path}: reading .parquet files takes pyarrow: pip install 'bayeshmm[readers]'"
            ) from error
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
