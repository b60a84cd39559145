"""A process that logs is killed at random moments: what it had finished is there."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from training import store

WORKER = Path(__file__).with_name("endless_run.py")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class EndlessRuns:
    """Starts runs and kills them."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(
        self,
        directory: Path,
        resume_step: int | None = None,
        seconds: float | None = None,
        *,
        start: int = 0,
        last: int | None = None,
    ) -> int:
        """Train for so many seconds, or until it is done; return the last finished step it said."""
        assert self.process.stdin is not None
        numbers = ["" if number is None else str(number) for number in (start, resume_step, last)]
        self.process.stdin.write("\t".join([str(directory), *numbers]) + "\n")
        self.process.stdin.flush()
        pid = int(self._line())
        said = [-1]
        if seconds is None:
            said += map(int, iter(self._line, "done"))
        else:
            time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        said += (int(word) for word in iter(self._line, "dead") if word != "done")
        return said[-1]


@pytest.fixture(scope="module")
def endless() -> Iterator[EndlessRuns]:
    runs = EndlessRuns()
    yield runs
    assert runs.process.stdin is not None
    assert runs.process.stdout is not None
    runs.process.stdin.close()
    runs.process.wait(timeout=30)
    runs.process.stdout.close()


def test_a_hundred_kills_lose_no_finished_row_and_repeat_none(
    endless: EndlessRuns, tmp_path: Path
) -> None:
    moments = random.Random(0)
    kills = finished = 0
    while kills < 100:
        directory = tmp_path / f"run-{kills}"
        first = endless.run(directory, None, moments.uniform(0.0, 0.1), start=1)
        kills += 1
        if not (directory / "run.json").exists():
            assert first == -1
            continue
        rows = store.read(directory).rows
        assert rows.step.tolist() == list(range(len(rows)))
        assert len(rows) > first

        kept = moments.randint(0, max(first, 0))
        second = endless.run(directory, kept, moments.uniform(0.0, 0.1), start=2)
        kills += 1
        rows = store.read(directory).rows
        assert rows.step.tolist() == list(range(len(rows)))
        if second >= 0:
            assert len(rows) > second
            assert set(rows.start[1 : kept + 1]) <= {1.0}
            assert set(rows.start[kept + 1 :]) == {2.0}
        said = rows.iloc[1 : max(first if second < 0 else second, 0) + 1]
        assert said.empty or (said.twice == 2 * said.step).all()
        finished += max(first, 0) + max(second, 0)
    assert finished > 0


def test_twenty_restarts_from_older_checkpoints_leave_one_clean_trajectory(
    endless: EndlessRuns, tmp_path: Path
) -> None:
    last = 300
    endless.run(tmp_path / "whole", last=last)
    whole = store.read(tmp_path / "whole").rows.drop(columns="run")
    assert whole.step.tolist() == list(range(last + 1))

    moments = random.Random(1)
    directory = tmp_path / "killed"
    while not (directory / "run.json").exists():
        endless.run(directory, None, moments.uniform(0.05, 0.15), last=last)
    recorded: list[tuple[int, int]] = []  # the step gone on from, and the rows superseded
    while len(recorded) < 20:
        before = store.read(directory).rows.step
        checkpoints = [int(path.stem) for path in directory.glob("checkpoints/*.pt")]
        older = sorted({0} | {*checkpoints} & {*before})[-8:]
        kept = moments.choice(older)
        said = endless.run(directory, kept, moments.uniform(0.02, 0.12), last=last)
        record = store.restarts(directory)
        if len(record) > len(recorded):  # else it was killed before it began
            recorded.append((kept, int((before > kept).sum())))
        assert list(zip(record.resumed_from, record.superseded, strict=True)) == recorded
        rows = store.read(directory).rows.reindex(columns=whole.columns)
        assert len(rows) >= max(said + 1, (before <= kept).sum())
        pd.testing.assert_frame_equal(rows, whole[: len(rows)], check_exact=True)
    endless.run(directory, kept, last=last)
    rows = store.read(directory).rows.drop(columns="run")
    pd.testing.assert_frame_equal(rows, whole, check_exact=True)
    attributes = store.read(directory).attributes
    assert attributes["status"].item() == "finished"
    assert attributes["restarts"].item() == 21
    assert sum(superseded for _, superseded in recorded) > 0
    logged = store.logged_rows(directory)
    assert logged["superseded"].sum() == store.restarts(directory)["superseded"].sum()
