"""The rows of a run as they were written, and which of them its restarts superseded."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson
import pandas as pd
from numpy.typing import NDArray

from training.store.layout import segments
from training.store.schemas import lift_header

T = TypeVar("T")

_BLOCK = 1024
"""Lines that are parsed at a time: enough to be quick, few enough to need no memory."""

_NUMBERS = {int, float, type(None)}
_NONFINITE = ["-inf", "inf", "nan"]


class Start(NamedTuple):
    """A start of a run that opened a segment."""

    segment: int
    resumed_from: int | None
    started: str | None


@dataclass(frozen=True)
class Logged:
    """All n rows of a run with their c metrics, in the order in which they were written."""

    starts: tuple[Start, ...]
    segment: NDArray[np.int64]  # (n,)
    line: NDArray[np.int64]  # (n,), from 1, in the file of the segment
    step: NDArray[np.int64]  # (n,)
    metrics: tuple[str, ...]  # in the order of their first appearance
    values: NDArray[np.float64]  # (n, c); NaN where missing, or logged as NaN
    nan: NDArray[np.int64]  # (m, 2), row and metric of every NaN that was logged

    def superseded_by(self) -> NDArray[np.int64]:
        """Segment of the start that took each row's place, (n,); -1 where the row counts."""
        by = np.full(len(self.step), -1)
        for start in self.starts[1:]:
            resumed = sys.maxsize if start.resumed_from is None else start.resumed_from
            # a start may log the state that it goes on from once more
            again = self.step[(self.segment == start.segment) & (self.step <= resumed)]
            gone = (self.step > resumed) | np.isin(self.step, again)
            by[gone & (self.segment < start.segment) & (by < 0)] = start.segment
        return by


def logged_rows(directory: str | os.PathLike[str]) -> pd.DataFrame:
    """Return all rows of one run as they were written, for a look at what happened.

    Nothing is left out but a last line that a killed process left unfinished, and nothing is put in
    order: rows that a restart superseded are there, and steps that a file repeats.

    Parameters
    ----------
    directory
        The run directory.

    Returns
    -------
    pandas.DataFrame
        One row per written row, in the order of writing: ``segment`` (its number, int64),
        ``superseded`` (whether a restart took its place), ``step`` (int64) and one float64 column
        per metric, in the order of their first appearance. Infinities are themselves; NaN means
        missing, unless it was logged: ``attrs["nan"]`` lists those as (row, metric) pairs.

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    ValueError
        If a line is corrupt (file and line are named), or written by a newer version.
    """
    logged = read_logged(Path(directory))
    df = pd.DataFrame(logged.values, columns=pd.Index(logged.metrics, dtype=str))
    df.insert(0, "step", logged.step)
    df.insert(0, "superseded", logged.superseded_by() >= 0)
    df.insert(0, "segment", logged.segment)
    df.attrs["nan"] = [(int(row), logged.metrics[metric]) for row, metric in logged.nan]
    return df


def read_logged(directory: Path) -> Logged:
    """Return all rows of a run as they were written; `logged_rows` says what may be wrong.

    Parameters
    ----------
    directory
        The run directory.
    """
    starts: list[Start] = []
    blocks: list[_Block] = []
    metrics: dict[str, int] = {}
    for number, path in segments(directory).items():
        with path.open("rb") as file:
            lines = _whole_lines(file)
            for first in islice(lines, 1):  # none where it was killed before the header was whole
                header = lift_header(_checked(_header, first, path, 1), path)
                starts.append(Start(number, header["resumed_from"], header["started"]))
            line = 2
            while some := list(islice(lines, _BLOCK)):
                blocks.append(_Block(number, line, *_parse(some, path, line, metrics)))
                line += len(some)
    lengths = [len(block.step) for block in blocks]
    offsets = np.cumsum([0, *lengths])[:-1]
    values = np.full((sum(lengths), len(metrics)), np.nan)
    for offset, block in zip(offsets, blocks, strict=True):
        values[offset : offset + len(block.step), : block.values.shape[1]] = block.values
    return Logged(
        starts=tuple(starts),
        segment=np.repeat(np.array([block.segment for block in blocks], dtype=np.int64), lengths),
        line=_joined(block.line + np.arange(len(block.step)) for block in blocks),
        step=_joined(block.step for block in blocks),
        metrics=tuple(metrics),
        values=values,
        nan=_joined(
            np.ravel(block.nan + np.array([offset, 0]))
            for offset, block in zip(offsets, blocks, strict=True)
        ).reshape(-1, 2),
    )


class _Block(NamedTuple):
    """Rows that follow each other in a segment, the first of them in `line`."""

    segment: int
    line: int
    step: NDArray[np.int64]  # (n,)
    values: NDArray[np.float64]  # (n, c), of the c metrics that the run had shown by then
    nan: NDArray[np.int64]  # (m, 2)


def _joined(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def _whole_lines(file: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a segment, without a torn last one."""
    for line in file:
        if line.endswith(b"\n") or _is_json(line):
            yield line
        if not line.endswith(b"\n"):
            return  # what a writer adds from now on is not looked at


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _parse(
    lines: Sequence[bytes], path: Path, first: int, metrics: dict[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return the steps, values and logged NaN of rows, and number the metrics that are new."""
    rows = [_checked(_row, line, path, number) for number, line in enumerate(lines, first)]
    alike: dict[tuple[str, ...], list[int]] = {}  # rows of the same metrics become one array
    for i, (_, row, _) in enumerate(rows):
        alike.setdefault(tuple(row), []).append(i)
    for metric in chain.from_iterable(alike):
        metrics.setdefault(metric, len(metrics))
    values = np.full((len(rows), len(metrics)), np.nan)
    for names, members in alike.items():
        columns = [metrics[name] for name in names]
        values[np.ix_(members, columns)] = [list(rows[i][1].values()) for i in members]
    nan = []
    for i, (_, _, marks) in enumerate(rows):
        for name, value in marks.items():
            values[i, metrics[name]] = float(value)
            if value == "nan":
                nan.append((i, metrics[name]))
    step = np.array([step for step, _, _ in rows], dtype=np.int64)
    return step, values, np.array(nan, dtype=np.int64).reshape(-1, 2)


def _checked(parse: Callable[[bytes], T], line: bytes, path: Path, number: int) -> T:
    try:
        return parse(line)
    except ValueError as error:
        raise ValueError(
            f"{path}:{number}: corrupt line ({error}): restore the file from a copy, or remove "
            "the line and do without its row"
        ) from error


def _header(line: bytes) -> dict[str, Any]:
    header = orjson.loads(line)
    if not (isinstance(header, dict) and {"_segment", "resumed_from"} <= header.keys()) or not (
        isinstance(header["resumed_from"], int | None)
    ):
        raise ValueError("the first line is no segment header")
    return header


def _row(line: bytes) -> tuple[int, dict[str, int | float | None], dict[str, str]]:
    """Return the step, the metrics, and what those are that are not finite."""
    row = orjson.loads(line)
    if not (isinstance(row, dict) and type(row.get("step")) is int and abs(row["step"]) < 2**63):
        raise ValueError("no row with an integer step")
    step, marks = row.pop("step"), row.pop("_nonfinite", {})
    if not _NUMBERS.issuperset(map(type, row.values())):
        raise ValueError("a value is no number")
    if not (isinstance(marks, dict) and marks.keys() <= row.keys()):
        raise ValueError("_nonfinite names no metric of the row")
    if not all(value in _NONFINITE for value in marks.values()):
        raise ValueError(f"_nonfinite knows only {_NONFINITE}")
    return step, row, marks
