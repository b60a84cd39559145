"""All contenders on the same data: first their answers are compared, then they take turns."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator

from benchmarks.speed.contenders import Answer, Contender
from benchmarks.speed.problem import Problem, problem
from benchmarks.speed.results import Contest
from benchmarks.speed.sizes import LARGE, MAIN, SMALL
from benchmarks.speed.timing import interleaved
from benchmarks.speed.works import OURS, Work

MODULES = ("bayeshmm", "products", "hmmlearn", "dynamax", "pomegranate", "pyro")
"""Of `benchmarks.speed.contenders`; ours first, with whose answers all others are compared."""

SECONDS, QUICK_SECONDS = 1.5, 0.2
"""Time that a contender takes at least, where it is not done sooner."""


def measure(quick: bool) -> Contest:
    """Time every work at every size; the main one alone if `quick`."""
    warnings.simplefilter("ignore")  # of the other libraries, about their own future
    contest = Contest()
    for size in (MAIN,) if quick else (SMALL, MAIN, LARGE):
        print(f"{size.name}: {size}", file=sys.stderr, flush=True)
        fit = list(agreeing(problem(size), contest.remarks))
        calls = [contender.run for contender in fit]
        seconds = interleaved(calls, QUICK_SECONDS if quick else SECONDS)
        for contender, time in zip(fit, seconds, strict=True):
            contest.seconds[size, contender.work, contender.library, contender.dwell] = time
    return contest


def agreeing(data: Problem, remarks: list[str]) -> Iterator[Contender]:
    """Contenders whose answers agree with ours; `remarks` says what became of the others."""
    reference: dict[Work, Answer] = {}
    for module in MODULES:
        try:
            contenders = list(
                importlib.import_module(f"benchmarks.speed.contenders.{module}").contenders(data)
            )
        except Exception as error:  # a library that breaks is reported, and the others go on
            if not reference:
                raise
            absent = isinstance(error, ImportError)
            what = f"is not installed: {error}" if absent else f"failed: {error!r}"
            remarks.append(f"{data.size.name}: {module} {what}.")
            continue
        for contender in contenders:
            if contender.library == OURS:
                if contender.dwell == 1:
                    reference[contender.work] = contender.answer()
                yield contender
                continue
            objection = _objection(contender, reference[contender.work])
            if objection is None:
                yield contender
            else:
                remarks.append(
                    f"{data.size.name}: {contender.library} was not timed on the "
                    f"{contender.work}: {objection}."
                )


def _objection(contender: Contender, reference: Answer) -> str | None:
    try:
        return contender.disagreement(reference)
    except Exception as error:  # reported, as above
        return f"it failed with {error!r}"
