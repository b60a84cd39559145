"""Mini-batch against full-batch variational inference on many runs.

``python -m benchmarks.minibatch [--runs 2000] [--batch 40] [--out benchmarks/minibatch.md]``. Each
fit is a process of its own, so that its largest memory is its own; one thread. Both see the same
simulated runs and score the same unseen ones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp

import bayeshmm as bh
from bayeshmm.inference_data import run_log_likelihoods
from benchmarks.speed.machine import machine, versions

STATES, METRICS = 3, 10
EMISSION = bh.Gaussian(run_effects=False, noise="normal")
UNSEEN = 40
"""Runs that are scored."""

NEAR = 0.01
"""Nats a row within which the two have to agree."""

LIMIT = 4.0
"""GiB that the mini-batch fit may take."""


@dataclass(frozen=True)
class Result:
    """What came of one fit.

    Attributes
    ----------
    seconds
        Of the whole fit.
    memory
        Largest resident set, GiB, with the data and all libraries.
    updated, averaged
        Log density of the unseen runs, nats a row: by `Posterior.log_density`, and as the log of
        the mean over the draws.
    steps
        Of stochastic optimisation.
    k_hat
        Of the guide.
    elbo
        Evidence lower bound.
    """

    seconds: float
    memory: float
    updated: float
    averaged: float
    steps: int
    k_hat: float
    elbo: float


def simulated(runs: int, rows: int, seed: int, prefix: str = "run") -> bh.Runs:
    """Runs through three levels, two noise standard deviations apart, with correlated noise.

    The levels are the same whatever `seed`.
    """
    shape = np.random.default_rng(0)
    levels = 2.0 * shape.standard_normal((STATES, METRICS))
    mixing = np.eye(METRICS) + 0.3 * shape.standard_normal((STATES, METRICS, METRICS))
    rng = np.random.default_rng([seed, 1])
    change = np.sort(rng.integers(rows // 10, rows, (runs, STATES - 1)), axis=1)
    phase = (np.arange(rows) >= change[..., None]).sum(1)
    values = rng.standard_normal((runs, rows, METRICS))
    for k in range(STATES):
        values[phase == k] = levels[k] + values[phase == k] @ mixing[k].T
    frame = pd.DataFrame(values.reshape(-1, METRICS), columns=[f"m{j}" for j in range(METRICS)])
    names = np.repeat([f"{prefix}-{n}" for n in range(runs)], rows)
    frame.insert(0, "run", names)
    frame.insert(1, "step", np.tile(np.arange(rows), runs))
    return bh.Runs.from_dataframe(frame)


def fitted(runs: int, rows: int, settings: bh.VI, restarts: int, draws: int) -> Result:
    """Fit, time and score."""
    torch.set_num_threads(1)
    seen, unseen = simulated(runs, rows, 1), simulated(UNSEEN, rows, 2, "unseen")
    began = time.perf_counter()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        posterior = bh.fit(
            seen,
            STATES,
            emission=EMISSION,
            inference=settings,
            restarts=restarts,
            draws=draws,
            progress=False,
        )
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    log = run_log_likelihoods(posterior, unseen)
    averaged = (logsumexp(log, axis=0) - np.log(len(log))).sum() / (UNSEEN * rows)
    updated = float(posterior.log_density(unseen).sum()) / (UNSEEN * rows)
    found = posterior.diagnostics
    return Result(seconds, memory, updated, averaged, found["steps"], found["k_hat"], found["elbo"])


def apart(*arguments: object) -> Result:
    """The same in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(fitted, arguments)


def report(runs: int, rows: int, batch: int, found: dict[str, Result]) -> str:
    """The figures as a page."""
    mini, full = found["mini-batch"], found["full batch"]
    gap = max(abs(mini.updated - full.updated), abs(mini.averaged - full.averaged))
    figures = [
        ("whole fit, seconds", "seconds", ".0f"),
        ("largest memory, GiB", "memory", ".2f"),
        ("steps", "steps", "d"),
        ("evidence lower bound", "elbo", ".1f"),
        ("k-hat", "k_hat", ".2f"),
        ("unseen runs, nats a row: posterior updated", "updated", ".4f"),
        ("unseen runs, nats a row: average over draws", "averaged", ".4f"),
    ]
    lines = [
        "# Mini-batches of runs",
        "",
        f"`python -m benchmarks.minibatch` repeats this. {runs} runs × {rows} rows × {METRICS} "
        f"metrics, levels, {STATES} phases; {batch} runs a step; {UNSEEN} unseen runs scored; one "
        f"thread; {machine()}.",
        f"{versions()}.",
        "",
        "| | mini-batch | full batch |",
        "| --- | ---: | ---: |",
        *(
            f"| {label} | {getattr(mini, name):{form}} | {getattr(full, name):{form}} |"
            for label, name, form in figures
        ),
        "",
        f"Largest difference {gap:.4f} nats a row ({NEAR:g} allowed); "
        f"{full.seconds / mini.seconds:.1f} times as fast; {mini.memory:.2f} GiB of {LIMIT:g}.",
    ]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.minibatch")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(words)
    found = {}
    for name, size in (("mini-batch", chosen.batch), ("full batch", None)):
        settings = bh.VI(batch_size=size)
        found[name] = apart(chosen.runs, chosen.rows, settings, chosen.restarts, chosen.draws)
        print(name, found[name], flush=True)
    page = report(chosen.runs, chosen.rows, chosen.batch, found)
    print(page)
    if chosen.out is not None:
        chosen.out.write_text(page)


if __name__ == "__main__":
    main()
