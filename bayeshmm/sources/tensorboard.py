"""Read TensorBoard event files: every scalar, none sampled."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayeshmm.sources.imported import Imported, attributes_of, files_below, replaced, settings
from bayeshmm.tidy import listed

TITLE = "TensorBoard event files"

_EXPERIMENT = "_hparams_/experiment"  # the first tag that add_hparams writes
_KINDS = {
    "histo": "histograms",
    "image": "images",
    "audio": "audio clips",
    "text": "texts",
    "pr_curves": "precision-recall curves",
}
_TAKEN = ("run", "step", "time")
_HEAD = 1024  # bytes of a file among which its first tag is
_FRAME = 16  # bytes of a record beside its content: its length and two checksums


@dataclass
class _EventFile:
    """What one event file holds."""

    name: str
    begun: float = np.inf  # unix time
    restart: float = np.inf  # the step from which it says that it starts anew
    scalars: list[tuple[str, int, float, float]] = field(
        default_factory=list
    )  # as in _last_written
    settings: dict[str, Any] = field(default_factory=dict)  # hyperparameters
    others: Counter[tuple[str, str]] = field(default_factory=Counter)  # what is left out: kind, tag
    unread: int = 0  # bytes at the end that are no whole record


def found(folder: Path) -> dict[str, Path]:
    """Return the runs below a folder: the folders that hold event files.

    A folder that is itself a run gets its own name, the others their relative paths. A folder that
    ``SummaryWriter.add_scalars`` or ``add_hparams`` made belongs to the run above it.

    Parameters
    ----------
    folder : Path
        Where to look, at any depth.
    """
    logs = _folders(folder)
    return {
        folder.resolve().name if log == folder else log.relative_to(folder).as_posix(): log
        for log in logs
        if _run_above(log, logs) is None
    }


def read(path: Path) -> Imported:
    """Read the scalars of a run.

    The files of a run are taken in the order in which they were begun. A later one takes the place
    of all that earlier ones hold of its tags from its first step on, so that nothing is left of
    what a restart repeats. With ``purge_step=`` it takes the place of every tag, as in TensorBoard.
    Of several values of a tag at one step the last written counts.

    Parameters
    ----------
    path : Path
        A folder with event files, or one such file.

    Returns
    -------
    Imported
        A column per tag, in the order of appearance; ``add_scalars("loss", {"train": ...})`` gives
        ``loss/train``. ``time`` is the unix time in seconds of the last value of a row.
        Hyperparameters are the attributes ``config.<name>``.

    Raises
    ------
    ImportError
        If tensorboard is not installed.
    """
    files = sorted(
        (_read_file(file, below) for below, file in _files_of_run(path)),
        key=lambda file: file.begun,
    )
    name = (path if path.is_dir() else path.parent).resolve().name
    scalars, lost = _last_written(files)
    rows = scalars.pivot(index="step", columns="tag", values="value")
    rows = rows[scalars["tag"].unique()].rename_axis(columns=None)
    rows["time"] = scalars.groupby("step")["time"].max()
    rows = rows.reset_index()
    rows.insert(0, "run", name)
    given = {key: value for file in files for key, value in file.settings.items()}
    attributes = attributes_of(name, settings(given))
    return Imported(rows, attributes, tuple(_left_out(files)), replaced(lost))


def _folders(folder: Path) -> dict[Path, None]:
    """Return the folders with event files, each after those above it."""
    found = {file.parent for file in files_below(folder) if "tfevents" in file.name}
    return dict.fromkeys(sorted(found))


def _event_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*tfevents*") if file.is_file())


def _files_of_run(path: Path) -> Iterator[tuple[str, Path]]:
    """Return the files of a run, each with its folder relative to that of the run."""
    if path.is_file():
        yield "", path
        return
    logs = _folders(path)
    for log in logs:
        if log == path or _run_above(log, logs) == path:
            below = "" if log == path else log.relative_to(path).as_posix()
            yield from ((below, file) for file in _event_files(log))


def _run_above(log: Path, logs: Mapping[Path, None]) -> Path | None:
    """Return the folder of the run whose `add_scalars` or `add_hparams` made this one, if any."""
    above = next((folder for folder in log.parents if folder in logs), None)
    if above is None:
        return None
    # add_scalars("a/loss", {"train": 1.0}) logs "a/loss" in the folder a_loss_train
    name = log.relative_to(above).as_posix()
    tags = [_EXPERIMENT, *(name[:end] for end, letter in enumerate(name) if letter == "_")]
    with _event_files(log)[0].open("rb") as file:
        head = file.read(_HEAD).replace(b"/", b"_")
    # a tag is the first field of its message: a key byte, the length, the text
    firsts = [bytes([10, len(tag.encode()) % 128]) + tag.encode() for tag in tags]
    return above if any(first.replace(b"/", b"_") in head for first in firsts) else None


def _read_file(path: Path, below: str) -> _EventFile:
    """Read one file, in the folder `below` that of the run."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ImportError(
            f"{path}: reading TensorBoard event files takes tensorboard: "
            "pip install 'bayeshmm[readers]'"
        ) from error
    content = _EventFile(path.name, unread=path.stat().st_size)
    plugins: dict[str, str] = {}  # by tag: only its first value may tell
    for record in RawEventFileLoader(str(path)).Load():
        content.unread -= len(record) + _FRAME
        event = Event.FromString(record)
        if np.isinf(content.begun):
            content.begun = event.wall_time
        if event.session_log.status == SessionLog.START:
            content.restart = min(content.restart, event.step)
        for value in event.summary.value:
            given = value.metadata.plugin_data
            plugin = plugins.setdefault(value.tag, given.plugin_name)
            form = value.WhichOneof("value")
            if plugin == "hparams":
                start = HParamsPluginData.FromString(given.content).session_start_info
                for name, held in sorted(start.hparams.items()):
                    content.settings[name] = getattr(held, held.WhichOneof("kind") or "null_value")
                continue
            number = None
            if form == "simple_value":
                number = value.simple_value
            elif form == "tensor" and plugin == "scalars":
                number = make_ndarray(value.tensor).item()
            metric = _metric(value.tag, below)
            if number is None:
                kind = _KINDS.get(plugin or form, f"values of {plugin or form}")
            elif metric is None:
                kind = "final metrics of add_hparams"
            elif metric in _TAKEN:
                kind = "values whose tag is the name of another column"
            elif metric == "hp_metric" and number == -1:
                kind = "placeholders of Lightning"
            else:
                logged = np.inf if np.isnan(number) else number
                content.scalars.append((metric, event.step, event.wall_time, logged))
                continue
            content.others[kind, value.tag] += 1
    return content


