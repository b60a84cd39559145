"""What the timings are to reach, and whether they did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.speed.results import Contest, Growth, Results
from benchmarks.speed.sizes import MAIN
from benchmarks.speed.works import (
    DISCRETE_HMM,
    DYNAMAX,
    ENUMERATION,
    HMMLEARN,
    OURS,
    PRODUCTS,
    Work,
)

ITERATION = 58e-3
"""Seconds that an iteration of hmmlearn's EM takes on the machine that milliseconds are for."""

MILLISECONDS = {Work.COUNTS: 1.9, Work.LOG_MARGINAL: 1.0, Work.PATH: 0.25}
"""Most that a call takes on that machine, without a minimum dwell."""

DWELL = {10: 1.6, 50: 1.5}
"""Most that a minimum dwell makes of these times."""

FASTER = {
    (Work.SWEEP, HMMLEARN): 12.0,
    (Work.SWEEP, DYNAMAX): 18.0,
    (Work.STEP, DISCRETE_HMM): 5.0,
    (Work.STEP, ENUMERATION): 60.0,
}
"""Least ratio of the other's time to ours."""

OVER_PRODUCTS = 2.5
"""Most that a sweep takes, in units of its two matrix products alone."""

EXPONENT, SLACK = 1.0, 0.1
"""Of the growth with runs and rows."""

SCRATCH = 8.0
"""Most scratch memory on a thread, in arrays of T × K numbers."""

TWO_THREADS = 1.7
"""Least that a second thread brings to the messages of 64 restarts."""


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured.

    Attributes
    ----------
    claim
        What is measured, and in what unit.
    wanted
        In words.
    measured
        None where a library is absent or too few calls took long enough.
    reached
        None with it.
    """

    claim: str
    wanted: str
    measured: float | None
    reached: bool | None


def scale(contest: Contest) -> float | None:
    """What turns a time into that on the machine of `ITERATION`."""
    iteration = contest.time(MAIN, Work.SWEEP, HMMLEARN)
    return None if iteration is None else ITERATION / iteration


def verdicts(results: Results) -> list[Verdict]:
    """All targets, at the main size."""
    return [
        *_messages(results.contest),
        *_ratios(results.contest),
        *_growth(results.growth),
        _at_most(
            "scratch memory, arrays of T × K",
            SCRATCH,
            _largest([scratch.arrays for scratch in results.scratch]),
        ),
        *(
            _at_least(f"{scaling.name}, two threads over one", TWO_THREADS, scaling.gain)
            for scaling in results.scaling
            if scaling.name in {Work.LOG_MARGINAL, Work.COUNTS}
        ),
    ]


def _messages(contest: Contest) -> Iterator[Verdict]:
    factor = scale(contest)
    for work, most in MILLISECONDS.items():
        seconds = contest.time(MAIN, work)
        scaled = None if seconds is None or factor is None else 1e3 * seconds * factor
        yield _at_most(f"{work}, scaled ms", most, scaled)
    for work in MILLISECONDS:
        for dwell, most in DWELL.items():
            free, held = (contest.time(MAIN, work, OURS, d) for d in (1, dwell))
            ratio = None if not free or held is None else held / free
            yield _at_most(f"{work}, dwell {dwell} over dwell 1", most, ratio)


def _ratios(contest: Contest) -> Iterator[Verdict]:
    for (work, library), least in FASTER.items():
        yield _at_least(f"{work}, {library} over ours", least, contest.ratio(MAIN, work, library))
    products = contest.ratio(MAIN, Work.SWEEP, PRODUCTS)
    yield _at_most(
        f"{Work.SWEEP}, ours over its matrix products", OVER_PRODUCTS, products and 1 / products
    )


def _growth(growth: list[Growth]) -> Iterator[Verdict]:
    """Of the exponents in each dimension, the one that is furthest off."""
    for dimension in ("N", "T"):
        found = [g.exponent for g in growth if g.dimension == dimension and g.exponent is not None]
        worst = max(found, key=lambda exponent: abs(exponent - EXPONENT), default=None)
        reached = None if worst is None else abs(worst - EXPONENT) <= SLACK
        yield Verdict(
            f"exponent in {dimension}, the furthest off", f"{EXPONENT} ± {SLACK}", worst, reached
        )


def _at_most(claim: str, most: float, measured: float | None) -> Verdict:
    reached = None if measured is None else measured <= most
    return Verdict(claim, f"at most {most:g}", measured, reached)


def _at_least(claim: str, least: float, measured: float | None) -> Verdict:
    reached = None if measured is None else measured >= least
    return Verdict(claim, f"at least {least:g}", measured, reached)


def _largest(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)
