"""Runs simulated from a model's own prior, with the truth behind them.

The definition of the model, row by row, and none of the arithmetic that infers it: what
calibration is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeshmm.emissions.conjugate import standard_gamma
from bayeshmm.emissions.families import Autoregressive, Emission
from bayeshmm.emissions.features import Memory
from bayeshmm.emissions.law import Effects, Law
from bayeshmm.emissions.regression import Precisions, RegressionPrior
from bayeshmm.runs import Runs
from bayeshmm.transitions import Chain

if TYPE_CHECKING:
    from bayeshmm.hmm import HMM, Prior

Array = NDArray[np.float64]


class Parameters(NamedTuple):
    """The parameters that runs were simulated from, in the units of the data.

    Attributes
    ----------
    law
        Coefficients (1, K, D, R), variances (1, K, D), run effects (N, K, D) and degrees of
        freedom (1,). Coefficients that an equation does not have are 0.
    precisions
        Hyper-parameters ``lambda`` (1, G) and ``psi`` (1, D) of the regressions.
    chain
        Initial law (1, K) and transition matrix of the rows past the minimum dwell (1, K, K).
    exit_mean, exit_concentration, jump_concentration
        Hyper-parameters of the chain, points of the grid that inference has them on.
    entry, entry_precisions
        The law of the first values of a dynamic family, of one state; None for levels.
    """

    law: Law
    precisions: Precisions
    chain: Chain
    exit_mean: float
    exit_concentration: float
    jump_concentration: float
    entry: Law | None
    entry_precisions: Precisions | None


class Simulation(NamedTuple):
    """Simulated runs and the truth behind them.

    Attributes
    ----------
    runs
        The data: runs ``run-0, run-1, ...``, their first row at step 0.
    parameters
        What they were drawn from.
    paths
        State of every row, (N, T); -1 beyond the end of a run.
    """

    runs: Runs
    parameters: Parameters
    paths: NDArray[np.int64]


def simulate(
    hmm: HMM,
    lengths: Sequence[int],
    seed: int,
    *,
    metrics: int | Sequence[str] = 2,
    step_gap: int = 1,
) -> Simulation:
    """Simulate runs from the prior of a model, hyper-parameters first.

    Rows are in the model's own units, which are those of the data: standard deviations, sizes of
    increments and of features are all taken as 1.

    Parameters
    ----------
    hmm
        The model. The default hyper-priors are heavy-tailed, and simulated values vary by many
        orders of magnitude; give tame ones, ``Hyperpriors(noise_shape=3, scale=(5, 50),
        shrinkage=(5, 0.5))``, where they shall be moderate.
    lengths
        Rows of each run.
    seed
        Same seed, same runs.
    metrics
        Their number, or their names.
    step_gap
        Training steps between rows.

    Raises
    ------
    ValueError
        If values grow beyond all numbers, naming the run, the row and the remedy; if an argument
        is no such thing; or if the emission is not `Gaussian` or `Autoregressive`.
    """
    runs = _blank(lengths, metrics, step_gap)
    prior = hmm.prior(runs)
    generator = torch.Generator().manual_seed(seed)
    parameters = draw_parameters(prior, len(runs), generator)
    paths = draw_paths(parameters.chain, runs.lengths, prior.minimum_dwell, generator)
    values = draw_rows(hmm.family, parameters, paths, generator)
    broken = ~np.isfinite(values).all(-1) & (paths >= 0)
    if broken.any():
        run = int(broken.any(1).argmax())
        raise ValueError(
            f"run {runs.names[run]!r} grew beyond all numbers by row {int(broken[run].argmax())}: "
            "the law that was drawn explodes, as the heavy tails of the default hyper-priors let "
            "it. Give tame ones, emission=Autoregressive(hyperpriors=Hyperpriors(noise_shape=3, "
            "scale=(5, 50), shrinkage=(5, 0.5))), shorter runs, or another seed."
        )
    return Simulation(replace(runs, recorded=values), parameters, paths)


def draw_parameters(prior: Prior, runs: int, generator: torch.Generator) -> Parameters:
    """Draw hyper-parameters, then the parameters of `runs` runs given them."""
    law, precisions = _draw_regression(prior.regression, runs, generator)
    if prior.tail is not None:
        law = law._replace(tail=prior.tail.drawn(prior.tail.law((1,)), generator))
    entry = entry_precisions = None
    if prior.entry is not None:
        entry, entry_precisions = _draw_regression(prior.entry, runs, generator)
    transition = prior.transition
    chain_law = transition.prior_law(transition.grid_point(transition.grid((1,)), generator))
    exits, jumps = chain_law.exit[0, 0], chain_law.jump[0, 0]
    return Parameters(
        law,
        precisions,
        chain_law.sample(generator),
        exit_mean=float(exits[0] / exits.sum()),
        exit_concentration=float(exits.sum()),
        jump_concentration=float(jumps.sum()),
        entry=entry,
        entry_precisions=entry_precisions,
    )


def draw_paths(
    chain: Chain, lengths: NDArray[np.int64], minimum_dwell: int, generator: torch.Generator
) -> NDArray[np.int64]:
    """States of every row, (N, T): the first visit owes its full dwell, the last is cut short."""
    N, T = len(lengths), int(lengths.max())
    within = np.arange(T) < lengths[:, None]
    stay = chain.transition[0].expand(N, -1, -1)
    state = torch.multinomial(chain.initial.expand(N, -1), 1, True, generator=generator)
    age = torch.ones_like(state)
    paths = torch.empty(N, T, dtype=torch.int64)
    for t in range(T):
        paths[:, t] = state[:, 0]
        law = stay.gather(1, state[..., None].expand(-1, -1, stay.shape[-1]))[:, 0]
        drawn = torch.multinomial(law, 1, True, generator=generator)
        new = torch.where(age >= minimum_dwell, drawn, state)
        age = torch.where(new == state, age + 1, 1)
        state = new
    return np.where(within, paths.numpy(), -1)


def draw_rows(
    family: Emission,
    parameters: Parameters,
    paths: NDArray[np.int64],
    generator: torch.Generator,
) -> Array:
    """Values of every row, (N, T, D): NaN beyond the end of a run."""
    (N, T), D = paths.shape, parameters.law.precision.shape[-1]
    noise = torch.randn(N, T, D, dtype=torch.float64, generator=generator)
    if parameters.law.tail is not None:
        half = 0.5 * parameters.law.tail.degrees.expand(N, T)
        noise = noise / (standard_gamma(half, generator) / half).sqrt()[..., None]
    law = parameters.law.by_run()
    coefficients = law.coefficients.expand(N, -1, -1, -1).numpy()
    deviation = law.precision.rsqrt()[0].numpy()
    first = None
    if parameters.entry is not None:
        first_noise = torch.randn(N, D, dtype=torch.float64, generator=generator)
        entry = parameters.entry
        first = _responses(
            entry.coefficients[0].numpy(),
            np.ones((N, D, 1)),
            (entry.precision.rsqrt()[0] * first_noise).numpy(),
        )
    memory = _memory(family, (N, D))
    values = np.full((N, T, D), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(T):
            state = paths[:, t]
            if first is not None and t == 0:
                row = first
            else:
                reference, past = _past(memory, (N, D), family.coupling == "full")
                own = coefficients[np.arange(N), state]
                row = reference + _responses(own, past, deviation[state] * noise[:, t].numpy())
            values[:, t] = np.where(state[:, None] >= 0, row, np.nan)
            if memory is not None:
                memory.observe(values[:, t])
    return values


def _blank(lengths: Sequence[int], metrics: int | Sequence[str], step_gap: int) -> Runs:
    """Runs of these lengths, all of whose values are 0."""
    rows = [int(length) for length in lengths]
    if not rows or min(rows) < 1 or any(a != b for a, b in zip(rows, lengths, strict=True)):
        raise ValueError(f"lengths must be the rows of each run, at least 1, not {lengths!r}.")
    if isinstance(metrics, int | np.integer):
        names = [f"metric-{j}" for j in range(metrics)]
    else:
        names = [metrics] if isinstance(metrics, str) else list(metrics)
    if not names:
        raise ValueError(f"metrics={metrics!r}: give their number, at least 1, or their names.")
    if step_gap < 1 or int(step_gap) != step_gap:
        raise ValueError(f"step_gap must be a whole number of steps, at least 1, not {step_gap!r}.")
    frame = pd.DataFrame({name: np.zeros(sum(rows)) for name in names})
    frame.insert(0, "step", int(step_gap) * np.concatenate([np.arange(n) for n in rows]))
    frame.insert(0, "run", np.repeat([f"run-{n}" for n in range(len(rows))], rows))
    return Runs.from_dataframe(frame, metrics=names)


def _draw_regression(
    prior: RegressionPrior, runs: int, generator: torch.Generator
) -> tuple[Law, Precisions]:
    """Draw the regressions of every state, and the effects of `runs` runs on them."""
    shape = (1, prior.states, prior.layout.metrics)
    precisions = prior.shrinkage((1,)).sample(generator)
    rate = 0.5 * precisions.scales[:, None, :]
    precision = standard_gamma(prior.shapes.expand(shape), generator) / rate

    def normal(*size: int) -> Tensor:
        return torch.randn(size, dtype=torch.float64, generator=generator)

    spread = (prior.expand(precisions)[:, None] * precision[..., None]).rsqrt()
    coefficients = normal(*spread.shape) * spread * prior.layout.active
    effects = None
    if prior.layout.run_effects:
        own = (precisions.groups[0, -1] * precision).rsqrt()
        effects = Effects(normal(runs, *shape[1:]) * own)
    return Law(coefficients, precision, -precision.log(), effects=effects), precisions


def _memory(family: Emission, shape: tuple[int, int]) -> Memory | None:
    """What `family` remembers of the past; None for levels."""
    if isinstance(family, Autoregressive):
        return Memory(shape, family.lags, family.half_lives)
    if family.dynamic:
        raise ValueError(
            f"{family!r} cannot be simulated: only Gaussian(...) and Autoregressive(...) can."
        )
    return None


def _past(memory: Memory | None, shape: tuple[int, int], coupled: bool) -> tuple[Array, Array]:
    """Reference (N, D) and past regressors (N, D, P) of the next row."""
    constant = np.ones((*shape, 1))
    if memory is None:
        return np.zeros(shape), constant
    features = memory.features()
    if coupled:
        every = features.reshape(shape[0], 1, -1)
        features = np.broadcast_to(every, (*shape, every.shape[-1]))
    return memory.reference, np.concatenate([constant, features], axis=-1)


def _responses(coefficients: Array, past: Array, noise: Array) -> Array:
    """Responses (N, D) of a row, each given the past and those before it."""
    P = past.shape[-1]
    response = (coefficients[..., :P] * past).sum(-1) + noise
    for j in range(1, response.shape[-1]):
        contrasts = coefficients[:, j, P : P + j]
        response[:, j] += (contrasts * response[:, : contrasts.shape[-1]]).sum(-1)
    return response
