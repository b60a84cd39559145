"""The search for a mode on some of many runs."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from bayeshmm.encoding import Encoded
from bayeshmm.hmm import Prior
from bayeshmm.inference.search import refine, search
from bayeshmm.inference.threads import one_thread
from bayeshmm.inference.variational import VariationalFit, expectation

FEWEST = 40
"""Runs that a mode is searched on, at least."""

SWEEPS = 20
"""Sweeps over all runs once it is found."""


def some_runs(runs: int, size: int | None, seed: int) -> Tensor | None:
    """Indices of at least `size` of the runs, by chance; None for all."""
    if size is None or runs <= max(size, FEWEST):
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(runs, generator=generator)[: max(size, FEWEST)]


@one_thread()
def search_some(
    prior: Prior, data: Encoded, starts: int, seed: int, size: int | None, progress: bool = False
) -> tuple[VariationalFit, pd.DataFrame]:
    """Search the mode on at least `size` of the runs, and carry it over to all by a few sweeps.

    Parameters
    ----------
    prior, data, starts, seed, progress
        As in `bayeshmm.inference.search.search`.
    size
        Runs to search on; None: all.

    Returns
    -------
    fit
        To all runs.
    restarts
        Of the search.
    """
    some = some_runs(len(data.lengths), size, seed)
    if some is None:
        return search(prior, data, starts, seed, progress)
    fit, restarts = search(prior, data.take(some), starts, seed, progress)
    parameters = fit.parameters
    regression = parameters.regression
    if regression.runs is not None:
        regression = regression.widened(parameters.shrinkage.expected.groups[..., -1])
    law = prior.law(regression.law, parameters.tail)
    step = expectation(data, law, parameters.chain.expected_log, prior.minimum_dwell, False)
    return refine(prior, data, step.states, SWEEPS), restarts
