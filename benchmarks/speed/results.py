"""What was measured, free of every library, so that one process can hand it to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.speed.sizes import Size
from benchmarks.speed.works import OURS, Work


@dataclass
class Contest:
    """Medians of all contenders.

    Attributes
    ----------
    seconds
        By size, work, library and minimum dwell.
    remarks
        Who did not take part, and why.
    """

    seconds: dict[tuple[Size, Work, str, int], float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def time(self, size: Size, work: Work, library: str = OURS, dwell: int = 1) -> float | None:
        """Seconds of a call, None where there is no such contender.

        `Work.PATH` is the cost of one path more: a tenth of what eleven cost over one.
        """
        if work is Work.PATH:
            one = self.seconds.get((size, Work.PATH, library, dwell))
            eleven = self.seconds.get((size, Work.PATHS, library, dwell))
            return None if one is None or eleven is None else (eleven - one) / 10
        return self.seconds.get((size, work, library, dwell))

    def ratio(self, size: Size, work: Work, library: str, dwell: int = 1) -> float | None:
        """Time of `library`, which has no minimum dwell, over that of bayeshmm with `dwell`."""
        theirs, ours = self.time(size, work, library), self.time(size, work, OURS, dwell)
        return None if theirs is None or not ours else theirs / ours


@dataclass(frozen=True)
class Growth:
    """How the time of a function grows with one dimension of the data.

    Attributes
    ----------
    work, dwell
        The function, and its minimum dwell.
    dimension
        ``"N"``, ``"T"`` or ``"K"``.
    seconds
        By size of that dimension.
    exponent
        Of a power law; None where too few calls take long enough.
    """

    work: Work
    dwell: int
    dimension: str
    seconds: Mapping[int, float]
    exponent: float | None


@dataclass(frozen=True)
class Scratch:
    """Peak memory of a call beyond its inputs and results, on one thread.

    Attributes
    ----------
    work, dwell
        The function, and its minimum dwell.
    arrays
        In arrays of T × K numbers; None where the system does not tell.
    """

    work: Work
    dwell: int
    arrays: float | None


@dataclass(frozen=True)
class Scaling:
    """What a second thread brings on 64 restarts.

    Attributes
    ----------
    name
        What is computed.
    one, two
        Seconds on one thread and on two.
    """

    name: str
    one: float
    two: float

    @property
    def gain(self) -> float:
        """Time on one thread over that on two."""
        return self.one / self.two


@dataclass(frozen=True)
class Results:
    """Everything that is reported."""

    contest: Contest
    growth: list[Growth]
    scratch: list[Scratch]
    scaling: list[Scaling]
