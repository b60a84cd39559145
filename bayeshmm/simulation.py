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
from bayeshmm.transitions import Chain, Grouped, Hyper

if TYPE_CHECKING:
    from bayeshmm.hmm import HMM, Prior

Array = NDArray[np.float64]
Steps = Sequence[int] | Sequence[Sequence[int]]
"""Training steps of the rows of all runs, or of each."""


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
        Initial law (1, K) and transition matrix of a base step past the minimum dwell (1, K, K).
    hyper
        Hyper-parameters of the chain by name.
    entry, entry_precisions
        The law of the first values of a dynamic family, of one state; None for levels.
    """

    law: Law
    precisions: Precisions
    chain: Chain
    hyper: Hyper
    entry: Law | None
    entry_precisions: Precisions | None


class Simulation(NamedTuple):
    """Simulated runs and the truth behind them.

    Attributes
    ----------
    runs
        The data: runs ``run-0, run-1, ...``.
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
    steps: Steps | None = None,
) -> Simulation:
    """Simulate runs from the prior of a model, hyper-parameters first; see `HMM.simulate`.

    Rows are in the model's own units, which are those of the data: standard deviations, sizes of
    increments and of features are all taken as 1, and increments do not grow with the gap. The
    default hyper-priors are heavy-tailed, and simulated values vary by many orders of magnitude;
    give tame ones, ``Hyperpriors(noise_shape=3, scale=(5, 50), shrinkage=(5, 0.5))``, where they
    shall be moderate.

    Raises
    ------
    ValueError
        If values grow beyond all numbers, naming the run, the row and the remedy; if an argument
        is no such thing; or if the emission is not `Gaussian` or `Autoregressive`.
    """
    runs = _blank(lengths, metrics, step_gap, steps)
    if isinstance(hmm.transition, Grouped):
        raise ValueError("simulated runs have no conditions: simulate with transition=Dirichlet().")
    prior, calendar = hmm.prior(runs), hmm.calendar(runs)
    gaps = calendar.schedule(runs).gaps
    pace = 1.0 if gaps is None else np.pad(gaps / calendar.gap, ((0, 0), (1, 0)))
    generator = torch.Generator().manual_seed(seed)
    parameters = draw_parameters(prior, len(runs), generator)
    paths = draw_paths(parameters.chain, runs.lengths, prior.minimum_dwell, generator, gaps)
    values = draw_rows(hmm.family, parameters, paths, generator, pace)
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
    chain, hyper = prior.transition.draw(generator)
    return Parameters(law, precisions, chain, hyper, entry, entry_precisions)


def draw_paths(
    chain: Chain,
    lengths: NDArray[np.int64],
    minimum_dwell: int,
    generator: torch.Generator,
    gaps: Tensor | None = None,
) -> NDArray[np.int64]:
    """States of every row, (N, T): the first visit owes its full dwell, the last is cut short.

    The chain is run through every one of the base steps between rows, (N, T-1), one by default.
    With a minimum dwell, which counts rows, it changes at most once between two.
    """
    N, T = len(lengths), int(lengths.max())
    within = np.arange(T) < lengths[:, None]
    if gaps is None:
        gaps = torch.ones(N, T - 1, dtype=torch.int64)

    def drawn(law: Tensor) -> Tensor:
        return torch.multinomial(law, 1, True, generator=generator)[:, 0]

    state = drawn(chain.initial.expand(N, -1))
    paths, age = state[:, None].repeat(1, T), torch.ones_like(state)
    for t in range(1, T):
        gap, before = gaps[:, t - 1], state
        ruled = age >= minimum_dwell
        for step in range(int(gap.max())):
            changes = ruled & (step < gap)
            if minimum_dwell > 1:
                changes &= state == before
            state = torch.where(changes, drawn(chain.transition[0, state]), state)
        age = torch.where(state == before, age + 1, 1)
        paths[:, t] = state
    return np.where(within, paths.numpy(), -1)


def draw_rows(
    family: Emission,
    parameters: Parameters,
    paths: NDArray[np.int64],
    generator: torch.Generator,
    pace: Array | float = 1.0,
) -> Array:
    """Values of every row, (N, T, D): NaN beyond the end of a run.

    `pace` is the gap before each row but the first, (N, T) or one number, in typical gaps.
    """
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
    pace = np.broadcast_to(pace, (N, T))
    memory = _memory(family, (N, D))
    values = np.full((N, T, D), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(T):
            state = paths[:, t]
            if first is not None and t == 0:
                row = first
            else:
                reference, past = _past(memory, (N, D), family.coupling == "full", pace[:, t])
                own = coefficients[np.arange(N), state]
                row = reference + _responses(own, past, deviation[state] * noise[:, t].numpy())
            values[:, t] = np.where(state[:, None] >= 0, row, np.nan)
            if memory is not None:
                memory.observe(values[:, t], pace[:, t])
    return values


def _blank(
    lengths: Sequence[int],
    metrics: int | Sequence[str],
    step_gap: int,
    steps: Steps | None,
) -> Runs:
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
    if steps is None:
        steps = range(0, max(rows) * int(step_gap), int(step_gap))
    own = [np.asarray(one) for one in ([steps] * len(rows) if np.ndim(steps[0]) == 0 else steps)]
    if len(own) != len(rows) or any(len(one) < n for one, n in zip(own, rows, strict=True)):
        raise ValueError(
            "steps must be one sequence, with as many steps as the longest run has rows, or one "
            "for each run, with as many as it has rows."
        )
    frame = pd.DataFrame({name: np.zeros(sum(rows)) for name in names})
    frame.insert(0, "step", np.concatenate([a[:n] for a, n in zip(own, rows, strict=True)]))
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


def _past(
    memory: Memory | None, shape: tuple[int, int], coupled: bool, gap: Array
) -> tuple[Array, Array]:
    """Reference (N, D) and past regressors (N, D, P) of the next row."""
    constant = np.ones((*shape, 1))
    if memory is None:
        return np.zeros(shape), constant
    features = memory.features(gap)
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
