"""Write a run directory so that nothing that was written can be lost."""

import json
import math
import os
import platform
import subprocess
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any

from training.store.layout import END_FILE, RUN_FILE, SCHEMA, segment_path, segments

FSYNC_SECONDS = 30.0
"""A killed process loses nothing; a power cut loses at most the rows of this many seconds."""

_COMPARABLE = ("every", "metrics")


class RunWriter:
    """Writes a run directory: a segment of it for every start.

    Parameters
    ----------
    directory
        The run directory; it is made if need be.
    description
        What ``run.json`` records besides the schema, the run id, the start time, the Python version
        and the git commit. On a restart it must agree with what is recorded in ``every`` and
        ``metrics``, since rows of the two starts would not be comparable otherwise.
    resume_step
        The step that this start goes on from. Rows after it, of earlier starts, no longer count.

    Raises
    ------
    FileExistsError
        If the directory holds a run and ``resume_step`` is None.
    ValueError
        If the restart would log other metrics, or at another pace, than the run began with.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        description: Mapping[str, Any],
        *,
        resume_step: int | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        recorded = self.directory / RUN_FILE
        resumed = recorded.exists()
        if resumed and resume_step is None:
            raise self._occupied()
        if resumed:
            _check_comparable(json.loads(recorded.read_text("utf-8")), description, recorded)
            (self.directory / END_FILE).unlink(missing_ok=True)
        self._open_segment(resume_step)
        if not resumed:
            # after the segment, whose exclusive creation decides between two writers
            _write_json(recorded, _identity(self.directory) | dict(description))

    def resume(self, step: int) -> None:
        """Go on in a new segment; rows after a step no longer count.

        Parameters
        ----------
        step
            The step whose state training goes on from.
        """
        self._sync()
        self._file.close()
        self._open_segment(step)

    def write(self, row: Mapping[str, int | float]) -> None:
        """Append one finished row.

        Parameters
        ----------
        row
            ``step`` and the metrics; NaN and infinities are kept as what they are.
        """
        record: dict[str, Any] = dict(row)
        if nonfinite := {key: str(x) for key, x in row.items() if not math.isfinite(x)}:
            record |= dict.fromkeys(nonfinite) | {"_nonfinite": nonfinite}
        self._append(record)
        if time.monotonic() - self._synced > FSYNC_SECONDS:
            self._sync()

    def close(self, **end: Any) -> None:
        """Close the segment and write ``end.json``.

        Parameters
        ----------
        **end
            What ``end.json`` says besides the schema and the time.
        """
        self._sync()
        self._file.close()
        _write_json(self.directory / END_FILE, {"schema": SCHEMA, "ended": _now()} | end)

    def _open_segment(self, resumed_from: int | None) -> None:
        for number in count(max(segments(self.directory), default=-1) + 1):
            try:
                # "x": what another process writes to is never touched
                self._file = FileIO(segment_path(self.directory, number), "xb")
            except FileExistsError:
                if resumed_from is None:
                    raise self._occupied() from None
            else:
                break
        self._synced = time.monotonic()
        self._append({"_segment": number, "resumed_from": resumed_from, "schema": SCHEMA})

    def _append(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = line.encode() + b"\n"
        start = self._file.tell()
        if self._file.write(data) != len(data):
            # a full disk: the half line would spoil the next one
            self._file.truncate(start)
            self._file.seek(start)
            raise OSError(f"{self._file.name}: no room for a row; it is dropped")

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _occupied(self) -> FileExistsError:
        return FileExistsError(
            f"{self.directory} already holds a run: choose another directory, or go on with that "
            "run by resume_step=<the step of the state you restored>, which supersedes later rows"
        )


def _check_comparable(
    recorded: Mapping[str, Any], description: Mapping[str, Any], path: Path
) -> None:
    for key in _COMPARABLE:
        now = json.loads(json.dumps(description.get(key)))
        if recorded.get(key) != now:
            raise ValueError(
                f"{path} was begun with {key}={recorded.get(key)!r} and cannot go on with {now!r}: "
                "resume with what it was begun with, or log to another directory"
            )


def _identity(directory: Path) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "run_id": f"{directory.resolve().name}-{uuid.uuid4().hex[:8]}",
        "started": _now(),
        "python": platform.python_version(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit checked out in the working directory, where there is one."""
    command = ["git", "rev-parse", "--verify", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is whole or absent, whenever the process dies."""
    text = json.dumps(content, ensure_ascii=False, indent=1, default=str)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
