"""The density of runs that a fit has not seen, and what it believes of them.

The posterior serves as the prior of a new run and is updated on it, by the same coordinate ascent
with the hyper-parameters kept: the bound that results is a deterministic lower bound of the log
posterior predictive density of the whole run. An average of densities over posterior draws is no
substitute: with as many parameters as here a single draw carries all the weight, and the figure is
nats *per row* too low. Frozen parameters are as bad.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayeshmm.emissions.conjugate import NormalInverseGamma, eliminated
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.likelihood import Moments, log_likelihood, moments
from bayeshmm.encoding import Encoded
from bayeshmm.inference.threads import one_thread
from bayeshmm.inference.variational import Entry, Expectation, VariationalFit, expectation
from bayeshmm.nested import mapped, stacked
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
    starts: list[Tensor | None] = [None]
    if fit.prior.regression.states > 1:
        starts.append(usual_states(fit, data, leave_out=leave_out))
    found = [_updated(fit, data.ungrouped(), law, chain, states) for states in starts]
    best = torch.stack([one.log_density for one in found]).argmax(0)
    one = mapped(lambda parts: parts[best, torch.arange(len(best))], stacked(found, 0))
    bound = one.log_density
    if fit.entry is not None and data.entry is not None:
        bound = bound + entry_density(fit.entry, data.entry, leave_out=leave_out)
    return one._replace(log_density=bound + data.log_jacobian)


def usual_states(fit: VariationalFit, data: Encoded, *, leave_out: bool = False) -> Tensor:
    """What the runs of the fit do in each row on average, for each of N new ones, (N, T, K).

    A run whose effects are large is far from every state. Taken at their word, laws with little
    noise tie its rows to the wrong states for good; the rows at which other runs change do not.

    Parameters
    ----------
    fit, data, leave_out
        As for `predict`.
    """
    N, T = data.design.response.shape[:2]
    total = fit.states.sum(0, keepdim=True)
    total = total - fit.states if leave_out else total
    missing = max(T - total.shape[1], 0)
    total = torch.cat([total, total[:, -1:].expand(-1, missing, -1)], 1)[:, :T]
    total = total.clamp_min(1e-9)  # rows that no other run has: any state
    inside = torch.arange(T) < data.design.lengths[:, None]
    return (total / total.sum(-1, keepdim=True)).expand(N, T, -1) * inside[..., None]


def _updated(
    fit: VariationalFit,
    data: Encoded,
    law: NormalInverseGamma,
    chain: ChainPosterior,
    states: Tensor | None,
) -> Predictive:
    """Coordinate ascent from `law` and `chain`; the rows start in `states` if these are given."""

    def expected(regression: NormalInverseGamma, transitions: ChainPosterior) -> Expectation:
        return expectation(
            data,
            fit.prior.law(regression.law, fit.parameters.tail),
            transitions.expected_log,
            fit.prior.minimum_dwell,
            True,
        )

    step = expected(law, chain)
    if states is not None:
        step = expected(law.updated(moments(data.design, states, step.hidden, by_run=True)), chain)
    for _ in range(SWEEPS):
        posterior = law.updated(moments(data.design, step.states, step.hidden, by_run=True))
        posterior_chain = chain.updated(step.counts)
        step = expected(posterior, posterior_chain)
    bound = step.log_normaliser - posterior.divergence(law).sum((-1, -2))
    bound = bound - posterior_chain.divergence(chain)
    return Predictive(bound, posterior, posterior_chain, step.states)


def _shared(fit: VariationalFit, data: Encoded) -> tuple[NormalInverseGamma, ChainPosterior]:
    """The posterior of the fit, a view of it for every new run."""
    N = len(data.design.lengths)
    parameters = fit.parameters
    regression = parameters.regression
    if regression.runs is not None:
        regression = regression.widened(parameters.shrinkage.expected.groups[..., -1])
    return for_each(regression, N), for_each(parameters.chain, N, data.schedule.groups)


def _cavity(fit: VariationalFit, data: Encoded) -> tuple[NormalInverseGamma, ChainPosterior]:
    """For every run of the fit, the posterior given the statistics of the other runs."""
    parameters = fit.parameters
    precisions = parameters.shrinkage.expected
    law = fit.prior.law(parameters.regression.law, parameters.tail)
    _, hidden = log_likelihood(data.design, law)
    own = moments(data.design, fit.states, hidden, by_run=True)
    run_precision = precisions.groups[..., -1]
    if own.first is not None:
        own = eliminated(own, run_precision)[0]
    others = Moments(*(_others(part) for part in own[:3]))
    regression = fit.prior.regression.posterior(others, precisions)
    if fit.prior.regression.layout.run_effects:
        regression = regression.widened(run_precision)
    counts, groups = Counts(*(_others(part) for part in fit.counts)), data.schedule.groups
    if groups is not None:
        alike = (groups[:, None] == groups).to(torch.float64).fill_diagonal_(0.0)
        counts = counts._replace(transition=torch.einsum("nm,mkl->nkl", alike, fit.counts[1]))
    prior = fit.prior.transition.prior_law(parameters.hyper)
    return regression, for_each(prior, len(fit.states), groups).updated(counts)


def for_each(law: Any, runs: int, groups: Tensor | None = None) -> Any:
    """The law that runs share, (1, ...), or that of its group, for each of them, (N, ...)."""

    def of_runs(part: Tensor) -> Tensor:
        if groups is not None and len(part) > 1:
            return part[groups]
        return part.expand(runs, *part.shape[1:])

    return mapped(of_runs, law)


def _others(part: Tensor) -> Tensor:
    """Sum over the other runs, for every run of the leading axis."""
    return part.sum(0, keepdim=True) - part


def entry_density(entry: Entry, design: Design, *, leave_out: bool = False) -> Tensor:
    """Log predictive density of the first values, (N,): exact where none is missing.

    See `predict` for `leave_out`.
    """
    weights = torch.ones(*design.complete.shape, 1, dtype=torch.float64)
    if leave_out:
        _, hidden = log_likelihood(design, entry.regression.law)
        own = moments(design, weights, hidden, by_run=True)
        others = Moments(*(_others(part) for part in own[:3]))
        law = entry.prior.posterior(others, entry.shrinkage.expected)
    else:
        size = len(design.lengths)
        law = for_each(entry.regression, size)
    rows, hidden = log_likelihood(design, law.law)
    posterior = law
    for _ in range(SWEEPS if design.patterns else 1):
        posterior = law.updated(moments(design, weights, hidden, by_run=True))
        rows, hidden = log_likelihood(design, posterior.law)
    return rows[:, 0, 0] - posterior.divergence(law).sum((-1, -2))
