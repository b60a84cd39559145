"""How the preferred number of phases depends on how much each run is believed.

Where no family is quite right, every further run asks for further phases that mend the misfit. With
a likelihood raised to a power below one, differences too small to matter are no longer seen (the
coarsened posterior of Miller and Dunson, 2019, JASA 114): phases that remain stand for something
large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from bayeshmm.comparison.scoring import Candidate
from bayeshmm.inference.search import refine
from bayeshmm.runs import Runs

WEIGHTS = (1.0, 0.3, 0.1, 0.03)
"""How many times each run counts."""


def tempering_curve(
    runs: Runs,
    candidates: Mapping[tuple[str, int], Candidate],
    weights: Sequence[float] = WEIGHTS,
    progress: bool = True,
) -> pd.DataFrame:
    """Evidence bound of every candidate where each run counts less than once.

    Parameters
    ----------
    runs
        The data.
    candidates
        Fitted models by (emission, states); each is refitted from its mode.
    weights
        Powers of the likelihood, in (0, 1].
    progress
        Whether to show a bar.

    Returns
    -------
    DataFrame
        Indexed as `candidates`, a column for each weight: the bound less that of the family's best,
        in nats; 0 marks the number of states that the weight prefers.

    Raises
    ------
    ValueError
        If a weight is not in (0, 1].
    """
    if not weights or not all(0.0 < weight <= 1.0 for weight in weights):
        raise ValueError(f"weights={weights!r} must be numbers above 0, and at most 1.")
    curve = pd.DataFrame(
        np.nan,
        index=pd.MultiIndex.from_tuples(candidates),
        columns=pd.Index(weights, name="weight"),
    )
    curve.index.names = ["emission", "states"]
    for key, one in tqdm(candidates.items(), desc="models", disable=not progress):
        data = one.encoding.encode(runs)
        for weight in weights:
            fit = refine(one.mode.prior, data, one.mode.states, weight=weight)
            occupied = int((weight * fit.states.sum((0, 1)) > 0.5).sum())
            curve.loc[key, weight] = fit.bound + fit.prior.transition.label_symmetries(occupied)
    curve = curve - curve.groupby("emission").transform("max")
    curve.attrs["units"] = "nats, less the family's best at this weight"
    return curve
