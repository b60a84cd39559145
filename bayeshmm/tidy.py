"""From tidy rows (a row per run and step, a column per metric) to padded arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import infer_dtype

NonFinite = Literal["error", "truncate", "missing"]
"""What becomes of a metric that is infinite, or was logged as not a number."""

_NUMERIC = {
    "integer",
    "floating",
    "mixed-integer-float",
    "boolean",
    "decimal",
    "empty",
}  # of pandas.api.types.infer_dtype
_SHARED = {"seed", "truncated"}  # settings even where all runs agree


class Tidy(NamedTuple):
    """Rows in padded arrays: N runs, T rows in the longest, C numeric columns, metrics or not."""

    names: tuple[str, ...]  # the runs
    metrics: tuple[str, ...]
    columns: tuple[str, ...]  # numeric ones; the metrics are among them
    steps: NDArray[np.int64]  # (N, T), -1 beyond the end
    lengths: NDArray[np.int64]  # (N,)
    recorded: NDArray[np.float64]  # (N, T, C), NaN where missing and beyond the end
    attributes: pd.DataFrame  # a row per run


def is_bookkeeping(name: str) -> bool:
    """Whether a column describes the logging, not the training: never modelled unless asked for."""
    return name in {"time", "epoch", "opt/lr"} or name.startswith("log/")


def chosen(kind: str, wanted: str | Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the names asked for, having checked that each is known and none is repeated.

    Parameters
    ----------
    kind : str
        What is named ("metric", "run"), for the message.
    wanted : str or iterable of str
        One name or several.
    known : sequence of str
        The names there are.

    Raises
    ------
    ValueError
        If a name is repeated, or is unknown (the nearest known ones are named).
    """
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, n=3)
            hint = f"did you mean {listed(near)}?" if near else f"there are {listed(known)}"
            raise ValueError(f"unknown {kind} {name!r}: {hint}")
        if names.count(name) > 1:
            raise ValueError(f"{kind} {name!r} is chosen twice: name it once")
    return names


