"""The runs: which are fitted, and which are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm import Runs
from bayeshmm.comparison.scoring import FEWEST_RUNS
from bayeshmm.metric_checks import dependent_metrics
from bayeshmm.scaling import Scaling
from benchmarks import s5_grokking

FOLDS = 4
"""One run in so many is held out."""

ABSENT = """\
no folder was named. Give one or more of
  --s5 FOLDER       holds trajectories.csv, which `python -m benchmarks.s5_grokking` tells of
  --parity FOLDER   python -m training sparse_parity --seeds 20 --jobs 2 --out FOLDER
  --modular FOLDER  python -m training modular_addition --seeds 10 --jobs 2 --out FOLDER"""


class Fold(NamedTuple):
    """One way to hold out runs.

    Attributes
    ----------
    training, held_out
        Runs that are fitted, and those that are predicted.
    """

    training: Runs
    held_out: Runs


@dataclass(frozen=True, eq=False)
class DataSet:
    """Runs, of which every fourth is held out: from the first on, the second, ...

    Attributes
    ----------
    name
        Title of its table.
    runs
        All runs.
    log
        Floors of the metrics that are modelled as log(x + floor).
    """

    name: str
    runs: Runs
    log: Mapping[str, float] = field(default_factory=dict)

    def floored(self, floor: float) -> DataSet:
        """Return the same data with another floor under all logarithms."""
        return replace(self, log=dict.fromkeys(self.log, floor))

    def fold(self, first: int) -> Fold:
        """Return the fold in which run number `first` is the first to be held out."""
        names = self.runs.names
        held_out = names[first::FOLDS]
        rest = [name for name in names if name not in held_out]
        return Fold(self.runs.subset(rest), self.runs.subset(held_out))

    @cached_property
    def digest(self) -> str:
        """Tells data sets apart whose values differ."""
        content = repr((self.runs.names, self.runs.metrics, dict(self.log))).encode()
        return hashlib.sha256(content + self.runs.values.tobytes()).hexdigest()[:16]

    def log_jacobian(self, runs: Runs, units: Runs) -> NDArray[np.float64]:
        """Log density of `runs` in the data's units less that standardised by `units`, per run."""
        return Scaling.fit(units, self.log).log_jacobian(runs)


def s5(folder: Path) -> list[DataSet]:
    """Grokking on S5: a table per optimiser, from the folder of trajectories.csv."""
    frame = pd.read_csv(folder / s5_grokking.FILE)
    sets = []
    for optimiser, rows in frame.groupby(frame["run"].str.split("_").str[0]):
        if rows["run"].nunique() >= FEWEST_RUNS:
            runs = Runs.from_dataframe(rows, metrics=s5_grokking.METRICS)
            sets.append(DataSet(f"S5 grokking, {optimiser}", runs, s5_grokking.LOG))
    return sets


def parity(folder: Path) -> list[DataSet]:
    """Sparse parity: a folder of runs of the experiment."""
    return [experiment("sparse parity", folder)]


def modular(folder: Path) -> list[DataSet]:
    """Modular addition: a folder of runs of the experiment."""
    return [experiment("modular addition", folder)]


def experiment(name: str, folder: Path) -> DataSet:
    """Runs of an experiment, with the metrics that ``bayeshmm analyze`` takes."""
    runs = Runs.read(folder)
    if len(runs) < FEWEST_RUNS:
        raise ValueError(f"{folder} holds {len(runs)} runs: train at least {FEWEST_RUNS}")
    functions = dependent_metrics(runs)
    return DataSet(name, runs.select([m for m in runs.metrics if m not in functions]))


READERS: dict[str, Callable[[Path], list[DataSet]]] = {
    "s5": s5,
    "parity": parity,
    "modular": modular,
}
"""By the option of the command line that names their folder."""
