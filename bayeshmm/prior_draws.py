"""Draws from the prior of a model: what it believes before any run is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bayeshmm.runs import Runs
from bayeshmm.simulation import draw_parameters, draw_paths, draw_rows

if TYPE_CHECKING:
    from bayeshmm.hmm import HMM

Array = NDArray[np.float64]


class PriorDraws(NamedTuple):
    """One metric under parameters drawn from the prior, in the units that the model gives it.

    Those are the pooled root mean square of the increments of a metric, or its pooled standard
    deviation where phases are levels.

    Attributes
    ----------
    values, paths
        Of simulated runs, each with parameters of its own, (runs, rows). A run that outgrows
        double precision is infinite from there on.
    coefficients
        Over the noise, (draws, K, P).
    run_effects
        The same, (draws, K), or None.
    noise
        Standard deviation of a row's noise, (draws, K).
    visits
        Length of a visit to a phase, in rows, (draws, K); infinite where there is one phase.
    degrees
        Degrees of freedom of Student-t noise, (draws,), or None.
    """

    values: Array
    paths: NDArray[np.int64]
    coefficients: Array
    run_effects: Array | None
    noise: Array
    visits: Array
    degrees: Array | None


def prior_draws(hmm: HMM, rows: int, runs: int, draws: int, seed: int) -> PriorDraws:
    """Draw parameters, and one run from each of the first of them.

    Parameters
    ----------
    hmm
        The model.
    rows, runs
        How long the runs are, a row a step, and how many.
    draws
        Of the parameters, at least `runs`.
    seed
        Same seed, same draws.
    """
    lengths = np.array([rows])
    blank = pd.DataFrame({"run": "prior", "step": np.arange(rows), "metric": 0.0})
    prior = hmm.prior(Runs.from_dataframe(blank, metrics=["metric"]))
    generator = torch.Generator().manual_seed(seed)
    drawn = [draw_parameters(prior, 1, generator) for _ in range(draws)]
    values, paths = np.empty((runs, rows)), np.empty((runs, rows), dtype=np.int64)
    for n, parameters in enumerate(drawn[:runs]):
        path = draw_paths(parameters.chain, lengths, prior.minimum_dwell, generator)
        values[n] = _grown(draw_rows(hmm.family, parameters, path, generator)[0, :, 0])
        paths[n] = path[0]
    noise = torch.cat([one.law.precision.rsqrt()[..., 0] for one in drawn])
    coefficients = torch.cat([one.law.coefficients[:, :, 0] for one in drawn]) / noise[..., None]
    effects = [one.law.effects.mean[..., 0] for one in drawn if one.law.effects is not None]
    degrees = [one.law.tail.degrees for one in drawn if one.law.tail is not None]
    log_exits = torch.cat([one.chain.log_exits for one in drawn])
    uniform = torch.rand(noise.shape, dtype=torch.float64, generator=generator)
    beyond = (uniform.log() / log_exits[..., 1]).abs().floor()  # a stay may be certain: log 1 = 0
    return PriorDraws(
        values,
        paths,
        coefficients.numpy(),
        (torch.cat(effects) / noise).numpy() if effects else None,
        noise.numpy(),
        (prior.minimum_dwell + beyond).numpy()
        if prior.transition.states > 1
        else np.full(noise.shape, np.inf),
        torch.cat(degrees).numpy() if degrees else None,
    )


def _grown(values: Array) -> Array:
    """Values that are infinite, with the last sign seen, once they are not numbers."""
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        first = broken[0]
        values[first:] = np.copysign(np.inf, values[first - 1])
    return values
