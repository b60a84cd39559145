"""Held-out density of real runs, against the best hidden Markov model that hmmlearn can fit.

``python -m benchmarks.s5_grokking FOLDER``, where FOLDER holds ``trajectories.csv``.

Two-layer transformers learn the product of the permutation group S5, and some of them grok; the ten
runs that Muon trained are used. Every third run is held out, from the first, the second and the
third on. `bayeshmm.compare` sees the other runs only, and chooses the number of phases from them.
hmmlearn fits 1 to 8 states, with full and with diagonal covariances, from five starts each, and of
all these fits the one counts that does best on the *held-out* runs: a choice in its favour that no
user could make. Both densities are brought to the same units, those of the data and those of the
standardised training runs, in nats per row of the held-out runs; the difference is the same in
both. The claim is a difference of at least 8 nats per row in every split.

Data: Zeyu Fu, Muon-accelerated grokking, CC BY 4.0, doi:10.5281/zenodo.21020292, from the
repository PeterPonyu/muon-norm-cap-grokking (experiments/results/s5_mech/*.jsonl), one tidy row per
run and evaluation: ``run, step`` and the metrics.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import bayeshmm as bh

FILE = "trajectories.csv"
METRICS = (
    *("train_loss", "test_loss", "wn_total", "wn_hidden", "wn_embed", "cos_init"),
    *("eff_rank_mean", "stable_rank_mean"),
)
FLOOR = 1e-4
LOG = {"train_loss": FLOOR, "test_loss": FLOOR}
STATES = range(1, 9)
STARTS = 5
SPLITS = 3
CLAIM = 8.0
"""Nats per row by which bayeshmm is to be ahead in every split."""

ABSENT = f"""\
no {FILE}{{where}}.
The data are the logs experiments/results/s5_mech/*.jsonl of the repository
PeterPonyu/muon-norm-cap-grokking (Zeyu Fu, CC BY 4.0, doi:10.5281/zenodo.21020292).
Put them into one tidy {FILE}, a row per run and evaluation, with the columns
run, step, {", ".join(METRICS)};
runs trained by Muon have names that begin with "muon". Then name its folder:
python -m benchmarks.s5_grokking FOLDER"""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """The metrics after their logarithms, and what they are standardised by.

    Attributes
    ----------
    mean, sd
        Of the training runs pooled, (D,).
    """

    mean: Array
    sd: Array

    @classmethod
    def of(cls, runs: bh.Runs) -> Units:
        """Return the units of these training runs."""
        values = logged(runs)
        return cls(values.mean(axis=0), values.std(axis=0))

    def standardise(self, runs: bh.Runs) -> Array:
        """Return the rows of all runs, one below the other, (rows, D)."""
        return (logged(runs) - self.mean) / self.sd

    def log_jacobian(self, runs: bh.Runs) -> float:
        """Return log density of the runs in the data's units less that in standardised units."""
        logs = [list(METRICS).index(name) for name in LOG]
        return float(-len(logged(runs)) * np.log(self.sd).sum() - logged(runs)[:, logs].sum())


def logged(runs: bh.Runs) -> Array:
    """Return the rows of all runs, one below the other, losses as log(x + FLOOR), (rows, D)."""
    frame = runs.to_dataframe()[list(METRICS)]
    for name, floor in LOG.items():
        frame[name] = np.log(frame[name] + floor)
    return frame.to_numpy()


@dataclass(frozen=True)
class Peer:
    """The best of hmmlearn's fits.

    Attributes
    ----------
    score
        Log density of the held-out runs in standardised units.
    model
        States and covariances.
    failed
        Number of fits that ended in an error or without a finite score.
    """

    score: float
    model: str
    failed: int


def best_peer(training: bh.Runs, held_out: bh.Runs, units: Units) -> Peer:
    """Return hmmlearn's best fit, judged by the held-out runs themselves."""
    from hmmlearn.hmm import GaussianHMM

    seen, unseen = units.standardise(training), units.standardise(held_out)
    best, failed = Peer(-np.inf, "none", 0), 0
    for states in STATES:
        for covariance in ("full", "diag"):
            for start in range(STARTS):
                model = GaussianHMM(states, covariance, n_iter=200, random_state=start)
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        score = model.fit(seen, training.lengths).score(unseen, held_out.lengths)
                except (ValueError, np.linalg.LinAlgError):
                    score = np.nan
                failed += not np.isfinite(score)
                if score > best.score:
                    best = Peer(float(score), f"{states}, {covariance}", 0)
    return Peer(best.score, best.model, failed)


def split(runs: bh.Runs, first: int) -> dict[str, object]:
    """Return a row of the table: every third run held out, from index `first` on."""
    held_out = runs.subset(runs.names[first::SPLITS])
    training = runs.subset([name for name in runs.names if name not in held_out.names])
    units, rows = Units.of(training), int(held_out.lengths.sum())
    with warnings.catch_warnings():
        # of the draws, which the density of unseen runs does not use
        warnings.simplefilter("ignore", bh.ConvergenceWarning)
        posterior = bh.compare(training, states=STATES, log=LOG, progress=False).best
    ours = float(posterior.log_density(held_out).sum())
    peer = best_peer(training, held_out, units)
    jacobian = units.log_jacobian(held_out)
    theirs = peer.score + jacobian
    return {
        "held out from": first,
        "rows": rows,
        "bayeshmm states": posterior.states,
        "hmmlearn states": peer.model,
        "bayeshmm": ours / rows,
        "hmmlearn": theirs / rows,
        "bayeshmm, standardised": (ours - jacobian) / rows,
        "hmmlearn, standardised": peer.score / rows,
        "difference": (ours - theirs) / rows,
        "failed fits of hmmlearn": peer.failed,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: see `benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s5_grokking")
    parser.add_argument("folder", type=Path, nargs="?", help=f"holds {FILE}")
    folder = parser.parse_args(arguments).folder
    if folder is None or not (folder / FILE).is_file():
        where = ": no folder was named" if folder is None else f" in {folder}"
        print(ABSENT.format(where=where), file=sys.stderr)
        return 2
    try:
        import hmmlearn
    except ImportError:
        print("hmmlearn is absent: pip install '.[benchmark]'", file=sys.stderr)
        return 2
    logging.getLogger(hmmlearn.__name__).setLevel(logging.ERROR)  # each fit that does not converge
    frame = pd.read_csv(folder / FILE)
    muon = frame[frame["run"].str.startswith("muon")]
    runs = bh.Runs.from_dataframe(muon, metrics=METRICS)
    table = []
    for first in range(SPLITS):
        table.append(split(runs, first))
        for name, value in table[-1].items():
            print(f"{name:<26}{value:.2f}" if isinstance(value, float) else f"{name:<26}{value}")
        print(flush=True)
    smallest = min(float(row["difference"]) for row in table)  # type: ignore[arg-type]
    print(f"smallest difference: {smallest:.2f} nats per row (claimed: at least {CLAIM:g})")
    return int(smallest < CLAIM)


if __name__ == "__main__":
    sys.exit(main())
