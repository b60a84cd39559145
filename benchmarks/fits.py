"""Sweeps of every family, whole fits, and a search over state counts against hmmlearn's EM.

``python -m benchmarks.fits [--starts 32] [--out benchmarks/fits.md]``. The data are those of
`benchmarks.speed` at its main size; one thread. With fewer ``--starts`` hmmlearn makes fewer fits,
and its time is scaled to 32 starts, which the table says.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import bayeshmm as bh
from bayeshmm.comparison.scoring import plug_in
from bayeshmm.hmm import run_log_densities
from bayeshmm.inference import gibbs
from bayeshmm.inference.search import search
from bayeshmm.inference.starts import starting_states
from bayeshmm.inference.threads import one_thread
from bayeshmm.inference.variational import CoordinateAscent
from benchmarks.speed.machine import machine, versions
from benchmarks.speed.problem import Problem, problem
from benchmarks.speed.sizes import MAIN

STARTS = 32
STATES = range(1, 9)
PLAIN = {"noise": "normal", "run_effects": False}
FAMILIES: dict[str, bh.Emission] = {
    "levels, normal": bh.Gaussian(**PLAIN),
    "levels, the default": bh.Gaussian(),
    "last value and 4 lags, normal": bh.Autoregressive(lags=5, **PLAIN),
    "last value and 4 averages, normal": bh.Autoregressive(
        lags=1, half_lives=(3, 10, 30, 100), **PLAIN
    ),
    "last value and 4 lags, the default": bh.Autoregressive(lags=5),
    "last value and 4 lags, coupled": bh.Autoregressive(lags=5, coupling="full"),
}
CLAIMS = {
    "levels, normal": (5.0, 6.0),
    "last value and 4 lags, normal": (25.0, 14.0),
    "last value and 4 averages, normal": (25.0, 14.0),
}
"""Milliseconds that a sweep of VI and of Gibbs may take."""

LONGEST_FIT = 90.0
"""Seconds that the default fit may take."""

FASTER = 20.0
"""Times by which the search over state counts is to be faster than hmmlearn's."""


@dataclass(frozen=True)
class Sweeps:
    """Milliseconds a sweep: VI from one start, from 16, Gibbs with one chain, and with 4."""

    one: float
    sixteen: float
    chain: float
    four: float


def quickest(run: Callable[[], object], seconds: float = 1.0) -> float:
    """Shortest time of a call in milliseconds, over repeats for so long."""
    run()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


@one_thread()
def sweeps(data: Problem, family: bh.Emission) -> Sweeps:
    """Time the sweeps of a family."""
    K = data.size.states
    hmm = bh.HMM(K, family, minimum_dwell=10 if family.dynamic else 1)
    prior, (_, encoded) = hmm.prior(data.runs), hmm.encode(data.runs)
    times = []
    for starts in (1, 16):
        states = starting_states(encoded.design, K, starts, seed=0)
        ascent = CoordinateAscent(prior, encoded, states)
        ascent.run(3)
        times.append(quickest(ascent.sweep))
    fit = ascent.fit(0)
    for chains in (1, 4):
        generator = torch.Generator().manual_seed(0)
        state = gibbs.start(fit, chains, generator)

        def sweep(state: gibbs.State = state, stream: torch.Generator = generator) -> gibbs.State:
            return gibbs.sweep(prior, encoded, state, stream)

        times.append(quickest(sweep))
    return Sweeps(*times)


def default_fit(data: Problem) -> float:
    """Seconds of `bayeshmm.fit` with its defaults."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bh.fit(data.runs, data.size.states, progress=False)
    return time.perf_counter() - start


@one_thread()
def our_search(data: Problem) -> tuple[float, list[float]]:
    """Seconds of 32 starts for each number of states, and the log likelihoods at the modes."""
    start, best = time.perf_counter(), []
    for K in STATES:
        hmm = bh.HMM(K, FAMILIES["levels, normal"], minimum_dwell=1)
        _, encoded = hmm.encode(data.runs)
        mode, _ = search(hmm.prior(data.runs), encoded, STARTS, seed=0)
        law, chain = plug_in(mode), mode.parameters.chain.mean
        best.append(float(run_log_densities(encoded, law, chain, 1).sum()))
    return time.perf_counter() - start, best


def peer_search(data: Problem, starts: int) -> tuple[float, list[float]]:
    """Seconds of `starts` fits of hmmlearn for each number of states, and its best likelihoods."""
    from hmmlearn.hmm import GaussianHMM

    logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # each fit that does not converge
    rows = data.values.reshape(-1, data.size.metrics)
    lengths = [data.size.rows] * data.size.runs
    start, best = time.perf_counter(), []
    for K in STATES:
        scores = []
        for seed in range(starts):
            model = GaussianHMM(K, "full", n_iter=100, random_state=seed).fit(rows, lengths)
            scores.append(model.score(rows, lengths))
        best.append(max(scores))
    return time.perf_counter() - start, best


def report(data: Problem, starts: int) -> tuple[str, bool]:
    """The tables, and whether all claims hold."""
    lines = [
        "# Sweeps, fits and searches",
        "",
        f"`python -m benchmarks.fits` repeats this. {data.size}; one thread; {machine()}.",
        f"{versions()}.",
        "",
        "Milliseconds a sweep; in brackets what it may take.",
        "",
        "| family | VI, 1 start | VI, 16 starts | Gibbs, 1 chain | Gibbs, 4 chains |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    held = True
    for name, family in FAMILIES.items():
        found = sweeps(data, family)
        vi, chain = CLAIMS.get(name, (np.inf, np.inf))
        held &= found.one <= vi and found.chain <= chain
        limits = [f" ({limit:g})" if np.isfinite(limit) else "" for limit in (vi, chain)]
        lines.append(
            f"| {name} | {found.one:.1f}{limits[0]} | {found.sixteen:.0f} "
            f"| {found.chain:.1f}{limits[1]} | {found.four:.1f} |"
        )
        print(lines[-1], flush=True)
    seconds = default_fit(data)
    held &= seconds <= LONGEST_FIT
    lines += ["", f"The default fit (16 starts, 1000 draws): {seconds:.0f} s ({LONGEST_FIT:g})."]
    print(lines[-1], flush=True)
    ours, likelihoods = our_search(data)
    theirs, best = peer_search(data, starts)
    ratio = theirs * STARTS / starts / ours
    better = [a - b for a, b in zip(likelihoods, best, strict=True)]
    scaled = "" if starts == STARTS else f", scaled from {starts} starts"
    lines += [
        "",
        f"{STARTS} starts for each of 1 to 8 states, levels with full covariances: {ours:.1f} s; "
        f"hmmlearn's EM {theirs * STARTS / starts:.0f} s{scaled}: {ratio:.1f} times as long "
        f"({FASTER:g}). Log likelihood at our posterior means less hmmlearn's best, for 1 to 8 "
        f"states: {', '.join(f'{gap:.1f}' for gap in better)}.",
        "",
    ]
    print(lines[-2], flush=True)
    return "\n".join(lines), held and ratio >= FASTER


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: see `benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fits")
    parser.add_argument("--starts", type=int, default=STARTS, help="starts of hmmlearn")
    parser.add_argument("--out", type=Path, help="a Markdown file for the tables")
    chosen = parser.parse_args(arguments)
    try:
        import hmmlearn  # noqa: F401
    except ImportError:
        print("hmmlearn is absent: pip install '.[benchmark]'", file=sys.stderr)
        return 2
    text, held = report(problem(MAIN), chosen.starts)
    if chosen.out is not None:
        chosen.out.write_text(text, "utf-8")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
