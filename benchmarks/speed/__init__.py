"""Speed of the messages, of a sweep and of an SVI step, against hmmlearn, dynamax and others.

``python -m benchmarks.speed [--quick]`` prints tables of ratios and writes
``benchmarks/results.md``; ``--quick`` takes a minute or two, with fewer sizes and repeats, and only
prints.

=================  ====================================================================
`contenders`       a module for each library: the calls that are timed, and their answers
`problem`          the data, `sizes` their sizes, `works` the names of what is timed
`contest`          answers compared, then all contenders timed in turns
`growth`           exponents in runs, rows and states
`scratch`          peak memory
`threads`          what a second thread brings
`timing`           medians of interleaved repeats, exponents
`processes`        a process for each measurement, with limited threads
`targets`          what is to be reached
`report`           the tables; `machine` describes the machine, `results` is what they show
=================  ====================================================================
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.processes import cores, measured
from benchmarks.speed.report import document
from benchmarks.speed.results import Results
from benchmarks.speed.targets import verdicts

FILE = Path(__file__).parents[1] / "results.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: see `benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats; only print")
    quick = parser.parse_args(arguments).quick
    package = __name__
    results = Results(
        contest=measured(f"{package}.contest", 1, quick),
        growth=measured(f"{package}.growth", 1, quick),
        scratch=measured(f"{package}.scratch", 1, quick),
        scaling=measured(f"{package}.threads", 2, quick) if len(cores()) > 1 else [],
    )
    judged = verdicts(results)
    text = document(results, judged)
    print(text)
    if not quick:
        FILE.write_text(text, "utf-8")
        print(f"written to {FILE.name}")
    reached = {verdict.reached for verdict in judged}
    return 1 if False in reached else 2 if None in reached else 0
