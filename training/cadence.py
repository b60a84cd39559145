"""Which steps get a row."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np


class Cadence(Protocol):
    """Says which steps are logged; step 0 is the initial state."""

    def due(self, step: int) -> bool:
        """Whether a step gets a row."""

    def after(self, step: int) -> float:
        """Return the first step after another that gets a row; infinity without one."""

    def describe(self) -> dict[str, Any]:
        """Return the record of it in ``run.json``."""


@dataclass(frozen=True)
class Every:
    """A row every so many steps, from the initial state on.

    Attributes
    ----------
    steps
        Steps from row to row.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"every={self.steps}: rows must be at least one step apart")

    def due(self, step: int) -> bool:
        """Whether a step gets a row."""
        return step % self.steps == 0

    def after(self, step: int) -> float:
        """Return the first step after another that gets a row."""
        return step - step % self.steps + self.steps

    def describe(self) -> dict[str, Any]:
        """Return the record of it in ``run.json``."""
        return {"every": self.steps}


@dataclass(frozen=True)
class At:
    """Rows at the steps of a list.

    Attributes
    ----------
    steps
        The steps.
    """

    steps: frozenset[int]

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 0:
            raise ValueError("at= must hold at least one step, and none that is negative")

    def due(self, step: int) -> bool:
        """Whether a step gets a row."""
        return step in self.steps

    def after(self, step: int) -> float:
        """Return the first step after another that gets a row; infinity without one."""
        return min((due for due in self.steps if due > step), default=math.inf)

    def describe(self) -> dict[str, Any]:
        """Return the record of it in ``run.json``."""
        return {"at": sorted(self.steps)}


@dataclass(frozen=True)
class LogSpaced:
    """Rows whose gaps grow with the step: dense at the start, where training is fast.

    A hidden Markov model of such rows has to know their gaps; `bayeshmm` does.

    Attributes
    ----------
    max_steps
        The last step that gets a row; later ones get none.
    rows
        Rows in all besides that of the initial state, where the steps allow: small steps coincide,
        and each is logged once.

    Examples
    --------
    >>> sorted(LogSpaced(max_steps=1000, rows=7).steps)
    [0, 1, 3, 10, 32, 100, 316, 1000]
    """

    max_steps: int
    rows: int = 300

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.rows < 2:
            raise ValueError(f"{self}: give at least one step and two rows")

    @cached_property
    def steps(self) -> frozenset[int]:
        """The steps that get a row."""
        spaced = np.geomspace(1, self.max_steps, self.rows).round().astype(int)
        return frozenset({0, *spaced.tolist()})

    def due(self, step: int) -> bool:
        """Whether a step gets a row."""
        return step in self.steps

    def after(self, step: int) -> float:
        """Return the first step after another that gets a row; infinity without one."""
        return At(self.steps).after(step)

    def describe(self) -> dict[str, Any]:
        """Return the record of it in ``run.json``."""
        return {"log_spaced": {"max_steps": self.max_steps, "rows": self.rows}}


def cadence(every: int, at: Iterable[int] | LogSpaced | None) -> Cadence:
    """Return the cadence that the arguments of a hook ask for.

    Parameters
    ----------
    every
        Steps from row to row.
    at
        The steps to log instead.

    Raises
    ------
    ValueError
        If no step, or one that cannot be, is asked for.
    """
    if at is None:
        return Every(every)
    return at if isinstance(at, LogSpaced) else At(frozenset(map(int, at)))
