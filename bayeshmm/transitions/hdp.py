"""Transitions among as many phases as the runs ask for: a sticky hierarchical Dirichlet process.

Truncated at L states (the weak limit), with persistence apart from where jumps lead:

    gamma ~ Gamma(2, 1)               how many states jumps lead to
    alpha ~ Gamma(gamma, 1/2)         how alike the states are in where they lead
    beta  ~ Dirichlet(gamma / L)      how often each state is jumped to
    J_k   ~ Dirichlet(alpha beta_-k)  where state k leads: the other states

so that the *weights* ``theta_l = alpha beta_l`` are independent, ``theta_l ~ Gamma(gamma/L, 1/2)``.

With the rows integrated out, n_kl jumps from k to l have the probability

    prod_k G(s_k) / G(s_k + n_k.) prod_{l != k} G(theta_l + n_kl) / G(theta_l),

G the gamma function and ``s_k`` the sum of the weights of the states other than k. Both ratios are
mixtures over an auxiliary variable (Escobar and West, 1995; Teh et al., 2006):

    G(theta + n) / G(theta) = sum_m S(n, m) theta^m             tables m of a Chinese restaurant
    G(s) G(n) / G(s + n) = int w^(s-1) (1-w)^(n-1) dw           w ~ Beta(s, n), xi = -log w

given which the weights are independent gammas again, ``Gamma(gamma/L + m_.l, 1/2 + xi_-l)``, sums
over the rows that may lead to l. Nothing is drawn for the jumps that a state cannot make to itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from bayeshmm.transitions.chain import (
    dirichlet_divergence,
    expected_log,
    matrix,
    off_diagonal,
)
from bayeshmm.transitions.dirichlet import check_dwell
from bayeshmm.transitions.log_ratios import DirichletLogRatios, log_cells
from bayeshmm.transitions.prior import TransitionPrior
from bayeshmm.transitions.rows import ExitRows, Hyper

SHARES = (2.0, 1.0)
"""Shape and rate of gamma."""

RATE = 0.5
"""Rate of alpha given gamma, whose shape gamma is."""

NAMES = ("jump_share", "jump_concentration", "share_concentration")

SMALLEST = 1e-300
"""Weights below are lifted to it: a weight of 0 would say that a state does not exist."""


@dataclass(frozen=True)
class StickyHDP:
    """Transitions among a learned number of phases, each with a persistence of its own.

    The hierarchical Dirichlet process of an infinite hidden Markov model, truncated at
    `max_states` (the *weak limit*; Fox, Sudderth, Jordan and Willsky, 2009, 2011): all phases share
    the frequencies beta with which they are jumped to, most of which may be next to nothing, so
    that states which the runs do not need stay empty. Persistence is learned apart, as in
    `Dirichlet` (the *disentangled* sticky process of Zhou, Gao and Paninski, 2020): that phases
    last says nothing about how alike they are in where they lead. Frequencies and concentrations
    are learned. The prior believes in few phases whatever the truncation: of ten runs that change
    phase three times each, 3 to 8 of 10 states have rows (90 %), or 3 to 10 of 20; under
    `Dirichlet`, nearly all have. The initial state is Dirichlet(1/L): worth one run in all.

    `Posterior.occupied` says how many phases have rows. It answers "how many components of *this*
    emission family", not "how many phases": where the family is even slightly wrong, the
    probability of every finite number goes to zero as data grow (Cai, Campbell and Broderick,
    2020). A number that grows with the runs, or leans on `max_states`, is a sign of that.

    Parameters
    ----------
    max_states
        Truncation L, 2 at least: well above the number of phases expected.
    expected_dwell
        As in `Dirichlet`.
    """

    max_states: int
    expected_dwell: float | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.max_states, int) and not isinstance(self.max_states, bool)
        if not whole or self.max_states < 2:
            raise ValueError(
                f"max_states must be an integer of at least 2, not {self.max_states!r}: the "
                "largest number of phases there may be."
            )
        check_dwell(self.expected_dwell)

    def prior(self, states: int, minimum_dwell: int, expected_rows: float) -> TransitionPrior:
        """Prior for `states` states, which must be `max_states`, with dwell times in rows."""
        if states != self.max_states:
            raise ValueError(
                f"states={states} contradicts StickyHDP(max_states={self.max_states}), which "
                "learns how many phases there are: leave states out, or change max_states."
            )
        rows = max(expected_rows, minimum_dwell + 1.0)
        return TransitionPrior(
            ExitRows(torch.ones(states, dtype=torch.bool), rows - minimum_dwell),
            HDPRows(states),
            torch.full((states,), 1.0 / states, dtype=torch.float64),
            minimum_dwell,
            rows,
        )


class HDPRows:
    """Jumps ``J_k ~ Dirichlet(alpha beta_-k)`` with learned ``alpha``, ``beta`` and ``gamma``.

    A `RowsPrior` whose variational law is a point: values and law are the same dictionaries, with
    ``jump_share`` (beta, (..., n, L)), ``jump_concentration`` (alpha) and ``share_concentration``
    (gamma, (..., n)).

    Parameters
    ----------
    states
        Truncation L.
    """

    def __init__(self, states: int) -> None:
        self.states = states

    def start(self, batch: tuple[int, ...]) -> Hyper:
        """Equal shares, and concentrations at their prior means."""
        gamma = torch.full(batch, SHARES[0] / SHARES[1], dtype=torch.float64)
        weights = (gamma / self.states / RATE)[..., None].expand(*batch, self.states)
        return _values(weights, gamma)

    def expected(self, law: Hyper) -> Tensor:
        """Dirichlet parameters of the rows at the point."""
        return self.cells(law)

    def updated(self, law: Hyper, posterior: Tensor) -> Hyper:
        """A better point given the law of the rows: the weights, then gamma.

        What is raised is their log joint density with the expected log rows, as a density of
        log weights and log gamma, whose mode is inside however small the weights. Its convex terms
        ``log G(s_k)`` are replaced by their tangents, which parts the weights from each other and
        leaves below what is raised: it never falls (Minka, 2000).
        """
        total = self.cells(law).sum(-1, keepdim=True)
        slope = self._into(expected_log(posterior) + torch.digamma(total)) - RATE
        shape = (law["share_concentration"] / self.states)[..., None]
        weights = _mode(self.states - 1.0, slope, shape)
        slope = (RATE * weights).log().sum(-1) - SHARES[1] * self.states
        gamma = self.states * _mode(float(self.states), slope, torch.tensor(SHARES[0]))
        return _values(weights, gamma)

    def divergence(self, law: Hyper, posterior: Tensor) -> Tensor:
        """Divergence of the rows, minus the log prior density of the point: of no bound a part."""
        rows = dirichlet_divergence(posterior, self.cells(law)).sum(-1)
        return rows - self.log_prior(law)

    def log_prior(self, values: Hyper) -> Tensor:
        """Log density of the log weights and of log gamma, (..., n)."""
        gamma = values["share_concentration"]
        shape = gamma / self.states
        weights = values["jump_concentration"][..., None] * values["jump_share"]
        each = _log_gamma_density(weights, shape[..., None], RATE)
        return each.sum(-1) + _log_gamma_density(gamma, torch.tensor(SHARES[0]), SHARES[1])

    def draw(self, generator: torch.Generator, batch: tuple[int, ...]) -> Hyper:
        """Values from the prior."""
        gamma = _gamma(torch.full(batch, SHARES[0], dtype=torch.float64), SHARES[1], generator)
        shape = (gamma / self.states)[..., None].expand(*batch, self.states)
        return _values(_gamma(shape, RATE, generator), gamma)

    def draw_from(self, law: Hyper, generator: torch.Generator) -> Hyper:
        """The point."""
        return {name: law[name] for name in NAMES}

    def cells(self, values: Hyper) -> Tensor:
        """Dirichlet parameters of the rows."""
        weights = values["jump_concentration"][..., None] * values["jump_share"]
        square = weights.clamp_min(SMALLEST)[..., None, :].expand(*weights.shape, self.states)
        return off_diagonal(square)

    def sample(
        self, values: Hyper, log_rows: Tensor, counts: Tensor, generator: torch.Generator
    ) -> Hyper:
        """Gibbs step given the jump counts: auxiliary variables, gamma, weights.

        gamma is drawn with the weights integrated out, by tables of the tables.
        """
        cells, gamma = self.cells(values), values["share_concentration"]
        tables = self._into(_tables(counts, cells, generator))
        old, new = (_log_gamma(part.sum(-1, keepdim=True), generator) for part in (cells, counts))
        evidence = softplus(new - old)  # -log w, where w = exp(old) / (exp(old) + exp(new))
        rate = self._into(evidence.expand(cells.shape)) + RATE
        shape = (gamma / self.states)[..., None].expand(tables.shape)
        second = _tables(tables, shape, generator).sum(-1)
        gamma = _gamma(SHARES[0] + second, SHARES[1] + (rate / RATE).log().mean(-1), generator)
        shape = (gamma / self.states)[..., None]
        return _values(_gamma(shape + tables, rate, generator), gamma)

    def relabelled(self, hyper: Hyper, order: Tensor) -> Hyper:
        """Values or a law with ``order[i]`` as state i."""
        return {name: hyper[name] for name in NAMES} | {
            "jump_share": hyper["jump_share"][..., order]
        }

    def model(self) -> Tensor:
        """Sites of the hyper-parameters and of the rows; with two states, jumps have no choice."""
        if self.states < 3:
            return torch.ones(self.states, self.states - 1, dtype=torch.float64)
        gamma = pyro.sample(
            "share_concentration", dist.Gamma(*torch.tensor(SHARES, dtype=torch.float64))
        )
        alpha = pyro.sample("jump_concentration", dist.Gamma(gamma, RATE))
        shares = (gamma / self.states)[..., None].expand(*gamma.shape, self.states)
        beta = pyro.sample("jump_share", dist.Dirichlet(shares))
        cells = self.cells({"jump_share": beta, "jump_concentration": alpha})
        ratios = pyro.sample("jump_log_ratio", DirichletLogRatios(cells).to_event(1))
        return log_cells(ratios).exp()

    def site_values(self, values: Hyper, rows: Tensor) -> Hyper:
        """Values of those sites."""
        if self.states < 3:
            return {}
        logs = rows[..., 0, :, :].clamp_min(SMALLEST).log()
        return {
            "share_concentration": values["share_concentration"][..., 0],
            "jump_concentration": values["jump_concentration"][..., 0],
            "jump_share": values["jump_share"][..., 0, :],
            "jump_log_ratio": logs[..., :-1] - logs[..., -1:],
        }

    def _into(self, rows: Tensor) -> Tensor:
        """Sums over the rows of what leads into each state, (..., K, K-1) -> (..., K)."""
        return matrix(torch.zeros(rows.shape[:-1], dtype=rows.dtype), rows).sum(-2)


def _values(weights: Tensor, gamma: Tensor) -> Hyper:
    """The dictionary of weights ``alpha beta`` and gamma."""
    alpha = weights.sum(-1)
    return {
        "jump_share": weights / alpha[..., None],
        "jump_concentration": alpha,
        "share_concentration": gamma,
    }


def _gamma(shape: Tensor, rate: Tensor | float, generator: torch.Generator) -> Tensor:
    """Draw gammas; what underflows is lifted."""
    return (_log_gamma(shape, generator).exp() / rate).clamp_min(SMALLEST)


def _log_gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Draw logarithms of gammas of rate 1, by one of ``shape + 1``, so that none underflows.

    Minus infinity where the shape is 0.
    """
    larger = torch._standard_gamma(shape + 1.0, generator=generator)
    uniform = torch.rand(shape.shape, dtype=shape.dtype, generator=generator)
    return larger.log() + torch.log1p(-uniform) / shape


