"""Write a run directory so that nothing that was written can be lost."""

import contextlib
import errno
import json
import math
import os
import platform
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from training.store.layout import END_FILE, RUN_FILE, segment_path, segments
from training.store.records import read_run, write_record
from training.store.schemas import SCHEMA

FSYNC_SECONDS = 30.0
"""A killed process loses nothing; a power cut loses at most the rows of this many seconds."""

WAITING_BYTES = 64 * 2**20
"""What waits in memory, at most, for a disk that does not take it (rows are about as long)."""

_COMPARABLE = ("cadence", "metrics")


class _Row(NamedTuple):
    step: int
    line: bytes


class RunWriter:
    """Writes a run directory: a segment of it for every start.

    A row that cannot be written, on a full disk for example, waits in memory and is written before
    the next one, or at the end, in its order. Every attempt that fails raises an ``OSError``.

    Parameters
    ----------
    directory
        The run directory; it is made if need be.
    description
        What ``run.json`` records besides the schema, the run id, the start time, the Python version
        and the git commit. On a restart it must agree with what is recorded in ``cadence`` and
        ``metrics``, since rows of the two starts would not be comparable otherwise.
    resume_step
        The step that this start goes on from. Rows after it, of earlier starts, no longer count.

    Raises
    ------
    FileExistsError
        If the directory holds a run and ``resume_step`` is None.
    ValueError
        If the restart would log other metrics, or at another pace, than the run began with.
    OSError
        If the directory cannot be written to.
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
            _check_comparable(read_run(self.directory), description, recorded)
            (self.directory / END_FILE).unlink(missing_ok=True)
        self._resumed_from = resume_step
        self._file: FileIO | None = None
        self._end = 0  # where the last whole line of the segment ends
        self._waiting: deque[_Row] = deque()
        self._dropped: list[int] = []
        self._synced = time.monotonic()
        try:
            self._flush()
            if not resumed:
                # after the segment, whose exclusive creation decides between two writers
                write_record(recorded, _identity(self.directory) | dict(description))
        except BaseException:
            self._close_segment()
            raise

    def resume(self, step: int) -> None:
        """Go on in a new segment; rows after a step no longer count.

        Parameters
        ----------
        step
            The step whose state training goes on from.

        Raises
        ------
        OSError
            If the segment cannot be written to now; it is tried again with the next row.
        """
        with contextlib.suppress(OSError):  # what still waits then goes to the next segment
            self._flush()
            self._sync()
        self._close_segment()
        self._file = None
        self._waiting = deque(row for row in self._waiting if row.step <= step)
        self._dropped = [dropped for dropped in self._dropped if dropped <= step]
        if self._end == 0 and self._resumed_from is not None:
            step = min(step, self._resumed_from)  # the restart before left no record of itself
        self._resumed_from, self._end = step, 0
        self._flush()

    def write(self, row: Mapping[str, int | float]) -> None:
        """Append one finished row.

        Parameters
        ----------
        row
            ``step`` and the metrics; NaN and infinities are kept as what they are.

        Raises
        ------
        OSError
            If it cannot be written now: it waits, unless `WAITING_BYTES` wait already.
        """
        line = _encoded(row)
        self._waiting.append(_Row(int(row["step"]), line))
        try:
            self._flush()
        except OSError as error:
            if len(self._waiting) * len(line) > WAITING_BYTES:
                self._dropped.append(self._waiting.pop().step)
            message = f"{error.strerror}; rows that wait to be written: {len(self._waiting)}"
            if self._dropped:
                message += f", rows that are lost: {len(self._dropped)}"
            raise OSError(error.errno, message, os.fspath(self.directory)) from error
        if time.monotonic() - self._synced > FSYNC_SECONDS:
            self._sync()

    def close(self, **end: Any) -> None:
        """Write what waits, close the segment and write ``end.json``.

        Parameters
        ----------
        **end
            What ``end.json`` says besides the schema and the time.

        Raises
        ------
        OSError
            If rows remain that could not be written, which are then lost (their steps are told, and
            in ``end.json`` as ``lost``), or the files could not be closed.
        """
        failure: OSError | None = None
        for finish in (self._flush, self._sync, self._close_segment):
            try:
                finish()
            except OSError as error:
                failure = failure or error
        lost = sorted([*(row.step for row in self._waiting), *self._dropped])
        record = {"schema": SCHEMA, "ended": _now()} | end | ({"lost": lost} if lost else {})
        try:
            write_record(self.directory / END_FILE, record)
        except OSError as error:
            failure = failure or error
        if lost:
            steps = ", ".join(map(str, lost if len(lost) < 10 else [*lost[:8], "...", lost[-1]]))
            message = f"rows that could not be written and are lost: {len(lost)}, of steps {steps}"
            raise OSError(errno.EIO, message, os.fspath(self.directory)) from failure
        if failure:
            raise failure

    def _flush(self) -> None:
        """Write all that waits: the header of a new segment, and rows."""
        if self._file is None:
            self._open_segment()
        if self._end == 0:
            self._append(self._header)
        while self._waiting:
            self._append(self._waiting[0].line)
            self._waiting.popleft()

    def _open_segment(self) -> None:
        for number in count(max(segments(self.directory), default=-1) + 1):
            try:
                # "x": what another process writes to is never touched
                self._file = FileIO(segment_path(self.directory, number), "xb")
            except FileExistsError:
                if self._resumed_from is None:
                    raise self._occupied() from None
            else:
                break
        self._synced = time.monotonic()
        header = {"_segment": number, "resumed_from": self._resumed_from, "schema": SCHEMA}
        self._header = orjson.dumps(header | {"started": _now()}, option=orjson.OPT_APPEND_NEWLINE)

    def _append(self, line: bytes) -> None:
        assert self._file is not None
        if self._file.tell() != self._end:
            self._undo()  # an attempt before could not
        if self._file.write(line) != len(line):
            self._undo()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        self._end += len(line)

    def _undo(self) -> None:
        """Remove half a line, which would spoil the next one."""
        assert self._file is not None
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def _sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _close_segment(self) -> None:
        if self._file is not None:
            self._file.close()

    def _occupied(self) -> FileExistsError:
        return FileExistsError(
            f"{self.directory} already holds a run: choose another directory, or go on with that "
            "run by resume_step=<the step of the state you restored>, which supersedes later rows"
        )


def _encoded(row: Mapping[str, int | float]) -> bytes:
    """Return the line of a row: what is no number of JSON is null, and named besides."""
    record: dict[str, Any] = {"step": int(row["step"])}
    for name, value in row.items():
        plain = type(value) is float or (type(value) is int and abs(value) < 2**63)
        record.setdefault(name, value if plain else float(value))
    if nonfinite := {name: str(x) for name, x in record.items() if not math.isfinite(x)}:
        record["_nonfinite"] = nonfinite
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


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
