"""Reading runs as they were logged: nothing is put in order, refused or filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm import sources
from bayeshmm.lineage.findings import Finding, counted
from bayeshmm.tidy import is_bookkeeping, listed
from training import store

FINGERPRINT = "log/fingerprint/"
"""Prefix of the linear sketch of all weights that the hook writes into every row."""

_SETTING = ("config.", "attributes/config.")
_ALWAYS_SETTINGS = {"seed", "group", "status", "truncated"}
_MOSTLY_NUMBERS = 0.5  # share of a text column's cells that are numbers, for it to be a metric


@dataclass(frozen=True, eq=False)
class Log:
    """Runs as they were logged.

    Attributes
    ----------
    rows
        ``run`` (categorical, in order of first appearance), ``step`` (int64) and a float64 column
        per metric, in the order of writing. A value that is not finite is infinite; NaN is missing.
    attributes
        What is known of each run as a whole, a row per run.
    findings
        What could not be read.
    """

    rows: pd.DataFrame
    attributes: pd.DataFrame
    findings: tuple[Finding, ...] = ()

    @property
    def names(self) -> list[str]:
        """The runs, in order of first appearance."""
        return list(self.attributes.index)

    @property
    def metrics(self) -> list[str]:
        """The columns that may be modelled."""
        return [name for name in self.rows.columns[2:] if not is_bookkeeping(name)]

    @cached_property
    def ordered(self) -> pd.DataFrame:
        """The rows by run and step, the last of those that repeat a step."""
        rows = self.rows.drop_duplicates(["run", "step"], keep="last")
        return rows.sort_values(["run", "step"], ignore_index=True)

    @cached_property
    def by_run(self) -> dict[str, pd.DataFrame]:
        """`ordered`, run by run."""
        parts = self.ordered.groupby("run", observed=True, sort=True)
        return {str(name): part for name, part in parts}

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Runs that are meant to be alike: of one folder, or of one value of ``group``."""
        if "group" in self.attributes:
            keys = self.attributes["group"].astype(str)
        else:
            keys = pd.Series([name.rpartition("/")[0] for name in self.names], index=self.names)
        return {str(key): list(part.index) for key, part in keys.groupby(keys, sort=False)}

    def only(self, runs: Sequence[str]) -> Log:
        """Return these runs alone."""
        rows = self.rows[self.rows["run"].isin(runs)]
        run = rows["run"].cat.set_categories(list(runs))
        return Log(rows.assign(run=run), self.attributes.loc[list(runs)])


def read(source: str | Path | pd.DataFrame, format: sources.Format | None = None) -> Log:
    """Read a frame, or whatever `bayeshmm.Runs.read` recognises.

    Rows that a declared restart superseded are left out, since they are no fault. Of logs that
    others wrote, rows of one step are merged, and of values that repeat a step the last counts; a
    tidy file with a column ``run`` is taken as it is.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path, or no run in the folder.
    ValueError
        If a file cannot be parsed or tells no step, or a frame lacks ``run`` or ``step``.
    """
    if isinstance(source, pd.DataFrame):
        return _of_frame(source)
    path = Path(source)
    name = sources.recognised(path) if format is None else format
    if name == "store":
        return _of_folder(path)
    imported = sources.load(path, name)
    log = _of_frame(imported.rows)
    known = imported.attributes.reindex(log.names)
    own = log.attributes.columns.difference(known.columns, sort=False)
    return replace(log, attributes=known.join(log.attributes[own]))


def _of_folder(root: Path) -> Log:
    found: list[Finding] = []
    parts: dict[str, pd.DataFrame] = {}
    attributes: dict[str, dict[str, Any]] = {}
    for name, path in store.named_runs(root).items():
        try:
            rows, attributes[name] = _counting_rows(path), _attributes(path)
        except ValueError as error:
            mend = "mend the file as it says, or move the run elsewhere"
            found.append(Finding("unreadable_run", "error", (name,), (), (), f"{error}", mend))
            continue
        if rows.empty:
            detail = f"run {name!r} has no row yet"
            mend = "wait for its first row, or move the folder elsewhere"
            found.append(Finding("no_rows", "error", (name,), (), (), detail, mend))
            del attributes[name]
            continue
        parts[name] = rows
    rows = pd.concat(parts.values(), ignore_index=True) if parts else pd.DataFrame({"step": []})
    codes = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    rows.insert(0, "run", _categorical(codes, list(parts)))
    known = pd.DataFrame.from_dict(attributes, orient="index").reindex(list(parts))
    return Log(rows, known, tuple(found))


def _counting_rows(path: Path) -> pd.DataFrame:
    rows = store.logged_rows(path)
    counts = ~rows["superseded"].to_numpy()
    values = rows.drop(columns=["segment", "superseded"])
    if rows.attrs["nan"]:
        row, metric = zip(*rows.attrs["nan"], strict=True)
        numbers = values.to_numpy(np.float64, copy=True)
        numbers[list(row), list(map(list(values.columns).index, metric))] = np.inf
        values = pd.DataFrame(numbers, columns=values.columns).astype({"step": np.int64})
    values.attrs = {}
    return values[counts]


