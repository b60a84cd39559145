"""One family compared on one set of runs, and the file of those that are finished."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import pandas as pd
from tqdm import tqdm

import bayeshmm as bh
from bayeshmm import Runs
from bayeshmm.metric_checks import MetricWarning
from benchmarks.state_counts.worlds import (
    FAMILIES,
    RUNS,
    SEEDS,
    WORLDS,
    with_phases,
    without_phases,
)

DRIFT = "drift"
"""Name of the world of all sets that drift."""

STATES = range(1, 7)
"""Numbers of states that are compared where there are phases."""

DRIFT_STATES = range(1, 5)
"""Numbers of states that are compared where there is none."""

COLUMNS = ["elpd", "diff_se", "agreement"]
"""What is kept of a table; `diff_se` is paired with the best number of states of the family."""


@dataclass(frozen=True)
class Task:
    """What a table depends on but the code of the model.

    Attributes
    ----------
    world
        One of `WORLDS`, or `DRIFT`.
    number, runs
        Number of the set, and of its runs.
    family
        One of `FAMILIES`.
    restarts
        Starts of every search.
    """

    world: str
    number: int
    runs: int
    family: str
    restarts: int

    @classmethod
    def families(
        cls, world: str, number: int, runs: int, restarts: int, names: Iterable[str] = FAMILIES
    ) -> list[Task]:
        """The tasks behind one comparison of families."""
        return [cls(world, number, runs, name, restarts) for name in names]

    def data(self) -> Runs:
        """The runs."""
        if self.world == DRIFT:
            return without_phases(self.number, self.runs)
        return with_phases(self.world, self.number)


def all_tasks(sets: int, restarts: int) -> Iterator[Task]:
    """Every task, a set of each world after the other: a part of them has all worlds alike."""
    for number in range(sets):
        for runs in SEEDS:
            yield from Task.families(DRIFT, number, runs, restarts)
        for name, world in WORLDS.items():
            names = FAMILIES if world.exact else [world.right]
            yield from Task.families(name, number, RUNS, restarts, names)


def measure(task: Task) -> pd.DataFrame:
    """Compare numbers of states of one family: `COLUMNS` by number of states."""
    states = DRIFT_STATES if task.world == DRIFT else STATES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MetricWarning)
        comparison = bh.compare(
            task.data(), states, FAMILIES[task.family], restarts=task.restarts, progress=False
        )
    return comparison.table.droplevel("emission")[COLUMNS]


class Cache(dict[Task, pd.DataFrame]):
    """Finished tables, kept in a file as well where one is named: a line of JSON each.

    Every record begins with a newline, so that one torn by a crash spoils no other.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self.path = path
        if path is not None and path.exists():
            for line in path.read_text("utf-8").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self[Task(**record["task"])] = pd.DataFrame(record["table"]).set_index("states")

    def add(self, task: Task, table: pd.DataFrame) -> None:
        """Keep a table."""
        self[task] = table
        if self.path is not None:
            record = {"task": asdict(task), "table": table.reset_index().to_dict("list")}
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(record))

    def fill(self, wanted: Iterable[Task], jobs: int = 1) -> None:
        """Measure what is lacking, in so many processes."""
        missing = [task for task in wanted if task not in self]
        work = joblib.Parallel(n_jobs=jobs, return_as="generator")(
            joblib.delayed(measure)(task) for task in missing
        )
        for task, table in zip(missing, tqdm(work, "tables", len(missing)), strict=True):
            self.add(task, table)

    def comparison(self, tasks: Sequence[Task]) -> pd.DataFrame | None:
        """One table of all families, by (emission, states); None where one is lacking."""
        if any(task not in self for task in tasks):
            return None
        return pd.concat({task.family: self[task] for task in tasks}, names=["emission", "states"])
