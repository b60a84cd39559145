"""How large the problems are on which libraries are compared."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """N runs of T rows and D metrics, and K states.

    Attributes
    ----------
    name
        What tables call it.
    runs, rows, metrics, states
        N, T, D and K.
    """

    name: str
    runs: int
    rows: int
    metrics: int
    states: int

    def __str__(self) -> str:
        return f"{self.runs} runs × {self.rows} rows × {self.metrics} metrics, K = {self.states}"


SMALL = Size("small", 10, 100, 6, 3)
MAIN = Size("main", 40, 300, 14, 6)
LARGE = Size("large", 100, 1000, 14, 10)