def _attributes(path: Path) -> dict[str, Any]:
    recorded, end = store.read_run(path), store.read_end(path) or {}
    config = pd.json_normalize(recorded.get("config") or {}, sep=".").add_prefix("config.")
    settings = {str(name): column[0] for name, column in config.items()}
    return {"seed": recorded.get("seed"), "status": end.get("status", "unfinished")} | settings


def _of_frame(df: pd.DataFrame) -> Log:
    df = df.set_axis(df.columns.map(str), axis="columns").reset_index(drop=True)
    found = []
    if (again := df.columns.duplicated()).any():
        name = df.columns[again][0]
        mend = "rename one of them, or df = df.loc[:, ~df.columns.duplicated()]"
        detail = f"two columns are called {name!r}; the first is looked at"
        found.append(Finding("doubled_column", "error", (), (), (name,), detail, mend))
        df = df.loc[:, ~again]
    for name in ("run", "step"):
        if name not in df.columns:
            raise ValueError(f"no column {name!r}: rename one of {listed(df.columns)}")
    steps = pd.to_numeric(df["step"], errors="coerce").to_numpy(float, na_value=np.nan)
    whole = np.isfinite(steps) & (steps >= 0) & (steps == np.floor(steps)) & (steps < 2**63)
    valid = whole & df["run"].notna().to_numpy()
    if not valid.all():
        bad = df[~valid]
        runs = tuple(bad["run"].dropna().astype(str).unique())
        detail = (
            f"{counted(len(bad), 'row')} lack a run or a whole step from 0, the first as "
            f"run={bad['run'].iloc[0]!r}, step={bad['step'].iloc[0]!r}"
        )
        mend = 'fill them in, or leave them out: df = df[df["run"].notna() & (df["step"] >= 0)]'
        found.append(Finding("invalid_rows", "error", runs, (), (), detail, mend))
        df, steps = df[valid].reset_index(drop=True), steps[valid]
    if df.empty:
        detail = "there are no rows that can be looked at"
        found.append(Finding("no_rows", "error", (), (), (), detail, "log at least two per run"))
    codes, names = pd.factorize(df["run"].astype(str))
    free = df.drop(columns=["run", "step"])
    numeric, more = _numbers(free, codes, names, steps)
    settings = [name for name in free if name not in numeric] + _settings(numeric, codes)
    settings = [name for name in free if name in settings]
    attributes = free[settings].groupby(codes).first().set_axis(pd.Index(names), axis="index")
    rows = numeric.drop(columns=[name for name in settings if name in numeric])
    rows.insert(0, "run", _categorical(codes, list(names)))
    rows.insert(1, "step", steps.astype(np.int64))
    return Log(rows, attributes, (*found, *more))


def _categorical(codes: NDArray[np.intp], names: list[str]) -> pd.Series:
    return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype=str)))


def _numbers(
    free: pd.DataFrame, codes: NDArray[np.intp], names: pd.Index, steps: NDArray[np.float64]
) -> tuple[pd.DataFrame, list[Finding]]:
    """Return the columns that are or should be numeric, and what in them is not a number."""
    columns, found = {}, []
    for name, column in free.items():
        if pd.api.types.is_numeric_dtype(column):
            columns[name] = column.to_numpy(np.float64, na_value=np.nan)
            continue
        parsed = pd.to_numeric(column.astype(object), errors="coerce")
        numbers = parsed.to_numpy(np.float64, na_value=np.nan)
        text = column.notna().to_numpy() & np.isnan(numbers)
        varies = bool(column.astype(str).groupby(codes).nunique().gt(1).any())
        is_metric = text.sum() <= _MOSTLY_NUMBERS * column.notna().sum()
        if is_metric:
            columns[name] = numbers
        if text.any() and varies and not is_bookkeeping(str(name)):
            runs = tuple(names[np.unique(codes[text])])
            at = tuple(np.unique(steps[text]).astype(int).tolist()) if is_metric else ()
            row = text.argmax()
            detail = (
                f"{counted(int(text.sum()), 'value')} of {name!r} are not numbers, the first "
                f"{column.iloc[row]!r} at step {int(steps[row])} of run {names[codes[row]]!r}"
            )
            mend = (
                f"df[{name!r}] = pd.to_numeric(df[{name!r}], errors='coerce')"
                if is_metric
                else f"df = df.drop(columns={name!r})"
            )
            found.append(Finding("not_numeric", "error", runs, at, (str(name),), detail, mend))
    return pd.DataFrame(columns, index=free.index), found


def _settings(numeric: pd.DataFrame, codes: NDArray[np.intp]) -> list[str]:
    """Return the numeric columns that are settings: constant in every run, not in all of them."""
    by_run = numeric.groupby(codes)
    low, high = by_run.min(), by_run.max()
    constant = ((low == high) | low.isna()).all() & low.notna().any()
    long = np.bincount(codes) > 1 if len(codes) else np.zeros(0, dtype=bool)
    differs = low[long].nunique() > 1  # a run of one row is constant in everything
    return [
        name
        for name in numeric.columns[constant]
        if not is_bookkeeping(name)
        and (differs[name] or name in _ALWAYS_SETTINGS or name.startswith(_SETTING))
    ]
