"""Where runs come from: the run store that `training` writes, or logs that others have written.

`read` recognises which. A format is a module with `Reader`'s three names; what it returns is
`bayeshmm.sources.imported.Imported`.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

from bayeshmm.sources import (
    checkpoints,
    lightning_csv,
    run_store,
    tensorboard,
    tidy_files,
    trainer_state,
    wandb,
)
from bayeshmm.sources.imported import Imported, is_of_the_trainer
from bayeshmm.tidy import Tidy, arrange, is_bookkeeping, listed

Format = Literal["store", "wandb", "huggingface", "lightning", "tensorboard", "tidy", "checkpoints"]
"""What a source may be, in the order in which they are looked for."""


class Reader(Protocol):
    """One format of logs."""

    TITLE: str
    """What it is called in messages."""

    def found(self, folder: Path) -> dict[str, Path]:
        """Return the runs below a folder by name, from the names and first bytes of files."""

    def read(self, path: Path) -> Imported:
        """Read the runs of a folder, or of one file."""


READERS: dict[Format, Reader] = {
    "store": run_store,
    "wandb": wandb,
    "huggingface": trainer_state,
    "lightning": lightning_csv,
    "tensorboard": tensorboard,
    "tidy": tidy_files,
    "checkpoints": checkpoints,
}

_MEASURED = {"store", "checkpoints"}  # folders read as a whole; every column is a measurement
_AS_GIVEN = {*_MEASURED, "tidy"}  # no trainer has added columns


@dataclass(frozen=True)
class Source:
    """What runs were read from.

    Attributes
    ----------
    title : str
        What it was taken for.
    path : Path
        Where it is.
    left_out : tuple of str
        In words: what in the runs is not what it looks like, what the logs hold and the runs do
        not, and what else there is at `path`.
    """

    title: str
    path: Path
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.title}, {self.path}"


def read(path: Path, format: Format | None = None) -> tuple[Tidy, Source]:
    """Read runs, warning of what in them is not what was logged or not what it looks like.

    `bayeshmm.Runs.read` describes what may be read. Values that are not finite are infinite in the
    result, whatever they were logged as; NaN means missing.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`, or nothing in the folder that is known.
    ImportError
        If the format takes a library that is not installed.
    ValueError
        If the content cannot be read or arranged; the message names the file or the run.
    """
    name = recognised(path) if format is None else format
    imported = load(path, name)
    also = _also_there(path, name) if format is None and path.is_dir() else ()
    left_out = [f"left out: {note}" for note in imported.left_out]
    source = Source(READERS[name].TITLE, path, (*imported.caveats, *left_out, *also))
    tidy = _arranged(imported, name, path)
    if imported.caveats:
        told = "\n".join(f"  {caveat}" for caveat in shortened(imported.caveats))
        warnings.warn(f"{source}:\n{told}", UserWarning, stacklevel=3)
    return tidy, source


def recognised(path: Path) -> Format:
    """Return what a file or folder is taken for: of what a folder holds, the first of `READERS`.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`, or nothing in the folder that is known.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if path.is_dir():
        for name, reader in READERS.items():
            if reader.found(path):
                return name
        titles = "; ".join(f"{reader.TITLE} ({name!r})" for name, reader in READERS.items())
        what = "holds no runs" if any(path.iterdir()) else "is empty"
        raise FileNotFoundError(f"{path} {what}: looked for {titles}")
    if path.suffix == ".wandb" or (path.suffix in tidy_files.SUFFIXES and wandb.is_export(path)):
        return "wandb"
    if path.name == trainer_state.FILE:
        return "huggingface"
    if lightning_csv.is_log(path):
        return "lightning"
    return "tensorboard" if "tfevents" in path.name else "tidy"


def load(path: Path, name: Format) -> Imported:
    """Read the runs of a format, unchecked; those of a folder get the names that are found there.

    Raises
    ------
    FileNotFoundError
        If there is nothing of the format.
    ValueError
        If there is no such format, a file cannot be read, or no run has a row.
    """
    if name not in READERS:
        raise ValueError(f"format={name!r}: give one of {listed(READERS)}")
    reader = READERS[name]
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if name in _MEASURED or path.is_file():
        return reader.read(path)
    found = reader.found(path)
    if not found:
        raise FileNotFoundError(f"{path} holds no {reader.TITLE}")
    parts = {run: reader.read(found[run]) for run in sorted(found, key=_natural)}
    empty = [run for run, part in parts.items() if part.rows.empty]
    if len(empty) == len(parts):
        raise ValueError(f"{path}: no run has a row yet, among {listed(empty, 3)}")
    imported = _joined({run: part for run, part in parts.items() if run not in empty})
    if empty:
        absent = f"runs without a row ({listed(empty, 3)})"
        imported = imported._replace(left_out=(*imported.left_out, absent))
    return imported


def _natural(name: str) -> list[str | int]:
    """Return a key that sorts numbers in names by their size."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _joined(parts: Mapping[str, Imported]) -> Imported:
    """Put the runs of several places together, by the names of the places."""
    rows, attributes = [], []
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    caveats: defaultdict[str, list[str]] = defaultdict(list)
    for place, part in parts.items():
        run = part.rows["run"].astype(str)
        names = {own: f"{place}/{own}" for own in run.unique()}
        known = part.attributes.reindex(list(names))
        if len(names) == 1:
            own = run.iloc[0]
            names = {own: place}
            if own != place.rpartition("/")[2]:
                known = known.assign(name=own)
        rows.append(part.rows.assign(run=run.map(names)))
        attributes.append(known.rename(index=names))
        for note in part.left_out:
            left_out[note].append(place)
        for caveat in part.caveats:
            caveats[caveat].append(place)

    def said(notes: Mapping[str, list[str]]) -> tuple[str, ...]:
        return tuple(
            note if len(places) == len(parts) else f"{listed(places, 3)}: {note}"
            for note, places in notes.items()
        )

    return Imported(
        pd.concat(rows, ignore_index=True), pd.concat(attributes), said(left_out), said(caveats)
    )


def _also_there(path: Path, name: Format) -> Iterator[str]:
    """Name what else a folder holds than what is read."""
    files: set[Path] = set()
    for other, reader in READERS.items():
        found = {place for place in reader.found(path).values() if place not in files}
        files |= {place for place in found if place.is_file()}
        if found and other != name:
            yield f"also there: {reader.TITLE} (read them with format={other!r})"


def _arranged(imported: Imported, name: Format, path: Path) -> Tidy:
    """Check the rows and give every column its role."""
    columns = imported.rows.columns.drop(["run", "step"])
    # what was measured is a metric, constant or not
    metrics = [column for column in columns if not is_bookkeeping(column)]
    try:
        tidy = arrange(imported.rows, metrics=metrics if name in _MEASURED else None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if name not in _AS_GIVEN:
        shown = tuple(column for column in tidy.metrics if not is_of_the_trainer(column))
        tidy = tidy._replace(metrics=shown)
    known = imported.attributes.reindex(pd.Index(tidy.names, name="run"))
    own = tidy.attributes.columns.difference(known.columns, sort=False)
    return tidy._replace(attributes=known.join(tidy.attributes[own]))


def shortened(notes: Sequence[str], at_most: int = 10) -> list[str]:
    """Return the first of many notes, the surplus counted."""
    surplus = len(notes) - at_most
    more = [f"and {surplus} more: see runs.source.left_out"] if surplus > 0 else []
    return [*notes[:at_most], *more]