def arrange(
    df: pd.DataFrame,
    run: str = "run",
    step: str = "step",
    metrics: Iterable[str] | None = None,
    attributes: Iterable[str] | None = None,
) -> Tidy:
    """Check the rows, give every column its role, and pad.

    `bayeshmm.Runs.from_dataframe` describes the parameters and the roles.

    Raises
    ------
    ValueError
        If a column is absent or doubled, a metric is not numeric, an attribute varies within a
        run, or the steps of a run repeat, decrease or are not whole numbers.
    """
    df = _checked(df, run, step)
    codes, names = _run_codes(df[run])
    steps = _whole_steps(df[step], codes, names)
    free = df.drop(columns=[run, step])
    rows, modelled, settings = _roles(free, codes, names, metrics, attributes)

    order = np.argsort(codes, kind="stable")
    lengths = np.bincount(codes)
    run_of = codes[order]
    row_of = np.arange(len(df)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    recorded = np.full((len(names), lengths.max(), rows.shape[1]), np.nan)
    recorded[run_of, row_of] = rows.to_numpy()[order]
    padded_steps = np.full(recorded.shape[:2], -1, dtype=np.int64)
    padded_steps[run_of, row_of] = steps[order]
    return Tidy(
        names=names,
        metrics=modelled,
        columns=tuple(rows.columns),
        steps=padded_steps,
        lengths=lengths,
        recorded=recorded,
        attributes=free[settings].groupby(codes).first().set_axis(pd.Index(names, name="run")),
    )


def settle(rows: Tidy, nonfinite: NonFinite) -> Tidy:
    """Settle infinite values: those of metrics as asked, those of other columns as missing.

    Parameters
    ----------
    rows : Tidy
        Rows in which every value that is not finite is infinite, since NaN means missing.
    nonfinite : {"error", "truncate", "missing"}
        Refuse such a metric, cut its run before that row, or take the value as missing.

    Returns
    -------
    Tidy
        Rows whose attributes tell in ``truncated`` whether a run was cut.

    Raises
    ------
    ValueError
        If a metric is not finite and that is an error, or leaves fewer than two rows.
    """
    if nonfinite not in get_args(NonFinite):
        raise ValueError(f"nonfinite={nonfinite!r}: give one of {get_args(NonFinite)}")
    broken = np.isinf(rows.recorded[:, :, [rows.columns.index(name) for name in rows.metrics]])
    first = np.where(broken.any((1, 2)), broken.any(2).argmax(1), rows.lengths)
    cut = first < rows.lengths

    def place(run: np.intp) -> str:
        metric = rows.metrics[broken[run, first[run]].argmax()]
        return (
            f"run {rows.names[run]!r}, metric {metric!r}: not finite at step "
            f"{rows.steps[run, first[run]]}"
        )

    if nonfinite == "error" and cut.any():
        raise ValueError(
            f"{place(cut.argmax())} ({broken.sum()} such values in {cut.sum()} runs): read with "
            "nonfinite='truncate' to cut a run there, or with nonfinite='missing' to take such "
            "values as missing"
        )
    if nonfinite != "truncate":
        first, cut = rows.lengths, np.zeros_like(cut)
    elif (hopeless := cut & (first < 2)).any():
        raise ValueError(
            f"{place(hopeless.argmax())}, which leaves fewer than two rows: leave the run out, or "
            "read with nonfinite='missing'"
        )
    within = np.arange(first.max()) < first[:, None]
    recorded = rows.recorded[:, : first.max()]
    before = rows.attributes.get("truncated", pd.Series(False, index=rows.attributes.index))
    return rows._replace(
        steps=np.where(within, rows.steps[:, : first.max()], -1),
        lengths=first,
        recorded=np.where(within[:, :, None] & np.isfinite(recorded), recorded, np.nan),
        attributes=rows.attributes.assign(truncated=before.eq(True) | cut),
    )


def _checked(df: pd.DataFrame, run: str, step: str) -> pd.DataFrame:
    """Return `df` with plain labels, having checked that it has rows and the columns needed."""
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"give a pandas DataFrame, not {type(df).__name__}")
    df = df.set_axis(df.columns.map(str), axis="columns").reset_index(drop=True)
    repeated = df.columns[df.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"two columns are called {repeated[0]!r}: rename one of them")
    for role, name in {"run": run, "step": step}.items():
        if name not in df.columns:
            raise ValueError(
                f"no column {name!r} to tell the {role} of each row: add it, or name another with "
                f"Runs.from_dataframe(df, {role}=...); there are {listed(df.columns)}"
            )
    if df.empty:
        raise ValueError("there are no rows: give at least two per run")
    return df


