"""The tables: Markdown, which reads well on a terminal too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.speed.machine import machine, versions
from benchmarks.speed.results import Contest, Growth, Results
from benchmarks.speed.sizes import Size
from benchmarks.speed.targets import ITERATION, Verdict, scale
from benchmarks.speed.works import (
    DISCRETE_HMM,
    DYNAMAX,
    ENUMERATION,
    HMMLEARN,
    HMMLEARN_SCALED,
    OURS,
    POMEGRANATE,
    PRODUCTS,
    Work,
)

OTHERS = (
    *(HMMLEARN, HMMLEARN_SCALED, DYNAMAX, POMEGRANATE),
    *(DISCRETE_HMM, ENUMERATION, PRODUCTS),
)

SHOWN = tuple(work for work in Work if work is not Work.PATHS)

WORDS = {True: "reached", False: "**missed**", None: "not measured"}

HEADER = f"""\
# How fast it is

`make benchmark` repeats this. {{machine}}; {{versions}}.

## Against other libraries

Milliseconds a call: medians of repeats that take turns, one thread on one core, all in one run and
in float64, but for pomegranate, which keeps backward messages and EM in float32. *Scaled* is for a
machine on which an iteration of hmmlearn's EM takes {1e3 * ITERATION:g} ms at the main size. In the
columns of the others: their time over ours (above 1 ours is the faster) and, in brackets, their
milliseconds. None of them has a minimum dwell; rows with one compare with their time without. Every
answer was compared with ours before it was timed: log densities and probabilities to 1e-6, or 1e-3
where float32 is involved.

Full covariances. *VI sweep / EM iteration*: one sweep of our variational inference, one start,
everything included, and one iteration of the others' EM; *matrix products*: features (N T, M) times
weights and states (K, N T) times features alone, M = (D + 1) (D + 2) / 2. *SVI step*: Pyro's, one
particle, `AutoDiagonalNormal`, on our `HMM` and on multivariate normals with `DiscreteHMM` or with
`TraceEnum_ELBO` over `pyro.markov`. *One sampled path*: one more of every run, once the first is
drawn.
"""


def document(results: Results, judged: Sequence[Verdict]) -> str:
    """Everything, as a Markdown document."""
    parts = [
        HEADER.format(machine=machine(), versions=versions()),
        *(contest(results.contest, size) for size in _sizes(results.contest)),
        remarks(results.contest),
        "## Growth\n\nExponents of power laws, fitted where a call takes over 5 ms; in brackets "
        "the milliseconds at the largest size.\n",
        growth(results.growth),
        "## Memory and threads\n",
        resources(results),
        "## Targets\n",
        targets(judged),
    ]
    return "\n".join(part for part in parts if part)


def contest(timings: Contest, size: Size) -> str:
    """Who takes how long, at one size."""
    others = [
        name for name in OTHERS if any(key[0] == size and key[2] == name for key in timings.seconds)
    ]
    rows = []
    for work, dwell in _rows(timings, size):
        ours = timings.time(size, work, OURS, dwell)
        if ours is None:
            continue
        factor = scale(timings)
        cells = [_ratio(timings, size, work, other, dwell) for other in others]
        scaled = "" if factor is None else _milliseconds(ours * factor)
        rows.append([work.value, str(dwell), _milliseconds(ours), scaled, *cells])
    titles = ["", "dwell", OURS, "scaled", *others]
    return f"### {size.name.capitalize()}: {size}\n\n{_table(titles, rows)}"


def remarks(timings: Contest) -> str:
    """Who did not take part."""
    return "".join(f"* {remark}\n" for remark in dict.fromkeys(timings.remarks))


def growth(found: Iterable[Growth]) -> str:
    """Exponents, a column for each dimension."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for one in found:
        largest = max(one.seconds)
        slope = "too fast" if one.exponent is None else f"{one.exponent:.2f}"
        cells.setdefault((one.work.value, str(one.dwell)), {})[one.dimension] = (
            f"{slope} ({_milliseconds(one.seconds[largest])} at {largest})"
        )
    dimensions = ("N", "T", "K")
    rows = [[*key, *(cell.get(name, "") for name in dimensions)] for key, cell in cells.items()]
    return _table(["", "dwell", *dimensions], rows)


def resources(results: Results) -> str:
    """Scratch memory, and what a second thread brings."""
    memory = [
        [
            scratch.work.value,
            str(scratch.dwell),
            "not measured" if scratch.arrays is None else f"{scratch.arrays:.1f}",
        ]
        for scratch in results.scratch
    ]
    threads = [
        [
            scaling.name,
            _milliseconds(scaling.one),
            _milliseconds(scaling.two),
            f"{scaling.gain:.2f}",
        ]
        for scaling in results.scaling
    ]
    titles = ["64 restarts, main size", "one thread", "two threads", "gain"]
    return "\n".join(
        [
            _table(["", "dwell", "scratch, arrays of T × K"], memory),
            _table(titles, threads) if threads else "There is only one core for threads.\n",
        ]
    )


def targets(judged: Iterable[Verdict]) -> str:
    """Each target and whether it was reached, at the main size."""
    rows = [
        [
            verdict.claim,
            verdict.wanted,
            "" if verdict.measured is None else f"{verdict.measured:.3g}",
            WORDS[verdict.reached],
        ]
        for verdict in judged
    ]
    return _table(["", "wanted", "measured", ""], rows)


def _sizes(timings: Contest) -> list[Size]:
    return list(dict.fromkeys(size for size, *_ in timings.seconds))


def _rows(timings: Contest, size: Size) -> Iterator[tuple[Work, int]]:
    for work in SHOWN:
        for dwell in sorted({key[3] for key in timings.seconds if key[:3] == (size, work, OURS)}):
            yield work, dwell


def _ratio(timings: Contest, size: Size, work: Work, other: str, dwell: int) -> str:
    ratio, seconds = timings.ratio(size, work, other, dwell), timings.time(size, work, other)
    if ratio is None or seconds is None:
        return ""
    return f"{ratio:.3g}×" + (f" ({_milliseconds(seconds)})" if dwell == 1 else "")


def _milliseconds(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |\n"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return line(titles) + line(rule) + "".join(map(line, rows))
