"""The collected file: the rows of many runs in Parquet, and what tells whether they still count.

Its columns are ``run`` (text), ``step`` (int64) and the metrics (float64), in which null is missing
and NaN was logged as NaN; the runs lie one after the other. Its metadata hold, as JSON, the name of
each run, the signature of its files, and its number of rows, metrics and attributes.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from training.store.layout import Signature
from training.store.trajectory import Rows, Trajectory, all_metrics, joined, stacked

_GROUP_ROWS = 100_000
_GROUP_VALUES = 2**24
"""Rows of a row group; fewer where many metrics would make it need more than 128 MiB."""

_MANIFEST = b"bayeshmm.runs"
_VERSION = 1  # of what is kept of a run, its attributes included: a file of another is made anew


@dataclass(frozen=True)
class Kept:
    """A trajectory in a collected file."""

    file: "Collected"
    first: int  # of its rows, among those of the file
    length: int
    metrics: tuple[str, ...]
    signature: Signature
    attributes: dict[str, Any]

    def rows(self, metrics: tuple[str, ...]) -> Rows:
        """Return the rows with the chosen metrics, missing where the run has them not."""
        return self.file.rows(self.first, self.first + self.length, metrics)


class Collected:
    """A collected file to read from.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is corrupt.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _sound(path):
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._bounds = np.cumsum([0, *sizes])
        self._columns = set(self._file.schema_arrow.names)
        self._held: tuple[int, tuple[str, ...], Rows] | None = None

    def runs(self) -> dict[str, Kept] | None:
        """Return the runs by name, in their order; None where `collect` did not make the file."""
        text = (self._file.metadata.metadata or {}).get(_MANIFEST)
        if text is None:
            return None
        manifest = json.loads(text)
        runs: dict[str, Kept] = {}
        if manifest["version"] == _VERSION:  # of another one, nothing is taken
            metrics = [tuple(names) for names in manifest["metrics"]]
            first = 0
            for name, signature, length, kind, attributes in manifest["runs"]:
                runs[name] = Kept(self, first, length, metrics[kind], signature, attributes)
                first += length
        return runs

    def rows(self, first: int, last: int, metrics: tuple[str, ...]) -> Rows:
        """Return the rows from one position up to another, with the chosen metrics.

        Parameters
        ----------
        first, last
            Position of the first row, and that after the last.
        metrics
            The metrics; missing where the file has no such column.

        Raises
        ------
        ValueError
            If the file is corrupt.
        """
        begin = np.searchsorted(self._bounds, first, "right") - 1
        end = np.searchsorted(self._bounds, last, "left")
        parts = (self._part(i, first, last, metrics) for i in range(begin, end))
        return stacked(parts, last - first, len(metrics))

    def _part(self, group: int, first: int, last: int, metrics: tuple[str, ...]) -> Rows:
        """Return what a row group holds of some rows; the last group that was read is kept."""
        if self._held is None or self._held[:2] != (group, metrics):
            self._held = group, metrics, self._read(group, metrics)
        step, values, nan = self._held[2]
        begin = max(first - self._bounds[group], 0)
        end = min(last - self._bounds[group], len(step))
        inside = slice(*np.searchsorted(nan[:, 0], [begin, end]))
        return Rows(step[begin:end], values[:, begin:end], nan[inside] - np.array([begin, 0]))

    def _read(self, group: int, metrics: tuple[str, ...]) -> Rows:
        columns = ["step", *(metric for metric in metrics if metric in self._columns)]
        with _sound(self._path):
            table = self._file.read_row_group(group, columns=columns)
        values = np.empty((len(metrics), len(table)))
        nan = np.zeros(values.shape, dtype=bool)
        for i, metric in enumerate(metrics):
            if metric in self._columns:
                values[i] = table[metric].to_numpy()
                nan[i] = pc.is_nan(table[metric]).fill_null(False).to_numpy()
            else:
                values[i] = np.nan
        return Rows(table["step"].to_numpy(), values, np.argwhere(nan.T))


def write_runs(
    runs: Iterable[tuple[str, Trajectory]], metrics: tuple[str, ...], folder: Path
) -> Path:
    """Write runs into one file, holding a row group of them in memory at a time.

    Parameters
    ----------
    runs
        The runs and their names.
    metrics
        Metrics that they are known to have. A file cannot get more columns: where a run has others,
        a second file is begun, and in the end the files are written into one.
    folder
        An empty folder, for nothing else.
    """
    files: list[Path] = []
    batches = _batches(runs)
    batch = next(batches, None)
    while batch is not None:
        metrics = tuple(dict.fromkeys([*metrics, *all_metrics(batch.values())]))
        files.append(folder / f"{len(files)}.parquet")
        with _Writer(files[-1], metrics) as writer:
            while batch is not None and set(all_metrics(batch.values())) <= set(metrics):
                writer.write(batch)
                batch = next(batches, None)
    if len(files) == 1:
        return files[0]
    (folder / "joined").mkdir()
    parts = (Collected(file).runs() or {} for file in files)
    return write_runs(chain.from_iterable(map(dict.items, parts)), metrics, folder / "joined")


def _batches(runs: Iterable[tuple[str, Trajectory]]) -> Iterator[dict[str, Trajectory]]:
    batch: dict[str, Trajectory] = {}
    rows = values = 0
    for name, run in runs:
        batch[name] = run
        rows += run.length
        values += run.length * len(run.metrics)
        if rows >= _GROUP_ROWS or values >= _GROUP_VALUES:
            yield batch
            batch, rows, values = {}, 0, 0
    if batch:
        yield batch


class _Writer:
    """Writes a collected file with columns for some metrics: whole after the context."""

    def __init__(self, path: Path, metrics: tuple[str, ...]) -> None:
        self._metrics = metrics
        columns = [("run", pa.string()), ("step", pa.int64())]
        self._schema = pa.schema(columns + [(metric, pa.float64()) for metric in metrics])
        self._file = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=["run"],
            use_byte_stream_split=list(metrics),
            write_page_checksum=True,
        )
        self._kinds: dict[tuple[str, ...], int] = {}
        self._runs: list[Any] = []

    def write(self, runs: Mapping[str, Trajectory]) -> None:
        """Append runs, below each other in one row group unless one of them is very long."""
        for name, run in runs.items():
            kind = self._kinds.setdefault(run.metrics, len(self._kinds))
            self._runs.append([name, run.signature, run.length, kind, run.attributes])
        run_of_row = np.repeat(np.arange(len(runs)), [run.length for run in runs.values()])
        rows = joined(list(runs.values()), self._metrics)
        missing = np.isnan(rows.values)
        missing[rows.nan[:, 1], rows.nan[:, 0]] = False
        columns = [
            pa.array(list(runs)).take(pa.array(run_of_row)),
            pa.array(rows.step),
            *(pa.array(x, mask=mask) for x, mask in zip(rows.values, missing, strict=True)),
        ]
        table = pa.table(columns, schema=self._schema)
        self._file.write_table(table, row_group_size=2 * _GROUP_ROWS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        manifest = {"version": _VERSION, "metrics": list(self._kinds), "runs": self._runs}
        self._file.add_key_value_metadata({_MANIFEST: json.dumps(manifest)})
        self._file.close()


@contextlib.contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Say of which file it is that Parquet cannot make sense."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is corrupt ({error}): remove it, which loses nothing, since the run "
            "directories hold all of it, and collect again"
        ) from error
