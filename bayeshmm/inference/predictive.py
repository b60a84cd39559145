"""The density of runs that a fit has not seen, and what it believes of them.

The posterior serves as the prior of a new run and is updated on it, by the same coordinate ascent
with the hyper-parameters kept: the bound that results is a deterministic lower bound of the log
posterior predictive density of the whole run. An average of densities over posterior draws is no
substitute: with as many parameters as here a single draw carries all the weight, and the figure is
nats *per row* too low. Frozen parameters are as bad.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bayeshmm.emissions.design import Design
from bayeshmm.emissions.likelihood import Moments, log_likelihood, moments
from bayeshmm.emissions.regression import NormalInverseGamma
from bayeshmm.encoding import Encoded
from bayeshmm.inference.threads import one_thread
from bayeshmm.inference.variational import Entry, VariationalFit, expectation
from bayeshmm.transitions import ChainPosterior, Counts

SWEEPS = 12
"""Sweeps of the update on a new run."""


class Predictive(NamedTuple):
    """A posterior updated on each of N new runs by itself.

    Attributes
    ----------
    log_density
        Lower bound of the log predictive density of each run, in the data's units, (N,).
    regression, chain
        The updated laws, with an axis of runs of size N.
    states
        Probability of each state in each row, (N, T, K).
    """

    log_density: Tensor
    regression: NormalInverseGamma
    chain: ChainPosterior
    states: Tensor


@one_thread()
def predict(fit: VariationalFit, data: Encoded, *, leave_out: bool = False) -> Predictive:
    """Update the posterior on each run of `data` by itself.

    Parameters
    ----------
    fit
        The posterior.
    data
        New runs, in the units of the fit.
    leave_out
        Whether `data` are the very runs of the fit: each run's own statistics are then taken out
        of the posterior first (the cavity), a shortcut for refitting without it. Hyper-parameters
        and the labels of the other runs keep what they learned from it.
    """
    law, chain = _cavity(fit, data) if leave_out else _shared(fit, data)
    posterior, posterior_chain = law, chain
    for _ in range(SWEEPS):
        step = expectation(
            data.design, posterior, posterior_chain.expected_log, fit.prior.minimum_dwell, True
        )
        posterior = law.updated(moments(data.design, step.states, step.completions, by_run=True))
        posterior_chain = chain.updated(step.counts)
    step = expectation(
        data.design, posterior, posterior_chain.expected_log, fit.prior.minimum_dwell, True
    )
    bound = step.log_normaliser - posterior.divergence(law).sum((-1, -2))
    bound = bound - posterior_chain.divergence(chain)
    if fit.entry is not None and data.entry is not None:
        bound = bound + entry_density(fit.entry, data.entry, leave_out=leave_out)
    return Predictive(bound + data.log_jacobian, posterior, posterior_chain, step.states)


def _shared(fit: VariationalFit, data: Encoded) -> tuple[NormalInverseGamma, ChainPosterior]:
    """The posterior of the fit, a view of it for every new run."""
    N = len(data.design.lengths)
    return (
        NormalInverseGamma(
            *(part.expand(N, *part.shape[1:]) for part in fit.parameters.regression)
        ),
        ChainPosterior(*(part.expand(N, *part.shape[1:]) for part in fit.parameters.chain)),
    )


def _cavity(fit: VariationalFit, data: Encoded) -> tuple[NormalInverseGamma, ChainPosterior]:
    """For every run of the fit, the posterior given the statistics of the other runs."""
    parameters = fit.parameters
    _, completions = log_likelihood(data.design, parameters.regression.law)
    others = Moments(*map(_others, moments(data.design, fit.states, completions, by_run=True)))
    law = fit.prior.regression.posterior(others, parameters.shrinkage.expected)
    chain = fit.prior.transition.prior_law(parameters.grid)
    return law, chain.updated(Counts(*(_others(part) for part in fit.counts)))


def _others(part: Tensor) -> Tensor:
    """Sum over the other runs, for every run of the leading axis."""
    return part.sum(0, keepdim=True) - part


def entry_density(entry: Entry, design: Design, *, leave_out: bool = False) -> Tensor:
    """Log predictive density of the first values, (N,): exact where none is missing.

    See `predict` for `leave_out`.
    """
    weights = torch.ones(*design.complete.shape, 1, dtype=torch.float64)
    if leave_out:
        _, completions = log_likelihood(design, entry.regression.law)
        others = Moments(*map(_others, moments(design, weights, completions, by_run=True)))
        law = entry.prior.posterior(others, entry.shrinkage.expected)
    else:
        size = len(design.lengths)
        law = NormalInverseGamma(*(part.expand(size, *part.shape[1:]) for part in entry.regression))
    rows, completions = log_likelihood(design, law.law)
    posterior = law
    for _ in range(SWEEPS if design.patterns else 1):
        posterior = law.updated(moments(design, weights, completions, by_run=True))
        rows, completions = log_likelihood(design, posterior.law)
    return rows[:, 0, 0] - posterior.divergence(law).sum((-1, -2))
