"""Processes of their own for what is measured: threads have to be limited before libraries load."""

from __future__ import annotations

import importlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

COUNTS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS"),
)
"""Environment variables that libraries read their number of threads from."""

XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def measured(module: str, threads: int, quick: bool) -> Any:
    """``module.measure(quick)``, in a fresh process with so many threads on as many cores.

    Parameters
    ----------
    module
        Dotted name. It is imported in that process only.
    threads
        1 for the comparisons; more for what threads bring.
    quick
        See `benchmarks.speed`.
    """
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=_limit, initargs=(threads,)
    ) as pool:
        return pool.submit(_measure, module, quick).result()


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _limit(threads: int) -> None:
    if "numpy" in sys.modules:
        raise RuntimeError("libraries were loaded before their threads could be limited")
    os.environ.update(dict.fromkeys(COUNTS, str(threads)))
    if threads == 1:
        os.environ["XLA_FLAGS"] = XLA_FLAGS
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[-threads:])


def _measure(module: str, quick: bool) -> Any:
    return importlib.import_module(module).measure(quick)