def _run_codes(column: pd.Series) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Return the number of each row's run, in order of first appearance, and the runs' names."""
    if (absent := column.isna()).any():
        raise ValueError(f"row {absent.idxmax()} has no run: fill in the column {column.name!r}")
    codes, names = pd.factorize(column.astype(str))
    return codes, tuple(names)


def _whole_steps(
    column: pd.Series, codes: NDArray[np.intp], names: tuple[str, ...]
) -> NDArray[np.int64]:
    """Check that the steps are whole numbers from 0 and increase within each run."""
    steps = pd.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan)
    wrong = ~(np.isfinite(steps) & (steps >= 0) & (steps == np.floor(steps)))
    if wrong.any():
        row = wrong.argmax()
        raise ValueError(
            f"run {names[codes[row]]!r}: {column[row]} is not a step: the column "
            f"{column.name!r} must hold whole numbers from 0"
        )
    rows = pd.DataFrame({"run": codes, "step": steps.astype(np.int64)})
    if (again := rows.duplicated()).any():
        row = again.argmax()
        raise ValueError(
            f"run {names[codes[row]]!r} has two rows for step {rows['step'][row]}: keep one, for "
            f"example the last: df.drop_duplicates(['run', 'step'], keep='last')"
        )
    if (back := rows.groupby("run")["step"].diff() < 0).any():
        row = back.argmax()
        raise ValueError(
            f"run {names[codes[row]]!r}: step {rows['step'][row]} comes after a later one: if only "
            "the order of the rows is wrong, use df.sort_values(['run', 'step'])"
        )
    return rows["step"].to_numpy()


def _roles(
    df: pd.DataFrame,
    codes: NDArray[np.intp],
    names: tuple[str, ...],
    metrics: Iterable[str] | None,
    attributes: Iterable[str] | None,
) -> tuple[pd.DataFrame, tuple[str, ...], list[str]]:
    """Return the numeric columns as float64, the metrics among them, and the attributes."""
    known = list(df.columns)
    wanted = () if metrics is None else chosen("metric", metrics, known)
    named = () if attributes is None else chosen("attribute", attributes, known)
    if both := set(named).intersection(wanted):
        raise ValueError(f"{both.pop()!r} is in both metrics= and attributes=: keep it in one")
    settings = set()
    numeric = [name for name in known if infer_dtype(df[name]) in _NUMERIC and name not in named]
    for name in [name for name in known if name not in numeric]:
        varying = _first_varying(df[name], codes)
        if name in named and varying is not None:
            raise ValueError(
                f"run {names[varying]!r}: attribute {name!r} varies within the run: leave it out "
                "of attributes="
            )
        unread = varying is not None and metrics is None and not is_bookkeeping(name)
        if name in wanted or unread:
            text = df[name].notna() & pd.to_numeric(df[name], errors="coerce").isna()
            row = text.argmax() if text.any() else df[name].notna().argmax()
            raise ValueError(
                f"run {names[codes[row]]!r}: metric {name!r} is not numeric ({df[name][row]}): "
                "convert it with pd.to_numeric, or drop the column"
            )
        if varying is None:
            settings.add(name)
    rows = df[numeric].apply(pd.to_numeric).astype(float)
    settings |= _numeric_settings(rows.drop(columns=list(wanted)), codes, others=bool(wanted))
    rows = rows.drop(columns=[name for name in numeric if name in settings])
    if metrics is None:
        wanted = tuple(name for name in rows.columns if not is_bookkeeping(name))
    return rows, wanted, [name for name in known if name in settings]


def _first_varying(column: pd.Series, codes: NDArray[np.intp]) -> int | None:
    """Return the first run in which a column takes two values, missing ones apart."""
    distinct = column.astype(str).where(column.notna()).groupby(codes).nunique()
    return int(distinct.gt(1).argmax()) if distinct.gt(1).any() else None


def _numeric_settings(rows: pd.DataFrame, codes: NDArray[np.intp], others: bool) -> set[str]:
    """Return the columns that are attributes: constant in every run, and differing between runs.

    A column that is constant over all runs may be a metric that never moved as well as a setting
    that all runs share. It is left among the metrics, where a fit names it, unless it is called
    ``seed`` or the metrics are other, chosen columns.
    """
    by_run = rows.groupby(codes)
    low, high, count = by_run.min(), by_run.max(), by_run.count()
    lengths = np.bincount(codes)
    whole = count.eq(lengths, axis=0)
    constant = ((low == high) & whole | (count == 0)).all() & count.gt(0).any()
    differs = low[lengths > 1].nunique() > 1  # a run of one row is constant in everything
    return {
        name
        for name in rows.columns[constant]
        if not is_bookkeeping(name) and (differs[name] or others or name in _SHARED)
    }


def listed(names: Iterable[str], at_most: int = 10) -> str:
    """Return names for a message, the surplus counted."""
    names = [repr(name) for name in names]
    surplus = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {surplus} more" if surplus > 0 else "")
