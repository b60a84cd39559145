"""Everyone who takes part: a module for each library, and what they are all asked to do.

Each module has ``contenders(problem)``, an iterator of `Contender`, and nothing else imports the
library that it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.works import Work

Answer = Mapping[str, NDArray[np.float64]]
"""Quantities by name; see `TOLERANCES`."""

TOLERANCES = {
    "log density": 1e-6,  # (N,), of the runs
    "total": 1e-6,  # (), of all runs together
    "gradient": 1e-6,  # (N, T, K), with respect to the log-likelihood
    "states": 1e-6,  # (N, T, K), given all rows or those so far
    "transitions": 1e-6,  # (K, K), expected numbers
    "path": 1e-6,  # (N,), joint log density of run and most probable path
    "rows": 1e-6,  # (N, T, K), log density under every state
    "surprise": 0.03,  # (), mean of -log P(path | run) over sampled paths: their entropy
    "means": 1e-2,  # (K, D), updated levels; estimates under slightly different priors
}
"""Largest difference allowed between two answers, in units of the largest entry."""

SINGLE_PRECISION = 1e-3
"""The same for a contender that computes in float32."""

SAMPLED = 20_000
"""Paths behind an answer of ``surprise``, runs times draws."""


@dataclass(frozen=True)
class Contender:
    """A piece of work as one library does it.

    Attributes
    ----------
    library
        Who.
    work
        What.
    run
        The call that is timed; everything that a user prepares once is prepared.
    answer
        What comes out, to be compared with the answers of the others.
    dwell
        Minimum dwell, rows.
    single_precision
        Whether it computes in float32, wholly or in part.
    """

    library: str
    work: Work
    run: Callable[[], Any]
    answer: Callable[[], Answer]
    dwell: int = 1
    single_precision: bool = False

    def disagreement(self, reference: Answer) -> str | None:
        """Say how the answer differs from `reference`; None if it agrees in all that both tell."""
        answer = self.answer()
        shared = answer.keys() & reference.keys()
        if not shared:
            return "nothing to compare"
        for quantity in sorted(shared):
            expected, found = np.asarray(reference[quantity]), np.asarray(answer[quantity])
            if expected.shape != found.shape:
                return f"{quantity} of shape {found.shape}, not {expected.shape}"
            error = float(np.abs(found - expected).max() / np.abs(expected).max())
            floor = SINGLE_PRECISION if self.single_precision else 0.0
            if not error <= max(TOLERANCES[quantity], floor):
                return f"{quantity} differs by {error:.1e} of its largest entry"
        return None


def drawn(runs: int) -> int:
    """Draws of each of so many runs that make up `SAMPLED`."""
    return -(-SAMPLED // runs)
