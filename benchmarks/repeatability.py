"""Whether the whole analysis repeats: ten seeds of it on the same runs.

``python -m benchmarks.repeatability RUNS [--seeds 10] [--states K] [--keep FOLDER] [--out PAGE]``.

Each seed compares 1 to 8 phases and draws a posterior as `bayeshmm.analysis.analyze` does, from the
beginning: its own starts, moves and draws. What every seed found is kept in FOLDER, and seeds that
are there are not run again. The claim: at least nine seeds in ten choose the same number of phases,
in the same order in every run, and nearly all median entry times of any two of them lie inside the
interval that the other gives.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import bayeshmm as bh
from bayeshmm.comparison import choice
from bayeshmm.metric_checks import dependent_metrics
from benchmarks.speed.machine import machine, versions

STATES = range(1, 9)
CLAIM = 0.9
"""Share of the seeds that are to find the same."""

WITHIN = 0.95
"""Share of the entries whose medians are to lie in each other's intervals."""

ABSENT = "no runs were named: python -m benchmarks.repeatability RUNS"


@dataclass(frozen=True)
class Found:
    """What one seed found.

    Attributes
    ----------
    table
        Of the comparison; it does not depend on the rule that chooses.
    states
        Smoothed probabilities of the phases, (N, T, K).
    entries
        `Posterior.entry_times`, states by their number.
    seconds
        That it took.
    """

    table: pd.DataFrame
    states: NDArray[np.float64]
    entries: pd.DataFrame
    seconds: float

    def save(self, folder: Path, seed: int) -> None:
        """Write it; the last file says that it is complete."""
        folder.mkdir(parents=True, exist_ok=True)
        self.table.to_csv(folder / f"{seed}.comparison.csv")
        self.entries.to_csv(folder / f"{seed}.entries.csv", index=False)
        np.savez_compressed(folder / f"{seed}.npz", states=self.states, seconds=self.seconds)

    @classmethod
    def load(cls, folder: Path, seed: int) -> Found:
        """Read it again."""
        table = pd.read_csv(folder / f"{seed}.comparison.csv", index_col=[0, 1])
        entries = pd.read_csv(folder / f"{seed}.entries.csv")
        with np.load(folder / f"{seed}.npz") as arrays:
            return cls(table, arrays["states"], entries, float(arrays["seconds"]))


def analysed(runs: bh.Runs, seed: int, states: int | None) -> Found:
    """The whole analysis, and the posterior of `states` phases; None: of as many as it chooses."""
    began = time.perf_counter()
    comparison = bh.compare(runs, STATES, seed=seed, progress=False)
    family, chosen_states = comparison.best_key
    posterior = comparison.posteriors[family, states or chosen_states]
    entries = posterior.entry_times()
    entries["state"] = entries["state"].map(posterior.state_names.index)
    smoothed = posterior.smooth().to_numpy()
    return Found(comparison.table, smoothed, entries, time.perf_counter() - began)


def chosen(runs: bh.Runs, found: Found) -> tuple[str, int]:
    """Family and number of phases by the present rule of `bayeshmm.compare`."""
    return choice.choose(found.table, len(runs.metrics))


def compared(one: Found, other: Found) -> dict[str, float]:
    """How alike two seeds are, the phases of the second under the labels of the first.

    Returns
    -------
    dict
        ``agreement``: share of rows whose most probable phase is the same; ``order``: share of
        runs that enter the same phases in the same order; ``within``: share of the entries made by
        both whose two medians lie in each other's intervals; ``apart``: largest distance of two
        medians, in training steps.
    """
    match = bh.match_states(one.states, other.states)
    renamed = other.entries.assign(state=match[other.entries["state"]])
    tables = [table[table["probability"] > 0.5] for table in (one.entries, renamed)]
    routes = [
        table.sort_values(["run", "median", "state"]).groupby("run")["state"].agg(tuple)
        for table in tables
    ]
    both = tables[0].merge(tables[1], on=["run", "state"], suffixes=("", "_other"))
    first = both["median"].between(both["lower_other"], both["upper_other"])
    second = both["median_other"].between(both["lower"], both["upper"])
    return {
        "agreement": bh.agreement(one.states, other.states),
        "order": float((routes[0] == routes[1].reindex(routes[0].index)).mean()),
        "within": float((first & second).mean()),
        "apart": float((both["median"] - both["median_other"]).abs().max()),
    }


