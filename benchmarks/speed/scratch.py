"""Peak memory of the messages beyond their inputs and results, as the operating system sees it."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bayeshmm import messages
from benchmarks.speed.contenders.bayeshmm import DWELLS, chain
from benchmarks.speed.problem import problem
from benchmarks.speed.results import Scratch
from benchmarks.speed.sizes import MAIN
from benchmarks.speed.works import Work

PROCESS = Path("/proc/self")

MMAP_THRESHOLD = -3
"""Parameter of ``mallopt``: from how many bytes on memory is the system's own again once freed."""

FUNCTIONS: dict[Work, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    Work.LOG_MARGINAL: messages.log_marginal,
    Work.COUNTS: messages.expected_counts,
    Work.VITERBI: messages.viterbi,
    Work.FILTER: messages.filter,
}


def measure(quick: bool) -> list[Scratch]:
    """Measure every function with every minimum dwell, on a few long runs and one thread."""
    size = replace(MAIN, runs=3, rows=20_000 if quick else 100_000, metrics=3, states=12)
    print(f"scratch memory: {size}", file=sys.stderr, flush=True)
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 16)
    small, large = chain(problem(MAIN)), chain(problem(size))
    found = []
    for work, function in FUNCTIONS.items():
        for dwell in DWELLS:
            function(*small, minimum_dwell=dwell)  # compiled code stays in memory
            peak = extra_bytes(partial(function, *large, minimum_dwell=dwell))
            arrays = None if peak is None else peak / (8 * size.rows * size.states)
            found.append(Scratch(work, dwell, arrays))
    return found


def extra_bytes(call: Callable[[], Tensor | tuple[Tensor, ...]]) -> int | None:
    """Peak of the resident memory over that before and over the results; None off Linux."""
    if not (PROCESS / "clear_refs").exists():
        return None
    before = _resident("VmRSS")
    (PROCESS / "clear_refs").write_text("5")  # the peak starts anew
    result = call()
    peak = _resident("VmHWM")
    tensors = [result] if isinstance(result, torch.Tensor) else result
    return peak - before - sum(tensor.nbytes for tensor in tensors)


def _resident(field: str) -> int:
    """A field of the process's status, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", (PROCESS / "status").read_text("ascii"))
    return 1024 * int(found[1]) if found else 0
