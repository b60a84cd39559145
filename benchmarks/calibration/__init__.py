"""Do intervals mean what they say? Simulation-based calibration of the exact sampler and of vi.

``python -m benchmarks.calibration [--datasets 200] [--jobs 2]`` draws parameters, paths and runs
from the prior (`HMM.simulate`), fits them as the library does, and looks where the truth lies among
the draws: its rank is uniform and an interval of 90 % covers it 90 % of the time, for every
quantity (Talts et al. 2018). It writes ``benchmarks/calibration.md``.

The claim: so it is for the exact sampler in every family. Every claim is judged with data sets as
the units, and fails for an exact sampler with probability 1 % in all. What the variational
posterior says, and what any fit of a wrong family says of entry times, is reported beside it.

==========  ==================================================================
`datasets`  one simulated data set, its fit, and the ranks of its truth
`ranks`     ranks, how far they are from uniform, and coverage
`report`    the tables, and whether the claims hold
==========  ==================================================================

References
----------
Talts, Betancourt, Simpson, Vehtari and Gelman (2018), "Validating Bayesian inference algorithms
with simulation-based calibration".
Säilynoja, Bürkner and Vehtari (2022), "Graphical test for discrete uniformity and its applications
in goodness-of-fit evaluation and multiple sample comparison".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from joblib import Parallel, delayed

from benchmarks.calibration.datasets import (
    FAMILIES,
    MISSPECIFIED,
    Effort,
    Ranks,
    calibrated,
    misspecified,
)
from benchmarks.calibration.report import document, misses, pooled

FILE = Path(__file__).parents[1] / "calibration.md"

MOST = 10_000
"""Data sets of a family, at most."""


def many(one: Callable[..., Ranks], *settings: object, seeds: range, jobs: int) -> list[Ranks]:
    """Results of ``one(*settings, seed)``, a data set for each seed."""
    return Parallel(n_jobs=jobs)(delayed(one)(*settings, seed) for seed in seeds)


def seeds_of(name: str, datasets: int) -> range:
    """Seeds that no other family or case shares."""
    place = [*FAMILIES, *MISSPECIFIED].index(name)
    return range(place * MOST, place * MOST + datasets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: see `benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration")
    parser.add_argument("--datasets", type=int, default=200, help="of each family")
    parser.add_argument("--jobs", type=int, default=2, help="processes; -1: one per core")
    parser.add_argument("--out", type=Path, default=FILE, metavar="FILE", help="of the tables")
    chosen = parser.parse_args(arguments)
    effort = Effort()
    results = {
        name: many(
            calibrated, family, effort, seeds=seeds_of(name, chosen.datasets), jobs=chosen.jobs
        )
        for name, family in FAMILIES.items()
    }
    some = max(2, chosen.datasets // 4)
    mismatched = {
        name: many(misspecified, *pair, effort, seeds=seeds_of(name, some), jobs=chosen.jobs)
        for name, pair in MISSPECIFIED.items()
    }
    text = document(results, mismatched, effort)
    chosen.out.write_text(text, "utf-8")
    print(f"{text}\nwritten to {chosen.out}")
    ranks = {name: pooled(found) for name, found in results.items()}
    comparisons = sum(key[0] == "gibbs" for found in ranks.values() for key in found)
    found = [
        f"{name}: {miss}"
        for name, family in ranks.items()
        for miss in misses(family, comparisons=comparisons)
    ]
    print("\n".join(found))
    return int(bool(found))
