"""Blocked Gibbs sampling: exact draws of paths and parameters around a mode.

One sweep draws (1) the paths of all runs given the parameters, by backward filtering and forward
sampling; (2) missing responses; (3) coefficients and variances given paths and hyper-parameters,
jointly; (4) the hyper-parameters; (5) the chain's hyper-parameters and parameters. Every block is
drawn from its exact conditional, so the chain's law is the posterior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bayeshmm import messages
from bayeshmm.emissions.design import Design, Pattern
from bayeshmm.emissions.likelihood import Completion, Law, log_likelihood, moments
from bayeshmm.emissions.regression import Precisions
from bayeshmm.encoding import Encoded
from bayeshmm.hmm import Prior
from bayeshmm.inference.threads import one_thread
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.transitions import Chain, Counts


class State(NamedTuple):
    """Where the chains stand; leading axes (chains, 1) but for the paths.

    Attributes
    ----------
    law
        Coefficients and variances.
    precisions
        Hyper-parameters of the regressions.
    chain
        Initial law and transition matrix.
    paths
        (chains, N, T), -1 beyond the end of a run.
    """

    law: Law
    precisions: Precisions
    chain: Chain
    paths: Tensor


@dataclass(frozen=True)
class Draws:
    """Posterior draws; S = chains * draws, chain by chain.

    Attributes
    ----------
    law
        Coefficients (S, 1, K, D, R) and variances (S, 1, K, D), model units and order.
    precisions
        Hyper-parameters (S, 1, G) and (S, 1, D).
    chain
        (S, 1, K) and (S, 1, K, K).
    paths
        (S, N, T) int8, -1 beyond the end of a run.
    chains
        Number of chains.
    """

    law: Law
    precisions: Precisions
    chain: Chain
    paths: NDArray[np.int8]
    chains: int


def start(fit: VariationalFit, chains: int, generator: torch.Generator) -> State:
    """Over-dispersed only as the variational posterior is: one draw of it per chain."""
    parameters = fit.parameters
    law = parameters.regression.sample(generator, (chains,))
    hyper = parameters.shrinkage.sample(generator)
    precisions = Precisions(*(part.expand(chains, *part.shape) for part in hyper))
    chain = parameters.chain.sample(generator, (chains,))
    N, T, _ = fit.states.shape
    return State(law, precisions, chain, torch.full((chains, N, T), -1))


def sweep(prior: Prior, design: Design, state: State, generator: torch.Generator) -> State:
    """Draw every block once."""
    rows, completions = log_likelihood(design, state.law)
    log_chain = state.chain.log
    uniforms = torch.rand(rows.shape[:-1], dtype=torch.float64, generator=generator)
    paths = messages.sample_paths(
        log_chain.initial,
        log_chain.transition,
        rows,
        lengths=design.lengths,
        minimum_dwell=prior.minimum_dwell,
        uniforms=uniforms,
    )
    filled = tuple(
        _impute(completion, pattern, generator)
        for completion, pattern in zip(completions, design.patterns, strict=True)
    )
    weights = _one_hot(paths, prior.regression.states)
    conditional = prior.regression.posterior(moments(design, weights, filled), state.precisions)
    law = conditional.sample(generator)
    precisions = prior.regression.posterior_shrinkage(law).sample(generator)
    chain = prior.transition.sample(
        state.chain, path_counts(paths, prior.regression.states, prior.minimum_dwell), generator
    )
    return State(law, precisions, chain, paths)


@one_thread()
def sample(
    fit: VariationalFit,
    data: Encoded,
    draws: int,
    *,
    chains: int = 4,
    warmup: int = 200,
    thin: int = 2,
    seed: int = 0,
    progress: bool = False,
) -> Draws:
    """Draw from the posterior, starting at a variational fit.

    Parameters
    ----------
    fit
        The mode to start from.
    data
        The runs that it was fitted to.
    draws
        Draws in all, rounded up to a multiple of `chains`.
    chains
        Chains, advanced as one batch.
    warmup
        Sweeps thrown away first.
    thin
        Sweeps per draw that is kept.
    seed
        Same seed, same draws.
    progress
        Whether to show a progress bar.
    """
    generator = torch.Generator().manual_seed(seed)
    state = start(fit, chains, generator)
    kept = []
    sweeps = warmup + thin * -(-draws // chains)
    for i in tqdm(range(1, sweeps + 1), desc="exact draws", disable=not progress, leave=False):
        state = sweep(fit.prior, data.design, state, generator)
        if i > warmup and (i - warmup) % thin == 0:
            kept.append(state._replace(paths=state.paths.to(torch.int8)))
    law = Law(
        _stack([state.law.coefficients for state in kept]),
        _stack([state.law.precision for state in kept]),
        _stack([state.law.log_variance for state in kept]),
    )
    precisions = Precisions(*(_stack([s.precisions[i] for s in kept]) for i in range(2)))
    chain = Chain(*(_stack([s.chain[i] for s in kept]) for i in range(2)))
    return Draws(law, precisions, chain, _stack([s.paths for s in kept]).numpy(), chains)


def path_counts(paths: Tensor, states: int, minimum_dwell: int) -> Counts:
    """First states, and the stays and jumps that the transition matrix ruled.

    Parameters
    ----------
    paths
        (..., N, T), -1 beyond the end of a run.
    states
        K.
    minimum_dwell
        A row rules the next one only once its visit has lasted so many rows.

    Returns
    -------
    Counts
        Summed over runs, with an axis of runs of size 1: (..., 1, K) and (..., 1, K, K).
    """
    *batch, _, T = paths.shape
    place = torch.arange(T).expand(paths.shape)
    fresh = torch.ones_like(paths, dtype=torch.bool)
    fresh[..., 1:] = paths[..., 1:] != paths[..., :-1]
    age = place - torch.where(fresh, place, 0).cummax(-1).values + 1
    ruled = (age[..., :-1] >= minimum_dwell) & (paths[..., 1:] >= 0)
    cell = torch.where(ruled, paths[..., :-1] * states + paths[..., 1:], states**2)
    flat = cell.reshape(*batch, -1)
    cells = torch.zeros(*batch, states**2 + 1, dtype=torch.float64)
    cells.scatter_add_(-1, flat, torch.ones(flat.shape, dtype=torch.float64))
    transition = cells[..., :-1].reshape(*batch, 1, states, states)
    initial = torch.nn.functional.one_hot(paths[..., 0], states).sum(-2, keepdim=True)
    return Counts(initial.to(torch.float64), transition)


def _impute(completion: Completion, pattern: Pattern, generator: torch.Generator) -> Completion:
    """Replace the conditional law of the missing responses by one draw of it."""
    missing = pattern.missing
    if not missing.any():
        return completion
    block = completion.covariance[..., missing, :][..., missing]
    factor = torch.linalg.cholesky(block)
    shape = (*completion.response.shape[:-1], block.shape[-1])
    noise = torch.randn(shape, dtype=torch.float64, generator=generator)
    places = missing.nonzero()[:, 0]
    response = completion.response.index_add(-1, places, (factor @ noise[..., None])[..., 0])
    return Completion(completion.log_likelihood, response, torch.zeros_like(completion.covariance))


def _one_hot(paths: Tensor, states: int) -> Tensor:
    hot = torch.nn.functional.one_hot(paths.clamp_min(0), states).to(torch.float64)
    return hot * (paths >= 0)[..., None]


def _stack(parts: list[Tensor]) -> Tensor:
    """Stack draws (draws of (chains, ...)) into (chains * draws, ...), chain by chain."""
    return torch.stack(parts, 1).flatten(0, 1)
