"""Blocked Gibbs sampling: exact draws of paths and parameters around a mode.

One sweep draws (1) the paths of all runs given the parameters, by backward filtering and forward
sampling; (2) the degrees of freedom given paths, then the weights of the rows and their missing
responses; (3) variances, coefficients and run effects given all that and the hyper-parameters,
jointly; (4) the hyper-parameters; (5) the chain's hyper-parameters and parameters. Every block is
drawn from its exact conditional (in 1 and 2 with what the next draws integrated out), so that the
chain's law is the posterior.
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
from bayeshmm.emissions.conjugate import standard_gamma
from bayeshmm.emissions.design import Design, Pattern
from bayeshmm.emissions.law import Law, Tail
from bayeshmm.emissions.likelihood import Completion, Hidden, log_likelihood, moments
from bayeshmm.emissions.regression import Precisions
from bayeshmm.emissions.tails import StudentT
from bayeshmm.encoding import Encoded
from bayeshmm.hmm import Prior
from bayeshmm.inference.threads import one_thread
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.nested import expanded, mapped, stacked
from bayeshmm.transitions import Chain, Hyper


class State(NamedTuple):
    """Where the chains stand; leading axes (chains, 1) but for the paths.

    Attributes
    ----------
    law
        Coefficients, variances, run effects and degrees of freedom.
    precisions
        Hyper-parameters of the regressions.
    chain
        Initial law and transition matrix.
    hyper
        Hyper-parameters of the chain, by name.
    paths
        (chains, N, T), -1 beyond the end of a run.
    """

    law: Law
    precisions: Precisions
    chain: Chain
    hyper: Hyper
    paths: Tensor


@dataclass(frozen=True)
class Draws:
    """Posterior draws; S = chains * draws, chain by chain.

    Attributes
    ----------
    law
        Coefficients (S, 1, K, D, R), variances (S, 1, K, D), run effects (S, N, K, D) and degrees
        of freedom (S, 1), model units and order.
    precisions
        Hyper-parameters (S, 1, G) and (S, 1, D).
    chain
        (S, 1, K) and (S, 1, K, K); with groups of runs, (S, G, K, K).
    hyper
        Hyper-parameters of the chain by name, (S, 1, ...).
    paths
        (S, N, T) int8, -1 beyond the end of a run.
    chains
        Number of chains.
    """

    law: Law
    precisions: Precisions
    chain: Chain
    hyper: Hyper
    paths: NDArray[np.int8]
    chains: int


def start(fit: VariationalFit, chains: int, generator: torch.Generator) -> State:
    """Over-dispersed only as the variational posterior is: one draw of it per chain."""
    parameters = fit.parameters
    law = parameters.regression.sample(generator, (chains,))
    if fit.prior.tail is not None and parameters.tail is not None:
        law = law._replace(tail=fit.prior.tail.drawn(expanded(parameters.tail, chains), generator))
    precisions = parameters.shrinkage.sample(generator, (chains,))
    chain = parameters.chain.sample(generator, (chains,))
    hyper = fit.prior.transition.draw_hyper(expanded(parameters.hyper, chains), generator)
    N, T, _ = fit.states.shape
    return State(law, precisions, chain, hyper, torch.tensor(-1).expand(chains, N, T))


def sweep(prior: Prior, data: Encoded, state: State, generator: torch.Generator) -> State:
    """Draw every block once."""
    design, dwell = data.design, prior.minimum_dwell
    rows, hidden = log_likelihood(design, state.law)
    log_chain = state.chain.log
    spread = data.schedule.spread(log_chain, dwell)
    uniforms = torch.rand(rows.shape[:-1], dtype=torch.float64, generator=generator)
    paths = messages.sample_paths(
        spread.initial,
        spread.transition,
        rows,
        lengths=design.lengths,
        minimum_dwell=dwell,
        uniforms=uniforms,
    )
    tail = None
    if prior.tail is not None and state.law.tail is not None:
        tail, hidden = draw_weights(prior.tail, state.law.tail, design, hidden, paths, generator)
    filled = hidden._replace(
        completions=tuple(
            _impute(completion, pattern, hidden.scale, generator)
            for completion, pattern in zip(hidden.completions, design.patterns, strict=True)
        )
    )
    weights = _one_hot(paths, prior.regression.states)
    statistics = moments(design, weights, filled, paths=paths)
    conditional = prior.regression.posterior(statistics, state.precisions)
    law = conditional.sample(generator)._replace(tail=tail)
    precisions = prior.regression.posterior_shrinkage(law).sample(generator)
    counts = data.schedule.path_counts(paths, log_chain, dwell, generator)
    chain, hyper = prior.transition.sample(state.chain, state.hyper, counts, generator)
    return State(law, precisions, chain, hyper, paths)


def draw_weights(
    prior: StudentT,
    tail: Tail,
    design: Design,
    hidden: Hidden,
    paths: Tensor,
    generator: torch.Generator,
) -> tuple[Tail, Hidden]:
    """Draw the degrees of freedom given paths, the weights integrated out, then the weights."""
    assert hidden.scale is not None
    place = paths.clamp_min(0)[..., None]
    old, responses = tail.degrees[..., None], design.responses
    distance = (old + responses) / hidden.scale.gather(-1, place)[..., 0] - old
    tail = prior.sample(distance, responses, generator)
    degrees = tail.degrees[..., None]
    shape = 0.5 * (degrees + responses)
    weights = standard_gamma(shape, generator) / (0.5 * (degrees + distance))
    return tail, Hidden(hidden.completions, weights[..., None])


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
    begin: State | None = None,
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
    begin
        Where the chains start. None: around `fit`, as `start` draws it.
    """
    generator = torch.Generator().manual_seed(seed)
    state = start(fit, chains, generator) if begin is None else begin
    kept = []
    sweeps = warmup + thin * -(-draws // chains)
    for i in tqdm(range(1, sweeps + 1), desc="exact draws", disable=not progress, leave=False):
        state = sweep(fit.prior, data, state, generator)
        if i > warmup and (i - warmup) % thin == 0:
            kept.append(state._replace(paths=state.paths.to(torch.int8)))
    law, precisions, chain, hyper, paths = mapped(lambda part: part.flatten(0, 1), stacked(kept, 1))
    return Draws(law, precisions, chain, hyper, paths.numpy(), chains)


def _impute(
    completion: Completion, pattern: Pattern, weights: Tensor | None, generator: torch.Generator
) -> Completion:
    """Replace the conditional law of the missing responses by one draw of it.

    `weights` are those of all rows, (..., N, T, 1), or None.
    """
    missing = pattern.missing
    if not missing.any():
        return completion
    block = completion.covariance[..., missing, :][..., missing]
    factor = torch.linalg.cholesky(block)
    shape = (*completion.response.shape[:-1], block.shape[-1])
    noise = torch.randn(shape, dtype=torch.float64, generator=generator)
    if weights is not None:
        noise = noise / weights[..., pattern.run, pattern.row, :, None].sqrt()
    places = missing.nonzero()[:, 0]
    response = completion.response.index_add(-1, places, (factor @ noise[..., None])[..., 0])
    return completion._replace(
        response=response, covariance=torch.zeros_like(completion.covariance)
    )


def _one_hot(paths: Tensor, states: int) -> Tensor:
    hot = torch.nn.functional.one_hot(paths.clamp_min(0), states).to(torch.float64)
    return hot * (paths >= 0)[..., None]
