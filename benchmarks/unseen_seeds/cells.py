"""One fit and its score on the held-out runs, and the file of those that are finished."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple, Self

import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from bayeshmm.hmm import HMM
from bayeshmm.inference.predictive import predict
from bayeshmm.inference.search import search
from benchmarks.unseen_seeds.datasets import DataSet
from benchmarks.unseen_seeds.families import Family


class Settings(NamedTuple):
    """How modes are looked for, and how often.

    Attributes
    ----------
    folds
        How many of the folds are fitted.
    restarts
        Number of starts.
    seed
        Of the starts.
    """

    folds: int
    restarts: int
    seed: int


@dataclass(frozen=True)
class Task:
    """Everything that a score depends on but the code of the model.

    Attributes
    ----------
    data, digest
        Name of the data set, and what tells its values from others.
    emission, minimum_dwell
        The family, spelt out, and rows.
    states
        Number of states.
    fold
        Number of the first run that is held out.
    restarts, seed
        See `Settings`.
    """

    data: str
    digest: str
    emission: str
    minimum_dwell: int
    states: int
    fold: int
    restarts: int
    seed: int

    @classmethod
    def all(cls, data: DataSet, family: Family, states: int, settings: Settings) -> list[Self]:
        """Return the tasks behind one figure, one per fold."""
        model = data.name, data.digest, repr(family.emission), family.minimum_dwell, states
        restarts, seed = settings.restarts, settings.seed
        return [cls(*model, fold, restarts, seed) for fold in range(settings.folds)]


@dataclass(frozen=True)
class Cell:
    """What came out.

    Attributes
    ----------
    density
        Nats of every held-out run, in standardised units of the training runs.
    rows
        Of every held-out run.
    seconds
        Of CPU time, for the fit and the prediction.
    """

    density: tuple[float, ...]
    rows: tuple[int, ...]
    seconds: float


class Cache(dict[Task, Cell]):
    """Finished cells, kept in a file as well where one is named: a line of JSON each.

    Every record begins with a newline, so that one torn by a crash spoils no other.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self.path = path
        if path is not None and path.exists():
            for line in path.read_text("utf-8").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue
                density, rows = (tuple(record["cell"][name]) for name in ("density", "rows"))
                cell = Cell(density, rows, record["cell"]["seconds"])
                self[Task(**record["task"])] = cell

    def add(self, task: Task, cell: Cell) -> None:
        """Keep a cell."""
        self[task] = cell
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps({"task": asdict(task), "cell": asdict(cell)}))

    def table(
        self, data: DataSet, compared: Sequence[Family], states: Sequence[int], settings: Settings
    ) -> pd.DataFrame:
        """Nats per row by family (rows) and number of states (columns), NaN where there is no cell.

        Families without any are left out.
        """
        scores = [
            [self._per_row(Task.all(data, family, K, settings)) for K in states]
            for family in compared
        ]
        names = pd.Index([family.name for family in compared], name="family")
        return pd.DataFrame(scores, names, list(states), dtype=float).dropna(how="all")

    def _per_row(self, tasks: Sequence[Task]) -> float:
        cells = [self[task] for task in tasks if task in self]
        if len(cells) < len(tasks):
            return math.nan
        return sum(sum(cell.density) for cell in cells) / sum(sum(cell.rows) for cell in cells)


def measure(data: DataSet, family: Family, task: Task) -> Cell:
    """Fit the training runs and predict the held-out ones.

    Raises
    ------
    FloatingPointError
        If a density is not finite.
    """
    start = time.process_time()
    hmm = HMM(task.states, family.emission, minimum_dwell=task.minimum_dwell)
    training, held_out = data.fold(task.fold)
    hmm.check(training)
    encoding, encoded = hmm.encode(training, data.log)
    mode, _ = search(hmm.prior(training), encoded, task.restarts, task.seed)
    density = predict(mode, encoding.encode(held_out)).log_density.numpy()
    density = density - data.log_jacobian(held_out, training)
    if not np.isfinite(density).all():
        raise FloatingPointError(f"the log density of the held-out runs is {density}")
    rows = tuple(held_out.lengths.tolist())
    return Cell(tuple(density.tolist()), rows, time.process_time() - start)


def fill(
    cache: Cache,
    found: Sequence[DataSet],
    compared: Sequence[Family],
    states: Sequence[int],
    settings: Settings,
    jobs: int = 1,
) -> None:
    """Measure what the cache lacks of every family with every number of states on every data set.

    A cell that fails is told of and left out, and tried again the next time.

    Parameters
    ----------
    cache
        Takes every cell as soon as it is finished.
    found, compared, states
        What is crossed.
    settings
        Of the search, and the number of folds.
    jobs
        Processes.
    """
    wanted = {
        task: (data, family)
        for data, family, K in product(found, compared, states)
        for task in Task.all(data, family, K, settings)
    }
    missing = {task: pair for task, pair in wanted.items() if task not in cache}
    work = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(
        joblib.delayed(_attempt)(*pair, task) for task, pair in missing.items()
    )
    for task, outcome in tqdm(work, "cells", len(missing), disable=not missing):
        if isinstance(outcome, Cell):
            cache.add(task, outcome)
        else:
            print(f"{task} failed: {outcome}", file=sys.stderr)


def _attempt(data: DataSet, family: Family, task: Task) -> tuple[Task, Cell | str]:
    """A cell, or why there is none: one family that fails must not stop hours of others."""
    try:
        return task, measure(data, family, task)
    except (ValueError, ArithmeticError, RuntimeError) as error:
        return task, f"{type(error).__name__}: {error}"
