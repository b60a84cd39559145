"""How the time of the messages grows with runs, rows and states."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from bayeshmm import messages
from benchmarks.speed.contenders.bayeshmm import DWELLS, chain
from benchmarks.speed.problem import problem
from benchmarks.speed.results import Growth
from benchmarks.speed.sizes import MAIN, Size
from benchmarks.speed.timing import exponent, interleaved
from benchmarks.speed.works import Work

FUNCTIONS: dict[Work, Callable[..., object]] = {
    Work.LOG_MARGINAL: messages.log_marginal,
    Work.COUNTS: messages.expected_counts,
}

SECONDS, QUICK_SECONDS = 0.5, 0.05


def measure(quick: bool) -> list[Growth]:
    """Fit an exponent for every function, minimum dwell and dimension; all sizes take turns."""
    kinds = [(work, dwell) for work in FUNCTIONS for dwell in DWELLS]
    found = []
    for dimension, sizes in dimensions(quick).items():
        print(f"growth in {dimension}: {', '.join(map(str, sizes))}", file=sys.stderr, flush=True)
        work = [call for size in sizes.values() for call in calls(size, kinds)]
        medians = interleaved(work, QUICK_SECONDS if quick else SECONDS)
        for place, kind in enumerate(kinds):
            seconds = dict(zip(sizes, medians[place :: len(kinds)], strict=True))
            slope = exponent(list(seconds), list(seconds.values()))
            found.append(Growth(*kind, dimension, seconds, slope))
    return found


def dimensions(quick: bool) -> dict[str, dict[int, Size]]:
    """Sizes that differ in one dimension, by dimension and number; a quick look is at fewer."""
    few, rows = replace(MAIN, metrics=3), replace(MAIN, runs=20, metrics=3)
    return {
        "N": {N: replace(few, runs=N) for N in (250, 500, 1000, *(() if quick else (2000, 4000)))},
        "T": {
            T: replace(rows, rows=T)
            for T in (5_000, 10_000, 25_000, *(() if quick else (50_000, 100_000)))
        },
        "K": {K: replace(few, states=K) for K in (16, 24, 32, *(() if quick else (48, 64)))},
    }


def calls(size: Size, kinds: list[tuple[Work, int]]) -> Iterator[Callable[[], object]]:
    """The functions on a problem of this size."""
    inputs = chain(problem(size))
    for work, dwell in kinds:
        yield partial(FUNCTIONS[work], *inputs, minimum_dwell=dwell)
