"""One thread at a time for the engines' own arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside, and put the numbers of threads back afterwards.

    A sweep is hundreds of operations of a tenth of a millisecond: their threads would wait for one
    another longer than they work, many times longer where the cores are shared. Whole fits in
    parallel processes are the way to use more cores.
    """
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
