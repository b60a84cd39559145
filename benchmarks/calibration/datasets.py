"""One simulated data set: its truth, its fit, and where the one lies in the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayeshmm import Autoregressive, Gaussian, Hyperpriors, Runs
from bayeshmm.alignment import match_states
from bayeshmm.emissions.families import Emission, layout
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.regression import Precisions
from bayeshmm.encoding import Encoded, Encoding
from bayeshmm.hmm import HMM
from bayeshmm.inference import engines, gibbs
from bayeshmm.inference.search import search
from bayeshmm.nested import expanded
from bayeshmm.scaling import Scaling
from bayeshmm.simulation import Simulation, simulate
from bayeshmm.transitions import Calendar, Chain, Dirichlet
from benchmarks.calibration.ranks import Array, effective_size, uniform_ranks

STATES, METRICS, DWELL, EXPECTED_DWELL = 3, 2, 2, 12

TAME = {"noise_shape": 2.0, "scale": (5.0, 50.0), "run_effects": (5.0, 0.5)}
"""Phases that overlap, in runs that do not explode."""

LEVELS = Hyperpriors(**TAME, shrinkage=(5.0, 5.0))
MOVING = Hyperpriors(**TAME, shrinkage=(5.0, 0.5))
OUTLIERS = Hyperpriors(**TAME, shrinkage=(5.0, 0.5), degrees=(20.0, 8.0))

DEFAULTS = {"covariance": "full", "noise": "student-t", "run_effects": True}


def moving(half_lives: tuple[float, ...] = (), **settings: object) -> Autoregressive:
    """One lag, and averages."""
    settings = {**DEFAULTS, "hyperpriors": MOVING, **settings}
    return Autoregressive(lags=1, half_lives=half_lives, **settings)


FAMILIES = {
    "levels": Gaussian(**DEFAULTS, hyperpriors=LEVELS),
    "AR(1)": moving(),
    "averages": moving((4.0,)),
}
"""What is simulated and fitted."""

MISSPECIFIED = {
    "AR(1), fitted by itself": (moving(), moving()),
    "AR(1), fitted by averages": (moving(), moving((4.0,))),
    "AR(1), fitted by levels": (moving(), FAMILIES["levels"]),
    "AR(1) with outliers, fitted by itself": (
        moving(hyperpriors=OUTLIERS),
        moving(hyperpriors=OUTLIERS),
    ),
    "AR(1) with outliers, fitted by normal noise": (
        moving(hyperpriors=OUTLIERS),
        moving(noise="normal"),
    ),
}
"""What is simulated, and what is fitted to it."""


class Effort(NamedTuple):
    """Size of the data sets, and the work put into each fit."""

    runs: int = 8
    rows: int = 40
    starts: int = 4
    chains: int = 8
    warmup: int = 80
    sweeps: int = 240


INDEPENDENT = 400
"""Draws of the variational posterior."""

FEWEST = 10
"""Draws that count for a quantity even if all together are worth less."""

Ranks = dict[tuple[str, str], Array]
"""By engine and class of quantities: ranks of one data set, (components, alike)."""


def streams(seed: int) -> list[int]:
    """Seeds of the data, of ties between ranks and of the fit: no stream is used twice."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(3)]


def model(family: Emission) -> HMM:
    """The model of every data set, but for its family."""
    return HMM(STATES, family, Dirichlet(EXPECTED_DWELL), DWELL)


def simulated(family: Emission, effort: Effort, seed: int) -> Simulation:
    """One data set from the prior."""
    return simulate(model(family), [effort.rows] * effort.runs, seed, metrics=METRICS)


def encoded(family: Emission, runs: Runs) -> Encoded:
    """Simulated runs in the units that they were simulated in."""
    one, zero = np.ones(METRICS), np.zeros(METRICS)
    scaling = Scaling(runs.metrics, zero, one, one, zero, np.arange(METRICS))
    features = np.ones((METRICS, len(family.features)))
    return Encoding(family, scaling, features, Calendar(1, 1.0)).encode(runs)


def drawn(family: Emission, runs: Runs, effort: Effort, seed: int) -> dict[str, gibbs.Draws]:
    """Draws of the exact sampler and of the variational posterior, as the library makes them."""
    data, prior = encoded(family, runs), model(family).prior(runs)
    fit, _ = search(prior, data, effort.starts, seed)
    chains, warmup, size = effort.chains, effort.warmup, effort.chains * effort.sweeps
    return {
        "gibbs": gibbs.sample(fit, data, size, chains=chains, warmup=warmup, thin=1, seed=seed),
        "conjugate": engines.variational(fit, data, INDEPENDENT, seed=seed),
    }


