"""Conjugate variational inference: many starts in one batch, the best one kept.

``q = q(paths) q(coefficients, variances) q(hyper-parameters) q(transitions)``. Every update is
exact and the bound never falls. The posterior over parameters that it gives is too narrow (states
and parameters are taken as independent); it serves to find the mode, to choose the number of
states and to start the exact sampler.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from bayeshmm import messages
from bayeshmm.emissions.conjugate import NormalInverseGamma
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.likelihood import (
    Completion,
    Hidden,
    log_likelihood,
    moments,
    weight_moments,
)
from bayeshmm.emissions.regression import RegressionPrior, Shrinkage
from bayeshmm.encoding import Encoded
from bayeshmm.hmm import Prior
from bayeshmm.nested import take
from bayeshmm.transitions import Chain, ChainPosterior, Counts, Hyper


class Parameters(NamedTuple):
    """Variational posterior of everything but the paths; leading axes (starts, 1).

    `hyper` is the law of the chain's hyper-parameters, see `bayeshmm.transitions.rows.RowsPrior`;
    `tail` has the log probabilities of the degrees of freedom of Student-t noise, (starts, 1,
    points), or None.
    """

    regression: NormalInverseGamma
    shrinkage: Shrinkage
    chain: ChainPosterior
    hyper: Hyper
    tail: Tensor | None = None


class Expectation(NamedTuple):
    """What the E-step knows of the paths.

    Attributes
    ----------
    log_normaliser
        Per run, (..., N).
    states
        Probability of each state in each row, (..., N, T, K), zero beyond the end.
    counts
        Summed over runs (n = 1), or per run (n = N).
    hidden
        Missing responses and weights of the rows.
    """

    log_normaliser: Tensor
    states: Tensor
    counts: Counts
    hidden: Hidden


@dataclass(frozen=True)
class Entry:
    """Posterior of the law of the first values, and its share of the bound."""

    prior: RegressionPrior
    regression: NormalInverseGamma
    shrinkage: Shrinkage
    bound: Tensor


@dataclass(frozen=True)
class VariationalFit:
    """A converged coordinate ascent.

    Attributes
    ----------
    prior
        The model.
    parameters
        The posterior; leading axes (1,), that of runs.
    entry
        Of the first values, or None.
    states
        Probability of each state in each row of the fitted runs, (N, T, K).
    counts
        Expected transitions, per run (N, ...).
    bound
        Evidence lower bound in model units, less the label symmetry.
    """

    prior: Prior
    parameters: Parameters
    entry: Entry | None
    states: Tensor
    counts: Counts
    bound: float

    def relabelled(self, order: Tensor) -> VariationalFit:
        """The same posterior with ``order[i]`` as state i."""
        parameters = self.parameters._replace(
            regression=self.parameters.regression.relabelled(order),
            chain=self.parameters.chain.relabelled(order),
            hyper=self.prior.transition.relabelled(self.parameters.hyper, order),
        )
        counts = Counts(
            self.counts.initial[..., order], self.counts.transition[..., order, :][..., order]
        )
        states = self.states[..., order]
        return replace(self, parameters=parameters, states=states, counts=counts)


def expectation(data: Encoded, law: Law, chain: Chain, dwell: int, by_run: bool) -> Expectation:
    """E-step: forward-backward on the expected log-likelihood.

    Parameters
    ----------
    data
        The runs.
    law
        Expectations of the regressions' parameters.
    chain
        Expected logarithms of the chain's parameters.
    dwell
        Minimum dwell, rows.
    by_run
        Whether to keep the transition counts of every run apart.
    """
    rows, hidden = log_likelihood(data.design, law)
    spread = data.schedule.spread(chain, dwell)
    result = messages.expected_counts(
        spread.initial, spread.transition, rows, lengths=data.design.lengths, minimum_dwell=dwell
    )
    counts = data.schedule.counts(chain, result, dwell, by_run)
    return Expectation(result.log_marginal, result.state, counts, hidden)


class CoordinateAscent:
    """Coordinate ascent on a batch of starts.

    Parameters
    ----------
    prior
        The model.
    data
        The runs.
    states
        Starting probabilities of the states, (B, N, T, K).
    weight
        How many times every run counts: below 1, the likelihood is tempered.
    """

    def __init__(self, prior: Prior, data: Encoded, states: Tensor, weight: float = 1.0) -> None:
        self.prior = prior
        self.weight = weight
        self.data = data
        self.design = data.design
        self.entry = fit_entry(prior.entry, data.entry)
        batch = (states.shape[0], 1)
        shrinkage = prior.regression.shrinkage(batch)
        ones = Shrinkage(*(torch.ones_like(part) for part in shrinkage))
        start = moments(self.design, states, _blank(self.design, states))
        law = prior.regression.posterior(start, ones.expected, weight)
        hyper = prior.transition.start(batch)
        tail = None if prior.tail is None else prior.tail.law(batch)
        chain = prior.transition.prior_law(hyper)
        self.parameters = Parameters(law, ones, chain, hyper, tail)
        self.expectation = self._expectation(law.law)
        self.bound = torch.full(batch[:1], -torch.inf, dtype=torch.float64)
        self.sweeps = 0
        self.converged = False

    def sweep(self) -> Tensor:
        """Update everything once; returns the bound of every start, (B,)."""
        self.sweeps += 1
        prior, last, tail = self.prior, self.expectation, self.parameters.tail
        weight, seen = self.weight, moments(self.design, last.states, last.hidden)
        law = prior.regression.posterior(seen, self.parameters.shrinkage.expected, weight)
        expected = law.law
        shrinkage = prior.regression.posterior_shrinkage(expected, weight)
        counts = Counts(*(weight * part for part in last.counts))
        chain, hyper = prior.transition.update(self.parameters.hyper, counts)
        if prior.tail is not None:
            rows = weight_moments(self.design, last.states, last.hidden)
            tail = prior.tail.updated(*(weight * part for part in rows))
        self.parameters = Parameters(law, shrinkage, chain, hyper, tail)
        self.expectation = self._expectation(expected)
        divergence = prior.regression.divergence(law, shrinkage, weight)
        divergence = divergence + prior.transition.divergence(chain, hyper)
        if prior.tail is not None and tail is not None:
            divergence = divergence + prior.tail.divergence(tail)
        self.bound = weight * self.expectation.log_normaliser.sum(-1) - divergence[:, 0]
        if self.entry is not None:
            self.bound = self.bound + self.entry.bound
        return self.bound

    def _expectation(self, law: Law) -> Expectation:
        law = self.prior.law(law, self.parameters.tail)
        chain = self.parameters.chain.expected_log
        return expectation(self.data, law, chain, self.prior.minimum_dwell, False)

    def run(self, sweeps: int, tolerance: float = 0.0) -> None:
        """Sweep until no bound rises by more than `tolerance` nats, at most `sweeps` times."""
        for _ in range(sweeps):
            before = self.bound
            self.converged = bool((self.sweep() - before < tolerance).all())
            if self.converged:
                return

    def keep(self, starts: Tensor) -> None:
        """Go on with these starts only."""
        self.parameters = take(self.parameters, starts)
        self.expectation = take(self.expectation, starts)
        self.bound = self.bound[starts]

    def fit(self, start: int) -> VariationalFit:
        """The posterior of one start."""
        parameters = take(self.parameters, start)
        by_run = expectation(
            self.data,
            self.prior.law(parameters.regression.law, parameters.tail),
            parameters.chain.expected_log,
            self.prior.minimum_dwell,
            True,
        )
        return VariationalFit(
            self.prior,
            parameters,
            self.entry,
            by_run.states,
            by_run.counts,
            float(self.bound[start]),
        )


def fit_entry(prior: RegressionPrior | None, design: Design | None) -> Entry | None:
    """Posterior of the law of the first values: one state, so no paths."""
    if prior is None or design is None:
        return None
    weights = torch.ones(*design.complete.shape, 1, dtype=torch.float64)
    shrinkage = Shrinkage(*(torch.ones_like(part) for part in prior.shrinkage((1,))))
    hidden = _blank(design, weights)
    bound = torch.tensor(-torch.inf, dtype=torch.float64)
    for _ in range(2000):
        law = prior.posterior(moments(design, weights, hidden), shrinkage.expected)
        shrinkage = prior.posterior_shrinkage(law.law)
        rows, hidden = log_likelihood(design, law.law)
        before, bound = bound, rows.sum() - prior.divergence(law, shrinkage)[0]
        if bound - before < 1e-10:
            break
    return Entry(prior, law, shrinkage, bound)


def _blank(design: Design, states: Tensor) -> Hidden:
    """Missing responses at zero with unit variance, weights at one, before anything is known."""
    *batch, _, _, K = states.shape
    D = design.layout.metrics
    completions = []
    for pattern in design.patterns:
        response = torch.where(pattern.observed, design.response[pattern.run, pattern.row], 0.0)
        nothing = torch.zeros(*batch, len(pattern.run), K, dtype=torch.float64)
        missing = torch.diag(pattern.missing.to(torch.float64))
        completions.append(
            Completion(
                nothing,
                nothing,
                response[:, None, :].expand(*batch, -1, K, D),
                missing.expand(*batch, 1, K, D, D),
            )
        )
    return Hidden(tuple(completions))
