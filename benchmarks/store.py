"""Writing, reading and collecting many runs, against what pandas reads of the same files.

``python -m benchmarks.store [--runs 1000] [--out benchmarks/store.md]``. Runs of 300 rows of 100
metrics, all of them noise, which no compression shortens, in a temporary folder; what was just
written is in the page cache when it is read. The peers read the same files: `pandas.read_json` line
by line, and `pandas.read_parquet`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from benchmarks.speed.machine import machine
from training import store

RUNS, ROWS = 1000, 300
METRICS = tuple(f"weight/blocks.{i // 10}/{i % 10}" for i in range(100))
SOME = METRICS[::10]
DESCRIPTION = {"cadence": {"every": 10}, "metrics": list(METRICS), "config": {"lr": 1e-3}}
CLAIMS = {"read all, from JSONL": 20.0, "read 10 metrics, from the collected file": 1.0}
"""Seconds that an operation may take on 1000 runs."""

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """Seconds that an operation took: on the clock, and of the processor in all its threads."""

    what: str
    clock: float
    processor: float


def timed(what: str, run: Callable[[], T]) -> tuple[Timing, T]:
    """Time one call."""
    clock, processor = time.perf_counter(), time.process_time()
    result = run()
    timing = Timing(what, time.perf_counter() - clock, time.process_time() - processor)
    print(f"{what}: {timing.clock:.2f} s", flush=True)
    return timing, result


def write(root: Path, runs: int) -> None:
    """Write the runs."""
    random = np.random.default_rng(0)
    for run in range(runs):
        values = random.normal(size=(ROWS, len(METRICS))).tolist()
        writer = store.RunWriter(root / f"seed-{run}", DESCRIPTION | {"seed": run})
        for row, numbers in enumerate(values):
            writer.write({"step": 10 * row} | dict(zip(METRICS, numbers, strict=True)))
        writer.close(status="finished", last_step=10 * ROWS, errors=0)


def write_plainly(root: Path, runs: int) -> None:
    """Write the same rows as one would by hand: `json`, and a flush after each row."""
    random = np.random.default_rng(0)
    for run in range(runs):
        values = random.normal(size=(ROWS, len(METRICS))).tolist()
        (root / f"seed-{run}").mkdir()
        with (root / f"seed-{run}" / "metrics.jsonl").open("w") as file:
            for row, numbers in enumerate(values):
                line = {"step": 10 * row} | dict(zip(METRICS, numbers, strict=True))
                file.write(json.dumps(line) + "\n")
                file.flush()


def grow(root: Path, runs: int) -> None:
    """Let one run in a hundred go on by a row."""
    for run in range(0, runs, 100):
        directory = root / f"seed-{run}"
        writer = store.RunWriter(directory, DESCRIPTION, resume_step=10 * ROWS - 10)
        writer.write({"step": 10 * ROWS, METRICS[0]: 0.0})
        writer.close(status="finished", last_step=10 * ROWS + 10, errors=0)


def read_with_pandas(root: Path) -> pd.DataFrame:
    """Read all runs with pandas alone."""
    return pd.concat(
        [
            pd.read_json(path, lines=True).iloc[1:].assign(run=path.parent.name)
            for path in root.rglob("metrics.*.jsonl")
        ]
    )


def measure(root: Path, runs: int) -> list[tuple[Timing, Timing | None]]:
    """Time everything, each operation beside its peer, and check that they agree."""
    ours, plain = root / "ours", root / "plain"
    plain.mkdir()
    writing, _ = timed("write", lambda: write(ours, runs))
    by_hand, _ = timed("write with json", lambda: write_plainly(plain, runs))
    parsing, parsed = timed("read all, from JSONL", lambda: store.read(ours).rows)
    by_pandas, peer = timed("pandas.read_json", lambda: read_with_pandas(ours))
    assert peer.shape[0] == parsed.shape[0]
    del peer
    collecting, file = timed("collect", lambda: store.collect(ours, progress=False))
    again, _ = timed("collect, nothing changed", lambda: store.collect(ours, progress=False))
    all_read, collected = timed("read all, from the collected file", lambda: store.read(ours).rows)
    pd.testing.assert_frame_equal(parsed, collected, check_exact=True)
    del parsed, collected
    name = "read 10 metrics, from the collected file"
    some_read, some = timed(name, lambda: store.read(ours, SOME).rows)
    columns = ["run", "step", *SOME]
    by_parquet, peer = timed(
        "pandas.read_parquet, 10 metrics", lambda: pd.read_parquet(file, columns=columns)
    )
    assert np.array_equal(peer[list(SOME)], some[list(SOME)])
    grow(ours, runs)
    after, _ = timed("collect, 1 % of the runs grew", lambda: store.collect(ours, progress=False))
    return [
        (writing, by_hand),
        (parsing, by_pandas),
        (collecting, None),
        (again, None),
        (after, None),
        (all_read, None),
        (some_read, by_parquet),
    ]


def report(timings: Sequence[tuple[Timing, Timing | None]], runs: int) -> tuple[str, bool]:
    """The table, and whether all claims hold."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("orjson", "pandas", "pyarrow"))
    lines = [
        "# The run store",
        "",
        f"`python -m benchmarks.store` repeats this. {runs} runs of {ROWS} rows of {len(METRICS)} "
        f"metrics; {machine()}, load average {os.getloadavg()[0]:.1f}.",
        f"{libraries}.",
        "",
        "Seconds on the clock, and in brackets those of the processor.",
        "",
        "| operation | bayeshmm | peer | claim for 1000 runs |",
        "| --- | ---: | ---: | --- |",
    ]
    held = True
    for ours, peer in timings:
        claim = ""
        if ours.what in CLAIMS:
            reached = ours.clock <= CLAIMS[ours.what] * max(runs / 1000, 1)
            held &= reached
            claim = f"{CLAIMS[ours.what]:g} s: {'reached' if reached else 'missed'}"
        cells = [
            f"{timing.clock:.2f} ({timing.processor:.2f})" if timing else ""
            for timing in (ours, peer)
        ]
        if peer:
            cells[1] = f"{peer.what}: {cells[1]}"
        lines.append(f"| {ours.what} | {cells[0]} | {cells[1]} | {claim} |")
    return "\n".join([*lines, ""]), held


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: see `benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs to write and read")
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    chosen = parser.parse_args(arguments)
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        print("pyarrow is absent: pip install 'bayeshmm[parquet]'", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        timings = measure(Path(folder), chosen.runs)
    text, held = report(timings, chosen.runs)
    print(f"\n{text}")
    if chosen.out is not None:
        chosen.out.write_text(text, "utf-8")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