def calibrated(family: Emission, effort: Effort, seed: int) -> Ranks:
    """Ranks of every quantity in a fit of the family to data simulated from it."""
    seeds = streams(seed)
    simulation = simulated(family, effort, seeds[0])
    law, precisions, chain, *_ = simulation.parameters
    true = expanded((law, precisions, chain, torch.from_numpy(simulation.paths)), 1)
    here, found, rng = quantities(family, *true), {}, np.random.default_rng(seeds[1])
    for engine, draws in drawn(family, simulation.runs, effort, seeds[2]).items():
        parts = draws.law, draws.precisions, draws.chain, torch.from_numpy(draws.paths).long()
        for name, values in quantities(family, *parts).items():
            found[engine, name] = _ranks(here[name], values, draws.chains, rng)
    return found


def misspecified(truth: Emission, fitted: Emission, effort: Effort, seed: int) -> Ranks:
    """Ranks of entry times in a fit of another family, its states matched to the truth's rows."""
    seeds = streams(seed)
    simulation = simulated(truth, effort, seeds[0])
    paths = simulation.paths
    here = entry_rows(torch.from_numpy(paths)[None]).numpy()
    found, rng = {}, np.random.default_rng(seeds[1])
    for engine, draws in drawn(fitted, simulation.runs, effort, seeds[2]).items():
        shares = np.stack([(draws.paths == k).mean(0) for k in range(STATES)], -1)
        match = match_states(np.eye(STATES)[paths], shares)
        order = torch.from_numpy(match.argsort())
        values = entry_rows(torch.from_numpy(draws.paths).long())[:, order].numpy()
        found[engine, "entry times"] = _ranks(here, values, draws.chains, rng)
    return found


def quantities(
    family: Emission, law: Law, precisions: Precisions, chain: Chain, paths: Tensor
) -> dict[str, Array]:
    """Functions of the parameters and paths that do not depend on the labels of the states.

    In every draw by itself the states are put in the order of their level of the first metric, or
    of the variance of its increments where they are dynamic. The truth is put in the same order,
    and no state is matched to it: ranks are then exactly uniform under the posterior, whatever the
    sampler does about labels.

    Parameters
    ----------
    family
        Of the draws.
    law, precisions, chain, paths
        S draws: see `bayeshmm.inference.gibbs.Draws`.

    Returns
    -------
    dict
        Arrays (S, components, alike) by class.
    """
    key = law.log_variance[:, 0, :, 0] if family.dynamic else law.coefficients[:, 0, :, 0, 0]
    order = key.argsort(-1)
    place = order.argsort(-1)
    ordered = torch.where(
        paths >= 0, place.gather(1, paths.clamp_min(0).flatten(1)).view(paths.shape), -1
    )
    transition = _take(_take(chain.transition, order, 2), order, 3)[:, 0]
    jumps = transition.masked_fill(torch.eye(STATES, dtype=torch.bool), 0.0)
    active = layout(family, METRICS).active
    parts = {
        "transition probabilities": transition.flatten(1),
        "initial probabilities": _take(chain.initial, order, 2).flatten(1),
        "dwell times": DWELL - 1 + 1 / jumps.sum(-1),
        "coefficients": _take(law.coefficients, order, 2)[..., active].flatten(1),
        "variances": _take(law.log_variance, order, 2).flatten(1),
        "shrinkage": precisions.groups.flatten(1),
        "scales": precisions.scales.flatten(1),
        "entry times": entry_rows(ordered),
    }
    if law.effects is not None:
        parts["run effects"] = _take(law.effects.mean, order, 2).flatten(2).transpose(1, 2)
    if law.tail is not None:
        parts["degrees of freedom"] = law.tail.degrees
    return {name: part.view(*part.shape[:2], -1).numpy() for name, part in parts.items()}


def entry_rows(paths: Tensor) -> Tensor:
    """Row in which each run first enters each state, T if never, (S, K, N)."""
    inside = paths[:, None] == torch.arange(STATES)[:, None, None]
    return torch.where(inside.any(-1), inside.int().argmax(-1), paths.shape[-1])


def _ranks(truth: Array, draws: Array, chains: int, rng: np.random.Generator) -> Array:
    """Ranks (components, alike) of one draw, (1, components, alike), among S draws."""
    flat = draws.reshape(len(draws), -1)
    sizes = np.clip(effective_size(flat, chains).astype(np.int64), FEWEST, len(draws))
    return uniform_ranks(truth.ravel(), flat, sizes, rng).reshape(truth.shape[1:])


def _take(values: Tensor, order: Tensor, dim: int) -> Tensor:
    """Put the states, an axis of `values` (S, ...), into the order (S, K) of every draw."""
    shape = [1] * values.ndim
    shape[0], shape[dim] = order.shape
    return torch.take_along_dim(values, order.view(shape), dim)