def verdict(keys: Sequence[tuple[str, int]], found: Sequence[Found]) -> tuple[int, pd.DataFrame]:
    """The seed that most others are like, and how alike they are to it: a row per seed."""
    tables = []
    for reference, one in enumerate(found):
        rows = [
            {"family": family, "states": states, **compared(one, other)}
            for (family, states), other in zip(keys, found, strict=True)
        ]
        table = pd.DataFrame(rows).rename_axis("seed")
        same = np.array([key == keys[reference] for key in keys])
        table["same"] = same & (table["order"] == 1.0) & (table["within"] >= WITHIN)
        tables.append(table)
    best = int(np.argmax([table["same"].sum() for table in tables]))
    return best, tables[best]


def page(runs: bh.Runs, found: Sequence[Found]) -> tuple[int, str]:
    """The exit status and the figures as a page."""
    keys = [chosen(runs, one) for one in found]
    reference, table = verdict(keys, found)
    same, enough = int(table["same"].sum()), CLAIM * len(found)
    seconds = np.median([one.seconds for one in found])
    scores = pd.DataFrame(
        {seed: one.table["elpd"].xs(keys[reference][0]) for seed, one in enumerate(found)}
    )
    gains = scores.diff().dropna()
    lines = [
        "# The whole analysis from other seeds",
        "",
        f"`python -m benchmarks.repeatability RUNS` repeats this. {len(runs)} runs of "
        f"{runs.lengths.max()} rows and {len(runs.metrics)} metrics; 1 to 8 phases "
        f"compared, then {found[0].states.shape[-1]} phases drawn, {len(found)} times from the "
        f"beginning; {seconds:.0f} s each, one thread; {machine()}.",
        f"{versions()}.",
        "",
        f"{same} of {len(found)} seeds find the same as seed {reference}: number of phases, order "
        f"in every run, and at least {WITHIN:.0%} of the medians of entry times inside each "
        "other's 90 % intervals.",
        "",
        "| seed | chosen | same phase, share of rows | same order, share of runs | medians within "
        "each other's intervals | largest distance of medians, steps | same |",
        "| ---: | --- | ---: | ---: | ---: | ---: | --- |",
        *(
            f"| {seed} | {row['states']}, {row['family']} | {row['agreement']:.4f} | "
            f"{row['order']:.2f} | {row['within']:.3f} | {row['apart']:.0f} | "
            f"{'yes' if row['same'] else 'no'} |"
            for seed, row in table.iterrows()
        ),
        "",
        f"Log density of held-out runs, nats a row ({keys[reference][0]}), and what each further "
        "phase is worth, over the seeds:",
        "",
        "| phases | mean | smallest | largest | gain: mean | smallest | largest |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {K} | {row.mean():.3f} | {row.min():.3f} | {row.max():.3f} | "
            + (
                f"{gains.loc[K].mean():.3f} | {gains.loc[K].min():.3f} | {gains.loc[K].max():.3f} |"
                if K in gains.index
                else "| | |"
            )
            for K, row in scores.iterrows()
        ),
    ]
    return int(same < enough), "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: see `benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.repeatability")
    parser.add_argument("runs", type=Path, nargs="?", help="folder or file of runs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--states", type=int, help="phases of the posterior; default: the chosen")
    parser.add_argument("--keep", type=Path, help="folder for what every seed finds")
    parser.add_argument("--out", type=Path, help="file for the page")
    given = parser.parse_args(words)
    if given.runs is None:
        print(ABSENT, file=sys.stderr)
        return 2
    runs, found = bh.Runs.read(given.runs), []
    left_out = dependent_metrics(runs)
    runs = runs.select([name for name in runs.metrics if name not in left_out])
    for seed in range(given.seeds):
        if given.keep is not None and (given.keep / f"{seed}.npz").is_file():
            found.append(Found.load(given.keep, seed))
            continue
        found.append(analysed(runs, seed, given.states))
        print(f"seed {seed}: {found[-1].seconds:.0f} s", flush=True)
        if given.keep is not None:
            found[-1].save(given.keep, seed)
    status, text = page(runs, found)
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
