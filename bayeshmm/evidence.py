"""The evidence of a fitted model, by bridge sampling from the draws of its posterior."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor

from bayeshmm.emissions import sites
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.likelihood import Hidden, log_likelihood, moments
from bayeshmm.emissions.regression import RegressionPrior
from bayeshmm.hmm import model, own_model, parameters
from bayeshmm.inference.bridge import Part, bridge
from bayeshmm.inference.importance import RELIABLE
from bayeshmm.inference.site_values import regression_values, site_values
from bayeshmm.inference.targets import at_once
from bayeshmm.inference.threads import one_thread
from bayeshmm.inference.unconstrained import Unconstrained
from bayeshmm.inference.variational import Entry
from bayeshmm.nested import stacked
from bayeshmm.own_encoding import OwnRows
from bayeshmm.transitions import TransitionPrior
from bayeshmm.transitions.chain import TINY

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

FEWEST_DRAWS = 100
"""Draws below which nothing is estimated."""

CHAINS, SWEEPS = 100, 100
"""Chains, and sweeps of each after as many for warm-up, of the law of the first values."""

LARGEST_ERROR = 0.3
"""Monte-Carlo error, in nats, up to which an estimate is believed: it then rests on ten draws."""


class EvidenceWarning(UserWarning):
    """The draws do not tell the evidence well; the message names the remedy."""


@dataclass(frozen=True)
class Evidence:
    """The log evidence (marginal likelihood) of a model, in the units of the data.

    Attributes
    ----------
    log_evidence
        With the phases labelled as in the draws: the integral over one of their labellings.
    error
        Its Monte-Carlo standard error, nats.
    k_hat
        Of the importance ratios to the law that was fitted to the draws, a second opinion: up to
        0.7 importance sampling would do as well. A bridge needs less, that the two laws overlap.
    label_term
        ``log K!``, less ``log E!`` where E phases are empty, where the prior takes the phases as
        alike; else 0. The whole evidence is larger by this where the labellings are modes of their
        own. Where they overlap (phases that are hardly told apart) it is larger by less, so that
        adding it favours too many.
    bound
        The evidence lower bound of the fit, of one labelling too; NaN for an emission of a user's
        own.
    dimensions
        Of the space of parameters.
    """

    log_evidence: float
    error: float
    k_hat: float
    label_term: float
    bound: float
    dimensions: int

    def __repr__(self) -> str:
        return (
            f"log evidence {self.log_evidence:.2f} ± {self.error:.2f} nats of one labelling, "
            f"{self.label_term:+.2f} for the labels (lower bound {self.bound:.2f}, k-hat "
            f"{self.k_hat:.2f}, {self.dimensions} dimensions)"
        )


@one_thread()
def evidence(posterior: Posterior) -> Evidence:
    """Log evidence (marginal likelihood) of the model, by bridge sampling from the draws.

    It rewards the family that predicts all rows of these runs best, priors included, and
    prefers more phases than held-out runs do where the family is not quite right: choose by
    `bayeshmm.compare`.

    Returns
    -------
    Evidence
        ``log_evidence`` of one labelling of the phases, with its Monte-Carlo ``error``, the
        ``label_term`` (log K! where labels mean nothing) and ``k_hat``.

    Raises
    ------
    ValueError
        With fewer than 100 draws, or draws of a variational approximation that k-hat calls
        poor.

    Warns
    -----
    EvidenceWarning
        Where the error is above 0.3 nats; the message names the remedy.
    """
    if len(posterior.paths) < FEWEST_DRAWS:
        raise ValueError(
            f"{len(posterior.paths)} draws do not tell the evidence: fit with draws=1000 or more."
        )
    if posterior.diagnostics.get("k_hat", 0.0) > RELIABLE:
        raise ValueError(
            "these are draws of a variational approximation that k-hat calls poor "
            f"({posterior.diagnostics['k_hat']:.2f}), not of the posterior: fit with "
            "inference='gibbs', or 'nuts' for an emission of your own."
        )
    data, mode = posterior.encoding.encode(posterior.runs), posterior.mode
    if mode is None:
        transition = posterior.hmm.transition_prior(posterior.runs)
        parts, bound = [_own_part(transition, data, posterior)], math.nan
    else:
        transition, bound = mode.prior.transition, mode.bound + float(data.log_jacobian.sum())
        prior, rows = replace(mode.prior, entry=None), replace(data, entry=None)
        values = site_values(prior, posterior.draws)
        latent = partial(parameters, prior, len(posterior.runs))
        parts = [_part(partial(model, prior, rows), latent, values, posterior.draws.chains)]
        if mode.entry is not None and data.entry is not None:
            parts.append(_first_values(mode.entry, data.entry, posterior.seed))
    together = at_once(data, posterior.states)
    found = [bridge(part, seed=posterior.seed, at_once=together) for part in parts]
    result = Evidence(
        sum(part.value for part in found),
        math.hypot(*(part.error for part in found)),
        max(part.k_hat for part in found),
        transition.label_symmetries(int(posterior.occupied()["probability"].argmax())),
        bound,
        sum(part.space.size for part in parts),
    )
    if result.error > LARGEST_ERROR:
        warnings.warn(
            f"{result!r}: the draws do not tell the evidence well in so many dimensions. Take more "
            "draws (draws=), fewer states, or a family without run effects, and compare models by "
            "the density of held-out runs (bayeshmm.compare).",
            EvidenceWarning,
            stacklevel=3,
        )
    return result


def _part(
    density: Callable[[], Any], latent: Callable[[], Any], values: dict[str, Tensor], chains: int
) -> Part:
    space = Unconstrained(density)
    return Part(space, latent, space.points(values).unflatten(0, (chains, -1)))


def _own_part(transition: TransitionPrior, data: OwnRows, posterior: Posterior) -> Part:
    """The posterior with an emission of a user's own."""

    def latent() -> None:
        transition.model()
        data.units.sample()

    draws = posterior.draws
    values = transition.site_values(draws.chain, draws.hyper)
    assert isinstance(draws.law, dict)
    values = {name: value.clamp_min(TINY) for name, value in values.items()} | draws.law
    return _part(partial(own_model, transition, data), latent, values, draws.chains)


def _first_values(fit: Entry, design: Design, seed: int) -> Part:
    """The posterior of the law of the first values, which no other parameter bears on."""
    prior, generator = fit.prior, torch.Generator().manual_seed(seed)
    weights = torch.ones(*design.complete.shape, 1, dtype=torch.float64)
    statistics = moments(design, weights, Hidden())
    precisions = fit.shrinkage.sample(generator, (CHAINS,))
    kept = []
    for sweep in range(2 * SWEEPS):
        law = prior.posterior(statistics, precisions).sample(generator)
        precisions = prior.posterior_shrinkage(law).sample(generator)
        if sweep >= SWEEPS:
            kept.append(regression_values(prior.layout, law, precisions, "entry_"))
    values = {name: value.flatten(0, 1) for name, value in stacked(kept, 1).items()}
    latent = partial(sites.regressions, prior, "entry_")
    return _part(partial(_first_rows, prior, design), latent, values, CHAINS)


def _first_rows(prior: RegressionPrior, design: Design) -> None:
    """The Pyro model of the first values."""
    law, _ = sites.regressions(prior, "entry_")
    with pyro.plate("runs", len(design.lengths)):
        pyro.factor("rows", log_likelihood(design, law)[0][..., 0, 0])
