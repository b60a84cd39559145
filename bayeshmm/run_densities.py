"""Log posterior predictive density of whole runs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import logsumexp

from bayeshmm import decoding
from bayeshmm.inference.importance import RELIABLE, ApproximationWarning, smoothed
from bayeshmm.inference.predictive import predict
from bayeshmm.inference_data import run_log_likelihoods
from bayeshmm.runs import Runs

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior


def log_density(posterior: Posterior, runs: Runs) -> xr.DataArray:
    """Log posterior predictive density of whole runs, in the units of the data.

    The posterior is updated on each run by itself: a deterministic lower bound, tight to a
    small fraction of a nat a row, where averages over draws are nats a row too low.

    With an emission of a user's own it is such an average all the same: ``attrs["method"]``
    says so, the coordinate ``k_hat`` says where it is not to be believed (above 0.7), and known
    runs are weighed out of the draws.

    Parameters
    ----------
    runs
        New runs. Runs that were fitted are allowed as a shortcut: each is scored by the
        posterior less its own statistics, without a refit; ``attrs["shortcut"]`` names them.

    Returns
    -------
    DataArray
        Over run.

    Warns
    -----
    ApproximationWarning
        Where an average over draws is not to be believed.
    """
    runs = posterior.modelled(runs)
    known = decoding.known_runs(posterior, runs)
    if posterior.mode is None:
        return averaged_density(posterior, runs, known)
    values = np.empty(len(runs))
    if known.any():
        left_out = predict(
            posterior.variational, posterior.encoding.encode(posterior.runs), leave_out=True
        )
        place = [posterior.runs.names.index(runs.names[n]) for n in np.flatnonzero(known)]
        values[known] = left_out.log_density.numpy()[place]
    if not known.all():
        new = runs.subset([runs.names[n] for n in np.flatnonzero(~known)])
        values[~known] = predict(posterior.variational, posterior.encoding.encode(new)).log_density
    return xr.DataArray(
        values,
        coords={"run": list(runs.names)},
        dims="run",
        name="log_density",
        attrs={"method": "updated", "shortcut": [runs.names[n] for n in np.flatnonzero(known)]},
    )


def averaged_density(posterior: Posterior, runs: Runs, known: NDArray[np.bool_]) -> xr.DataArray:
    """Log posterior predictive density of whole runs: for models without conjugate updates.

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
