"""Densities of runs as averages over posterior draws: for models without conjugate updates."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import logsumexp

from bayeshmm.inference.importance import RELIABLE, ApproximationWarning, smoothed
from bayeshmm.inference_data import run_log_likelihoods
from bayeshmm.runs import Runs

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior


def averaged_density(posterior: Posterior, runs: Runs, known: NDArray[np.bool_]) -> xr.DataArray:
    """Log posterior predictive density of whole runs: see `Posterior.log_density`.

    New runs: the log of the mean density, whose weights k-hat is that of. Known runs: the density
    given the other runs, each weighed out of the draws by Pareto-smoothed importance sampling.
    """
    log_densities = run_log_likelihoods(posterior, runs)
    efficiency = 1.0
    if posterior.draws.chains > 1:
        efficiency = min(1.0, posterior.diagnostics["effective_draws"] / len(log_densities))
    values, k_hats = np.empty(len(runs)), np.empty(len(runs))
    for n, log in enumerate(log_densities.T):
        weights, k_hats[n] = smoothed(-log if known[n] else log, efficiency)
        values[n] = logsumexp(log, b=weights if known[n] else 1.0 / len(log))
    if (k_hats > RELIABLE).any():
        doubtful = [runs.names[n] for n in np.flatnonzero(k_hats > RELIABLE)]
        warnings.warn(
            f"the density of {len(doubtful)} runs rests on too few draws (k-hat above {RELIABLE}): "
            f"{', '.join(doubtful[:5])}{', ...' if len(doubtful) > 5 else ''}. Fit to more runs, "
            "take more draws (draws=), or leave these runs out of the fit and score them as new.",
            ApproximationWarning,
            stacklevel=3,
        )
    return xr.DataArray(
        values,
        coords={"run": list(runs.names), "k_hat": ("run", k_hats)},
        dims="run",
        name="log_density",
        attrs={
            "method": "average over draws",
            "shortcut": [runs.names[n] for n in np.flatnonzero(known)],
        },
    )
