"""The ways to get draws from a posterior, behind one signature."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeshmm import messages
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.encoding import Encoded
from bayeshmm.inference import gibbs, nuts, svi
from bayeshmm.inference.gibbs import Draws
from bayeshmm.inference.restarts import dispersed
from bayeshmm.inference.settings import NUTS, VI, Gibbs, Settings
from bayeshmm.inference.targets import ConjugateTarget, Target, at_once
from bayeshmm.inference.threads import one_thread
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.nested import take
from bayeshmm.own_encoding import OwnRows

PILOT = VI(steps=400)
"""The variational fit that NUTS starts at: a scale for every direction is all that it needs."""


@dataclass(frozen=True)
class Outcome:
    """What an engine found.

    Attributes
    ----------
    draws
        Of the posterior.
    diagnostics
        Of the engine, by name.
    losses
        Minus the evidence lower bound, one estimate a step of variational inference; or none.
    """

    draws: Draws
    diagnostics: dict[str, Any] = field(default_factory=dict)
    losses: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


@one_thread()
def sample(
    mode: VariationalFit | Target,
    data: Encoded | OwnRows,
    settings: Settings,
    draws: int,
    *,
    seed: int,
    progress: bool = False,
    second: VariationalFit | None = None,
) -> Outcome:
    """Draw from the posterior, starting at a mode.

    Parameters
    ----------
    mode
        A conjugate fit to all runs, or what takes its place for an emission without one.
    data
        The runs.
    settings
        Of the engine, which they name.
    draws
        At least so many.
    seed
        Same seed, same draws.
    progress
        Whether to show progress bars.
    second
        Another mode, at which half of the chains of Gibbs sampling start; see `restarts`.
    """
    if isinstance(mode, VariationalFit):
        assert isinstance(data, Encoded)
        if isinstance(settings, Gibbs):
            chains, warmup, thin = settings.chains, settings.warmup, settings.thin
            begin = None
            if second is not None:
                begin = dispersed(mode, second, chains, torch.Generator().manual_seed(seed + 1))
            return Outcome(
                gibbs.sample(
                    mode, data, draws,
                    chains=chains, warmup=warmup, thin=thin, seed=seed, progress=progress,
                    begin=begin,
                ),
                {"elbo": mode.bound},
            )  # fmt: skip
        target: Target = ConjugateTarget(mode, data, seed)
    else:
        target = mode
    if isinstance(settings, VI):
        return _stochastic(target, settings, draws, seed, progress)
    assert isinstance(settings, NUTS)
    return _no_u_turn(target, settings, draws, seed, progress)


def _stochastic(target: Target, settings: VI, draws: int, seed: int, progress: bool) -> Outcome:
    runs = len(target.data.lengths)
    size, (first, second, third) = settings.batch_size, _streams(seed)
    found = svi.approximate(
        target.space,
        target.start(settings.guide),
        settings,
        seed=first,
        progress=progress,
        subsample_size=None if size is None or size >= runs else size,
    )
    weighed = svi.weighed(found, draws, seed=second, at_once=at_once(target.data, target.states))
    diagnostics = {
        "elbo": weighed.elbo - target.constant,
        "k_hat": weighed.k_hat,
        "effective_draws": weighed.effective_draws,
        "steps": len(found.losses),
        "converged": found.converged,
    }
    return Outcome(_with_paths(target, weighed.points, 1, third), diagnostics, found.losses)


def _no_u_turn(target: Target, settings: NUTS, draws: int, seed: int, progress: bool) -> Outcome:
    first, second, third = _streams(seed)
    found = svi.approximate(target.space, target.start(None), PILOT, seed=first, progress=progress)
    size = -(-draws // settings.chains)
    drawn = nuts.sample(target.space, found.law, size, settings, seed=second, progress=progress)
    diagnostics = {
        "elbo": -float(found.losses[-svi.WINDOW :].mean()) - target.constant,
        "divergences": drawn.divergences,
    }
    return Outcome(
        _with_paths(target, drawn.points, settings.chains, third), diagnostics, found.losses
    )


def _streams(seed: int) -> list[int]:
    """Seeds of three independent streams."""
    return np.random.SeedSequence(seed).generate_state(3).tolist()


def _with_paths(target: Target, points: Tensor, chains: int, seed: int) -> Draws:
    """Draws of the parameters at points (S, size), and one path of every run for each."""
    generator = torch.Generator().manual_seed(seed)
    values = target.parameters(points)
    data = target.data
    paths = np.empty((len(points), len(data.lengths), int(data.lengths.max())), dtype=np.int8)
    for some in torch.arange(len(points)).split(at_once(data, target.states)):
        rows = data.rows(take(values.law, some))
        log = data.schedule.spread(take(values.chain, some).log, target.minimum_dwell)
        drawn = messages.sample_paths(
            log.initial,
            log.transition,
            rows,
            lengths=data.lengths,
            minimum_dwell=target.minimum_dwell,
            uniforms=torch.rand(rows.shape[:-1], dtype=torch.float64, generator=generator),
        )
        paths[some.numpy()] = drawn.numpy()
    law, precisions, chain, hyper = values
    return Draws(law, precisions, chain, hyper, paths, chains)


@one_thread()
def variational(
    fit: VariationalFit, data: Encoded, draws: int, *, seed: int, progress: bool = False
) -> Draws:
    """Independent draws of the conjugate posterior itself: intervals are too narrow."""
    generator = torch.Generator().manual_seed(seed)
    parameters = fit.parameters
    drawn = gibbs.start(fit, draws, generator)
    rows, _ = log_likelihood(data.design, fit.prior.law(parameters.regression.law, parameters.tail))
    expected = data.schedule.spread(parameters.chain.expected_log, fit.prior.minimum_dwell)
    uniforms = torch.rand((draws, *rows.shape[:-1]), dtype=torch.float64, generator=generator)
    paths = messages.sample_paths(
        expected.initial,
        expected.transition,
        rows,
        lengths=data.design.lengths,
        minimum_dwell=fit.prior.minimum_dwell,
        uniforms=uniforms,
    )
    return Draws(*drawn[:4], paths.to(torch.int8).numpy(), chains=1)