def _metric(tag: str, below: str) -> str | None:
    """Return the column of a tag in the folder `below` that of the run; None if `add_hparams`'s."""
    stem = tag.replace("/", "_") + "_"
    if below.startswith(stem):
        return f"{tag}/{below.removeprefix(stem)}"
    return None if below else tag


def _last_written(files: Sequence[_EventFile]) -> tuple[pd.DataFrame, Counter[str]]:
    """Return the scalars that count, and how many others there are of each tag.

    A scalar that is there again is no other. The columns are ``tag, step, time, value``.
    """
    restart = np.inf
    firsts: dict[str, int] = {}  # the first step of each tag in the files that follow
    kept: dict[tuple[str, int], tuple[float, float]] = {}
    lost: Counter[str] = Counter()
    for file in reversed(files):
        for tag, step, time, value in reversed(file.scalars):
            if (tag, step) not in kept and step < min(restart, firsts.get(tag, np.inf)):
                kept[tag, step] = (time, value)
            elif kept.get((tag, step), (time, None))[1] != value:
                lost[tag] += 1
        for tag, step, *_ in file.scalars:
            firsts[tag] = min(step, firsts.get(tag, step))
        restart = min(restart, file.restart)
    rows = [(*key, *kept[key]) for key in reversed(kept)]
    return pd.DataFrame(rows, columns=["tag", "step", "time", "value"]), lost


def _left_out(files: Sequence[_EventFile]) -> Iterator[str]:
    """Name what the rows lack."""
    others = sum((file.others for file in files), Counter[tuple[str, str]]())
    by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (kind, tag), count in others.items():
        by_kind[kind][tag] = count
    for kind, tags in by_kind.items():
        yield f"{tags.total()} {kind} (tags {listed(tags, 3)})"
    for file in files:
        if file.unread > 0:
            yield (
                f"the last {file.unread} bytes of {file.name}, which are no whole record (the "
                "writer was stopped, or the file is damaged)"
            )
