"""Posterior draws as values of the sites of the Pyro model, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from bayeshmm.emissions.law import Law
from bayeshmm.emissions.layout import Layout
from bayeshmm.emissions.regression import Precisions
from bayeshmm.emissions.sites import contrasts
from bayeshmm.hmm import Prior, parameters
from bayeshmm.inference.gibbs import Draws, State
from bayeshmm.own_encoding import Sites
from bayeshmm.transitions import Chain, Hyper, TransitionPrior


class Values(NamedTuple):
    """Draws of everything but the paths: the fields of `Draws`, axes (S, 1, ...).

    `law` is a `Law`; with an emission of a user's own, the values of its sites, (S, ...), and
    `precisions` is then None.
    """

    law: Any
    precisions: Any
    chain: Chain
    hyper: Hyper


def site_values(prior: Prior, draws: Draws | State) -> Sites:
    """Values of the sites of `bayeshmm.hmm.parameters` at posterior draws.

    Parameters
    ----------
    prior
        The model that was fitted.
    draws
        S draws, of Gibbs sampling or of a conjugate posterior.

    Returns
    -------
    dict
        By the name of the site, (S, ...). Probabilities that underflowed are lifted to the
        smallest normal number, so that all values have finite images in unconstrained space.
    """
    law, layout = draws.law, prior.regression.layout
    sites = prior.transition.site_values(draws.chain, draws.hyper)
    smallest = torch.finfo(torch.float64).tiny
    sites = {name: value.clamp_min(smallest) for name, value in sites.items()}
    sites |= regression_values(layout, law, draws.precisions)
    if law.effects is not None:
        sites["run_effect"] = law.effects.mean
    if law.tail is not None:
        sites["degrees"] = law.tail.degrees[:, 0]
    return sites


def regression_values(layout: Layout, law: Law, precisions: Precisions, prefix: str = "") -> Sites:
    """Values of the sites of `bayeshmm.emissions.sites.regressions`, run effects aside."""
    coefficients, present = law.coefficients[:, 0], contrasts(layout)
    sites = {
        "shrinkage": precisions.groups[:, 0],
        "scale": precisions.scales[:, 0],
        "variance": 1.0 / law.precision[:, 0],
        "coefficient": coefficients[..., : layout.past],
    }
    if present.any():
        sites["contrast"] = coefficients[..., present]
    return {f"{prefix}{name}": value for name, value in sites.items()}


def values(prior: Prior, sites: Sites, runs: int) -> Values:
    """The parameters that values of the sites mean: what `site_values` is undone by.

    Parameters
    ----------
    prior
        The model.
    sites
        By the name of the site, (S, ...).
    runs
        Number of runs N.
    """
    with poutine.block():
        law, precisions, _ = poutine.condition(parameters, _with_axis(sites))(prior, runs)
    return Values(law, precisions, *chain_values(prior.transition, sites))


def chain_values(transition: TransitionPrior, sites: Sites) -> tuple[Chain, Hyper]:
    """The chain, (S, n, ...), and its hyper-parameters that values of the sites mean."""
    held = _with_axis(sites)
    with poutine.block():
        initial, matrix = poutine.condition(transition.model, held)()
    size = len(next(iter(sites.values())))
    chain = Chain(
        initial.expand(size, *initial.shape[-2:]), matrix.expand(size, *matrix.shape[-3:])
    )
    _, learned = transition.draw(torch.Generator())
    return chain, {name: held[name] for name in learned if name in held}


def _with_axis(sites: Sites) -> dict[str, Tensor]:
    """With an axis of the plate of runs, of size 1, after that of the draws."""
    return {name: value[:, None] for name, value in sites.items()}
