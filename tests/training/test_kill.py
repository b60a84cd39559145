"""A process that logs is killed at random moments: what it had finished is there."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from training import store

WORKER = Path(__file__).with_name("endless_run.py")


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

    def run(self, directory: Path, start: int, resume_step: int | None, seconds: float) -> int:
        """Train for so many seconds; return the last step that was said to be finished."""
        assert self.process.stdin is not None
        step = "" if resume_step is None else resume_step
        self.process.stdin.write(f"{directory}\t{start}\t{step}\n")
        self.process.stdin.flush()
        pid = int(self._line())
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        said = list(iter(self._line, "dead"))
        return int(said[-1]) if said else -1


@pytest.fixture(scope="module")
def endless() -> Iterator[EndlessRuns]:
    runs = EndlessRuns()
    yield runs
    assert runs.process.stdin is not None
    assert runs.process.stdout is not None
    runs.process.stdin.close()
    runs.process.wait(timeout=30)
    runs.process.stdout.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fifty_kills_lose_no_finished_row_and_repeat_none(
    endless: EndlessRuns, tmp_path: Path
) -> None:
    moments = random.Random(0)
    kills = finished = 0
    while kills < 50:
        directory = tmp_path / f"run-{kills}"
        first = endless.run(directory, 1, None, moments.uniform(0.0, 0.1))
        kills += 1
        if not (directory / "run.json").exists():
            assert first == -1
            continue
        rows = store.read(directory).rows
        assert rows.step.tolist() == list(range(len(rows)))
        assert len(rows) > first

        kept = moments.randint(0, max(first, 0))
        second = endless.run(directory, 2, kept, moments.uniform(0.0, 0.1))
        kills += 1
        rows = store.read(directory).rows
        assert rows.step.tolist() == list(range(len(rows)))
        if second >= 0:
            assert len(rows) > second
            assert set(rows.start[1 : kept + 1]) <= {1.0}
            assert set(rows.start[kept + 1 :]) == {2.0}
        said = rows.iloc[1 : max(first if second < 0 else second, 0) + 1]
        assert (said.twice == 2 * said.step).all()
        finished += max(first, 0) + max(second, 0)
    assert finished > 0
