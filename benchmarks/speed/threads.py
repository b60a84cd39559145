"""What a second thread brings on a batch of restarts."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numba
import torch

from bayeshmm import messages
from bayeshmm.inference.starts import starting_states
from bayeshmm.inference.variational import CoordinateAscent
from benchmarks.speed.contenders.bayeshmm import chain, model
from benchmarks.speed.problem import problem
from benchmarks.speed.results import Scaling
from benchmarks.speed.sizes import MAIN
from benchmarks.speed.timing import interleaved
from benchmarks.speed.works import Work

RESTARTS = 64

SECONDS, QUICK_SECONDS = 5.0, 0.5


def measure(quick: bool) -> list[Scaling]:
    """Time messages and sweeps of `RESTARTS` restarts on one thread and on two, in turns."""
    print(f"threads: {RESTARTS} restarts", file=sys.stderr, flush=True)
    data = problem(MAIN)
    initial, transition, rows = chain(data)
    # each restart has its own rows, as it has its own parameters
    factors = torch.linspace(0.5, 1.0, RESTARTS, dtype=torch.float64)
    inputs = initial, transition, rows * factors[:, None, None, None]
    hmm = model(data)
    _, encoded = hmm.encode(data.runs)
    starts = starting_states(encoded.design, MAIN.states, RESTARTS, seed=0)
    ascent = CoordinateAscent(hmm.prior(data.runs), encoded, starts)
    works: dict[str, Callable[[], object]] = {
        Work.LOG_MARGINAL.value: lambda: messages.log_marginal(*inputs),
        Work.COUNTS.value: lambda: messages.expected_counts(*inputs),
        "VI sweep": ascent.sweep,
    }
    calls = [on_threads(count, call) for call in works.values() for count in (1, 2)]
    seconds = interleaved(calls, QUICK_SECONDS if quick else SECONDS)
    pairs = zip(seconds[::2], seconds[1::2], strict=True)
    return [Scaling(name, *pair) for name, pair in zip(works, pairs, strict=True)]


def on_threads(count: int, call: Callable[[], object]) -> Callable[[], object]:
    """`call` with so many threads in compiled code and in torch."""

    def limited() -> object:
        torch.set_num_threads(count)
        numba.set_num_threads(count)
        return call()

    return limited