def _tables(customers: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Draw how many tables so many customers open: the i-th one, with weight / (weight + i)."""
    seat = torch.arange(int(customers.max()), dtype=torch.float64)
    opens = torch.rand(*customers.shape, len(seat), dtype=torch.float64, generator=generator)
    opened = opens * (weight[..., None] + seat) < weight[..., None]
    return (opened & (seat < customers[..., None])).sum(-1).to(torch.float64)


def _log_gamma_density(value: Tensor, shape: Tensor, rate: float) -> Tensor:
    """Log density of the logarithm of a Gamma variable at the logarithm of `value`."""
    scaled = rate * value
    return shape * scaled.log() - scaled - torch.lgamma(shape)


def _mode(times: float, slope: Tensor, power: Tensor) -> Tensor:
    """Where ``-times log G(x) + slope x + power log x`` is largest, of positive x.

    The derivative falls and is convex: Newton's steps from below the root rise to it. It is below
    as ``digamma(x) <= digamma(2) - 1/x`` for x <= 1.
    """
    bound = 0.42278433509846714 * times - slope
    start = (times + power) / bound
    x = torch.where((bound > 0) & (start < 1), start, 1.0)
    for _ in range(20):
        gradient = slope - times * torch.digamma(x) + power / x
        curvature = times * torch.polygamma(1, x) + power / x**2
        x = x + gradient / curvature
    return x
