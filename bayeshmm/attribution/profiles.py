"""What each phase is: where its metrics lie, where they go, and how noisily."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bayeshmm.attribution.row_laws import RowLaws, data_units, persistence
from bayeshmm.decoding import some_draws
from bayeshmm.nested import take

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

Array = NDArray[np.float64]

DRAWS = 100
"""Posterior draws that are looked at, at most."""


def phase_profiles(posterior: Posterior, level: float = 0.9) -> pd.DataFrame:
    """What each phase is: level, drift, persistence and noise of every metric.

    Parameters
    ----------
    level
        Probability content of the intervals.

    Returns
    -------
    DataFrame
        A row per ``state`` and ``metric``: median over draws of

        * ``level``: mean of the metric over the rows of the phase (of a model of levels, of its
          law); the geometric mean if its logarithm is modelled (``log=``);
        * ``drift``: mean over these rows of the expected increment per training step, which
          outliers do not move where noise is Student-t;
        * ``persistence``: sum of the autoregressive coefficients, 1 where the metric is not
          drawn back to any level;
        * ``noise``: standard deviation of a row's noise (its scale, where that is Student-t);

        each with ``_lower`` and ``_upper``. Drift and noise are those of the logarithm where that
        is modelled. A model of levels has neither drift nor persistence.

    Raises
    ------
    ValueError
        If `level` is not within (0, 1), or the emission is a user's own.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1.")
    _ = posterior.variational  # which an emission of a user's own has not, and says so
    quantities = _draws(posterior, some_draws(len(posterior.paths), DRAWS).numpy())
    scaling = posterior.encoding.scaling
    index = pd.MultiIndex.from_product(
        [posterior.state_names, posterior.metrics], names=["state", "metric"]
    )
    table = pd.DataFrame(index=index)
    for name, values in quantities.items():
        by_user = values[..., np.argsort(scaling.order)]
        by_user = scaling.unlogged(by_user) if name == "level" else by_user
        table = table.assign(**interval(name, by_user.reshape(len(values), -1), level))
    table = table.reset_index()
    table.attrs = {
        "level": level,
        "units": "level and noise are in the units of the metric, drift in these per training "
        "step; drift and noise of a metric under log= are those of its logarithm",
    }
    return table


def _draws(posterior: Posterior, draws: NDArray[np.int64]) -> dict[str, Array]:
    """Draws of every quantity, (S, K, D), metrics in model order, logarithms as they are."""
    scaling, dynamic = posterior.encoding.scaling, posterior.hmm.dynamic
    design = posterior.encoding.encode(posterior.runs).design
    laws = RowLaws.of(design, take(posterior.draws.law, torch.from_numpy(draws)))
    run, row = np.nonzero(posterior.runs.steps >= 0)
    values = scaling.logged(posterior.runs)[run, row][:, scaling.order]
    unit, elapsed = (part[run, row] for part in data_units(posterior))
    levels, drifts = [], []
    for s, paths in enumerate(posterior.paths[draws]):
        state = paths[run, row].astype(np.int64)
        at = (torch.full((len(run),), s), *map(torch.from_numpy, (state, run, row)))
        moved = laws.mean(*at).numpy() * unit
        seen = values if dynamic else moved + scaling.mean[scaling.order]
        levels.append(mean_by(state, seen, posterior.states))
        drifts.append(mean_by(state, moved / elapsed, posterior.states))
    noise = laws.covariance.diagonal(dim1=-2, dim2=-1).sqrt().numpy()
    typical = scaling.sd * (scaling.increment if dynamic else 1.0)
    law = {"noise": noise * typical[scaling.order]}
    if dynamic:
        law = {"drift": np.stack(drifts), "persistence": persistence(posterior, laws), **law}
    return {"level": np.stack(levels), **law}


def mean_by(group: NDArray[np.int64], values: Array, groups: int) -> Array:
    """Means of the rows of `values` in group 0, 1, ...; NaN is passed over, and where none is."""
    means = pd.DataFrame(values).groupby(group).mean()
    return means.reindex(range(groups)).to_numpy()


def interval(name: str, draws: Array, level: float) -> dict[str, Array]:
    """Median and equal-tailed interval over draws, (S, ...); NaN is passed over."""
    tails = [0.5, (1 - level) / 2, (1 + level) / 2]
    columns = pd.DataFrame(draws).quantile(tails).to_numpy()
    return dict(zip([name, f"{name}_lower", f"{name}_upper"], columns, strict=True))
