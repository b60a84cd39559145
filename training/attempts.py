"""Train one run of a sweep, so that no attempt at it can mix with another.

A scheduler may train a run twice: a worker that it takes for dead, because the network is, trains
on while another starts again. Every attempt therefore has a directory of its own, and the first to
finish renames it to that of the run: what is there is whole.
"""

import contextlib
import json
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.store import read_end, read_run
from training.store.layout import RUN_FILE
from training.store.records import write_record

SCRATCH = ".training"
"""Folder of the attempts, in that of the runs; those who read runs skip what is hidden."""

ATTEMPTS = 3
"""Times that a sweep starts a run that its workers die of. At the fourth death Dask gives a task
up, unless told otherwise, and joblib then waits for it for ever."""

_SETTING_FILE = "sweep.json"


@dataclass(frozen=True)
class Setting:
    """What is trained, and how a run of it is known again.

    Attributes
    ----------
    train
        Called with the seed and the directory.
    record
        The experiment and its options.
    defaults
        Options that runs from before they existed do not record.
    own
        Whether it is the caller's function, whose setting nobody else would record.
    """

    train: Callable[[int, Path], object]
    record: dict[str, Any]
    defaults: dict[str, Any]
    own: bool

    def trained(self, path: Path) -> bool:
        """Whether a directory holds a finished run of this setting; False if it may be replaced.

        Parameters
        ----------
        path
            The directory of the run, which need not exist.

        Raises
        ------
        FileExistsError
            If it holds something else than a run of this experiment.
        ValueError
            If it holds a finished run with another setting.
        """
        if not path.exists():
            return False
        wanted = json.loads(json.dumps(self.record, default=str))
        recorded = _recorded(path)
        if recorded.get("experiment") != wanted["experiment"]:
            raise FileExistsError(
                f"{path} holds no run of {wanted['experiment']}: choose another out, or remove it "
                "yourself"
            )
        if not _finished(path):
            return False
        recorded = json.loads(json.dumps(self.defaults, default=str)) | recorded
        if recorded != wanted:
            changed = {
                key: (recorded.get(key), wanted.get(key))
                for key in recorded.keys() | wanted.keys()
                if recorded.get(key) != wanted.get(key)
            }
            raise ValueError(
                f"{path} was trained with another setting ({changed}, there and asked for): choose "
                "another out, or remove the run"
            )
        return True


def train(setting: Setting, seed: int, out: Path, name: str, sweep: str) -> str | None:
    """Train a run, unless it has finished meanwhile.

    Parameters
    ----------
    setting
        What to train.
    seed
        Its seed.
    out, name
        Folder of the runs, and the path of this one in it.
    sweep
        Tells the attempts of one call of `training.sweep` from those of others.

    Returns
    -------
    str or None
        The traceback if it failed. What it had logged then stays where it was trained.
    """
    run, scratch = out / name, out / SCRATCH / name
    if _finished(run):  # and the worker died before it could say so
        return None
    try:
        attempt = _directory(scratch, sweep)
        with _one_thread():
            setting.train(seed, attempt)
        if setting.own:
            write_record(attempt / _SETTING_FILE, setting.record)
        elif not _finished(attempt):  # the disk was full: the hook has warned, and gone elsewhere
            raise RuntimeError(f"the run could not be logged in {attempt}: its warnings say why")
        run.parent.mkdir(parents=True, exist_ok=True)
        attempt.rename(run)
    except Exception:
        if not _finished(run):  # else another attempt was first
            return traceback.format_exc()
    for other in scratch.parent.glob(f"{scratch.name}.*"):
        shutil.rmtree(other, ignore_errors=True)
    return None


def _directory(scratch: Path, sweep: str) -> Path:
    """Make the directory of an attempt: of the run ``seed-3`` it is ``seed-3.<sweep>-1``."""
    for attempt in range(1, ATTEMPTS + 1):
        directory = scratch.with_name(f"{scratch.name}.{sweep}-{attempt}")
        with contextlib.suppress(FileExistsError):
            directory.mkdir(parents=True)
            return directory
    raise RuntimeError(
        f"{ATTEMPTS} workers died while they trained this run: they may lack memory. "
        f"What each had logged is in {directory.parent}"
    )


def _recorded(path: Path) -> dict[str, Any]:
    if (path / _SETTING_FILE).exists():
        setting: dict[str, Any] = json.loads((path / _SETTING_FILE).read_text("utf-8"))
        return setting
    return (read_run(path).get("config") or {}) if (path / RUN_FILE).exists() else {}


def _finished(path: Path) -> bool:
    ended = (read_end(path) or {}).get("status") == "finished"
    return ended or (path / _SETTING_FILE).exists()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
