"""Real runs with one change that is known: the learning rate drops to a tenth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

import bayeshmm as bh
from bayeshmm import Runs, defaults
from benchmarks.state_counts.worlds import FAMILIES
from benchmarks.unseen_seeds.report import markdown

ORIGIN = """\
holds cifar10.csv (run, step, train_acc, test_acc, in per cent, an epoch a row): the 27 CIFAR-10
curves of github.com/juntang-zhuang/Adabelief-Optimizer, 3 networks by 9 optimisers"""

DROP = 151
"""First epoch at a tenth of the learning rate."""

NEAR, RUNS_NEAR, MOST_CHANGES = 3, 26, 5
"""Claim: a change within so many epochs in so many runs, and so many changes a run at most."""

STATES = range(1, 9)

ERRORS = ["train_error", "test_error"]
"""Per cent; they are modelled by their logarithm, as accuracies all end just below 100."""

TEXT = """\
## The learning rate's drop

27 runs on CIFAR-10, 3 networks by 9 optimisers, 200 epochs, logarithms of training and test error;
the learning rate drops to a tenth in epoch {drop}. All families, {first} to {last} states; chosen:
{states} states, {emission}. A change within {near} epochs of the drop is more probable than not in
**{found} of {runs} runs**; a run has {mean:.1f} changes on average that are, and {most} at most.
Claimed: {runs_near} of 27, at most {most_changes} changes.

Held-out nats a row, by family and number of states:
"""


def read(folder: Path) -> Runs:
    """The runs, with errors in place of accuracies."""
    frame = pd.read_csv(folder / "cifar10.csv")
    errors = 100.0 - frame[["train_acc", "test_acc"]].to_numpy()
    return Runs.from_dataframe(frame[["run", "step"]].join(pd.DataFrame(errors, columns=ERRORS)))


@dataclass(frozen=True)
class Drop:
    """What the comparison says of the drop.

    Attributes
    ----------
    scores
        Held-out nats a row by family and number of states.
    chosen
        Family, by its name in `FAMILIES`, and number of states.
    changes
        Changes that are more probable than not, of every run.
    near
        Whether a change near the drop is more probable than not, for every run.
    """

    scores: pd.DataFrame
    chosen: tuple[str, int]
    changes: pd.Series
    near: pd.Series

    @classmethod
    def of(cls, folder: Path, restarts: int = defaults.RESTARTS) -> Self:
        """Compare, and look where the changes of the best are."""
        runs = read(folder)
        comparison = bh.compare(
            runs, STATES, list(FAMILIES.values()), log=ERRORS, restarts=restarts, progress=False
        )
        names = {repr(family): name for name, family in FAMILIES.items()}
        scores = comparison.table["elpd"].unstack().rename(index=names)
        emission, states = comparison.best_key
        best = comparison.best
        times = best.transition_times()
        changes = times[times["probability"] > 0.5].groupby("run").size()
        # from the paths: a change may lead here in some draws and there in others
        changed = np.diff(best.draws.paths, axis=2) != 0
        window = np.abs(runs.steps[:, 1:] - DROP) <= NEAR
        near = (changed & window).any(axis=2).mean(axis=0) > 0.5
        order = list(runs.names)
        return cls(
            scores,
            (names[emission], states),
            changes.reindex(order, fill_value=0),
            pd.Series(near, order),
        )

    def section(self) -> str:
        """In words, and the table."""
        emission, states = self.chosen
        text = TEXT.format(
            drop=DROP,
            first=STATES[0],
            last=STATES[-1],
            states=states,
            emission=emission,
            near=NEAR,
            found=int(self.near.sum()),
            runs=len(self.near),
            mean=self.changes.mean(),
            most=self.changes.max(),
            runs_near=RUNS_NEAR,
            most_changes=MOST_CHANGES,
        )
        return f"{text}\n{markdown(self.scores.map('{:.3f}'.format))}"

    def misses(self) -> list[str]:
        """The claims that do not hold."""
        missed = []
        if self.near.sum() < RUNS_NEAR:
            missed.append("the learning rate's drop: a change near it")
        if self.changes.max() > MOST_CHANGES:
            missed.append("the learning rate's drop: the number of changes")
        return missed
