"""Medians of interleaved repeats, and how a time grows."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np

TURN = 0.03
"""Seconds that a turn lasts at least: shorter calls are repeated within it."""

FEWEST, MOST = 3, 31
"""Turns of every call."""

RELIABLE = 5e-3
"""Seconds from which on a call counts for how a time grows."""


@dataclass
class Stopwatch:
    """Turns of one call.

    Attributes
    ----------
    call
        What is timed.
    calls
        Number of calls in a turn.
    turns
        Seconds a call, turn by turn.
    """

    call: Callable[[], object]
    calls: int = 1
    turns: list[float] = field(default_factory=list)

    @property
    def spent(self) -> float:
        """Seconds of all turns."""
        return sum(self.turns) * self.calls

    def settle(self) -> None:
        """Find out how many calls fill a turn."""
        self.call()
        self.calls = max(1, round(TURN / _seconds(self.call, 1)))

    def turn(self) -> None:
        """Take a turn; a short call is made once before, as in a loop that has got going."""
        gc.collect()
        if self.calls > 1:
            self.call()
        self.turns.append(_seconds(self.call, self.calls) / self.calls)


def interleaved(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Median seconds of each call, all taking turns so that drift hits them alike.

    Parameters
    ----------
    calls
        What is timed, in this order in every round.
    seconds
        Time after which a call takes no more turns, of at least `FEWEST` and at most `MOST`.
    """
    watches = [Stopwatch(call) for call in calls]
    for watch in watches:
        watch.settle()
    with _no_collection():
        for round_ in range(MOST):
            for watch in watches:
                if round_ < FEWEST or watch.spent < seconds:
                    watch.turn()
    return [median(watch.turns) for watch in watches]


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Slope of log time over log size, by least squares where a call takes over `RELIABLE`.

    Returns
    -------
    float or None
        None where fewer than three sizes are left.
    """
    kept = [(size, time) for size, time in zip(sizes, seconds, strict=True) if time > RELIABLE]
    if len(kept) < 3:
        return None
    log_sizes, log_seconds = np.log(np.array(kept)).T
    return float(np.polyfit(log_sizes, log_seconds, 1)[0])


def _seconds(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage between turns only: a pause would hit whoever happens to run.

    What exists already is kept out of it, so that it takes no time.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
