"""What is known exactly of a regression HMM: one test, or one class of them, for each fact.

1. The recursive regressions are the matrix-normal-inverse-Wishart model, in any order: here.
2. With one state the bound is the evidence: here.
3. With two it lies under the sum over all paths, and near it: here.
4. The bound never falls: ``test_variational``.
5. The density of an unseen run is a ratio of evidences: ``test_predictive``.
6. Another unit shifts every log density by its Jacobian: ``tests/bayeshmm/test_posterior``.
7. The order of the columns changes nothing: ``tests/bayeshmm/test_fitting``.
8. Without a past the metrics are a random walk: here.
9. Run effects that are eliminated are columns that were never built: here.
10. Missing entries are integrated out: here.
11. A metric that stands still has a bounded density: here.
"""

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from evidence import log_evidence, path_log_joints
from scipy.integrate import quad
from scipy.special import multigammaln
from scipy.stats import gamma, multivariate_normal, multivariate_t, qmc
from small_designs import (
    columns,
    design_of,
    known,
    name,
    problem,
    random_law,
    random_values,
    row,
    used,
    values_only,
    variants,
)
from torch.distributions import Gamma, kl_divergence

from bayeshmm import HMM, Autoregressive, Gaussian, Runs
from bayeshmm.emissions.law import Effects, Law, Spread
from bayeshmm.emissions.likelihood import log_likelihood, moments
from bayeshmm.emissions.regression import Precisions, RegressionPrior
from bayeshmm.emissions.tails import StudentT
from bayeshmm.hmm import run_log_densities
from bayeshmm.inference.search import search
from bayeshmm.inference.variational import CoordinateAscent
from bayeshmm.transitions import Chain


def precisions(layout, seed=0):
    rng = np.random.default_rng(seed)
    return Precisions(
        torch.from_numpy(rng.gamma(2.0, 1.0, (1, len(layout.group_names)))),
        torch.from_numpy(rng.gamma(2.0, 1.0, (1, layout.metrics))),
    )


def evidence_of(prior, data) -> float:
    """Of one state, all hyper-parameters at one: by the marginal t laws of the responses."""
    layout = prior.regression.layout
    ones = Precisions(
        torch.ones(1, len(layout.group_names), dtype=torch.float64),
        torch.ones(1, layout.metrics, dtype=torch.float64),
    )
    return log_evidence(data.design, ones).item()


def converged(prior, data, states=None) -> CoordinateAscent:
    """Coordinate ascent from given states of the rows; None: a single state."""
    rows = data.design.observed.any(-1)[None, ..., None].double()
    ascent = CoordinateAscent(prior, data, rows if states is None else states)
    ascent.run(2000, 1e-9)
    return ascent


class TestMatrixNormalInverseWishart:
    """1. Metrics with common regressors: their evidence is a matrix t density."""

    orders = ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0])

    def matrix_t(self, design, values, noise_shape):
        """Log density of the complete rows, from textbooks."""
        complete, D = design.complete, design.layout.metrics
        X, Y = design.past[:, :, 0][complete].numpy(), design.response[complete].numpy()
        scale = values.groups[0][design.layout.group_index[0]].numpy()
        if design.layout.run_effects:
            run = complete.nonzero()[:, 0].numpy()
            X = np.hstack([X, run[:, None] == np.arange(len(complete))])
            scale = np.append(scale, np.full(len(complete), values.groups[0, -1]))
        n, nu, psi = len(Y), 2 * noise_shape + D - 1, np.diag(values.scales[0].numpy())
        precision = np.diag(scale) + X.T @ X
        residual = Y.T @ Y - Y.T @ X @ np.linalg.solve(precision, X.T @ Y)
        return (
            multigammaln((nu + n) / 2, D) - multigammaln(nu / 2, D)
            - 0.5 * n * D * math.log(math.pi)
            + 0.5 * D * (np.log(scale).sum() - np.linalg.slogdet(precision)[1])
            + 0.5 * nu * np.linalg.slogdet(psi)[1]
            - 0.5 * (nu + n) * np.linalg.slogdet(psi + residual)[1]
        )  # fmt: skip

    @pytest.mark.parametrize(
        "family",
        [
            law(noise="normal", run_effects=effects)
            for law in (Gaussian, partial(Autoregressive, lags=2, coupling="full"))
            for effects in (False, True)
        ],
        ids=name,
    )
    def test_in_any_order(self, family):
        data = random_values(metrics=4)
        psi = torch.tensor([[0.5, 1.0, 2.0, 4.0]], dtype=torch.float64)
        kinds = {"level": 0.7, "intercept": 1.3, "difference 1": 2.0, "run": 0.4}
        found = []
        for order in self.orders:
            design = design_of(data[:, :, order], family)
            groups = [kinds[group.removeprefix("cross ")] for group in design.layout.group_names]
            values = Precisions(torch.tensor([groups], dtype=torch.float64), psi[:, order])
            found.append(log_evidence(design, values, noise_shape=1.5).item())
            assert found[-1] == pytest.approx(self.matrix_t(design, values, 1.5), abs=1e-9)
        assert found == pytest.approx([found[0]] * 3, abs=1e-9)


@pytest.mark.parametrize("family", variants(noise=("normal",)), ids=name)
@pytest.mark.parametrize("missing", [False, True])
def test_2_with_one_state_the_bound_is_the_evidence(family, missing):
    """Also where the last metrics of some rows, or whole rows, are missing."""
    values = random_values()
    if missing:
        values[0, 3, 2] = values[1, 5, 1:] = values[2, 2] = np.nan
    prior, data = problem(known(family), 1, values, [12, 9, 5])
    ascent = converged(prior, data)
    assert ascent.bound.item() == pytest.approx(evidence_of(prior, data), abs=1e-5)


class TestEnumeration:
    """3. Two states, hyper-parameters known: the bound lies just under the sum over all paths.

    The two labellings alone make a gap of up to log 2.
    """

    def gap(self, family, values, evidence):
        prior, data = problem(family, 2, values)
        best = max(search(prior, data, 4, seed)[0].bound for seed in range(2))
        return evidence(prior, data) - best

    @staticmethod
    def summed(prior, data, weights=None):
        ones = Precisions(
            *(torch.ones_like(part) for part in prior.regression.shrinkage((1,))[::2])
        )
        _, terms = path_log_joints(data.design, prior.transition, ones, weights)
        return terms.logsumexp(-1)

    @pytest.mark.parametrize("family", variants(noise=("normal",)), ids=name)
    @pytest.mark.parametrize("missing", [False, True])
    def test_normal_noise(self, family, missing):
        values = random_values(runs=2, rows=5, metrics=2, seed=1)
        values[:, 3:] += 4.0
        if missing:
            values[0, 2, 1] = values[1, 3] = np.nan
        gap = self.gap(known(family), values, lambda *model: self.summed(*model).item())
        assert 0.0 < gap < 4.0

    @pytest.mark.parametrize("family", variants(("full",), ("normal",), (True,)), ids=name)
    def test_a_missing_entry_that_others_are_regressed_on(self, family):
        """Integrated by quadrature."""
        values = random_values(runs=1, rows=8, metrics=2, seed=1)
        values[0, 4:] += 4.0
        values[0, 3, 0] = np.nan

        def evidence(prior, data):
            design = data.design
            nodes, terms = np.linspace(-4.0, 4.0, 41), []
            for node in nodes:
                response, observed = design.response.clone(), design.observed.clone()
                response[0, 3, 0], observed[0, 3, 0] = np.sinh(node), True
                filled = replace(data, design=replace(design, response=response, observed=observed))
                terms.append(self.summed(prior, filled).item() + np.log(np.cosh(node)))
            return np.logaddexp.reduce(terms) + np.log(nodes[1] - nodes[0])

        assert 0.0 < self.gap(known(family), values, evidence) < 4.0

    @pytest.mark.parametrize("family", variants(("full",), ("student-t",), (True,)), ids=name)
    def test_student_t_noise(self, family):
        """The rows' weights by quasi-Monte Carlo over their prior, in independent quarters."""
        values = random_values(runs=1, rows=7 + family.dynamic, metrics=2, seed=1)
        values[0, 4:] += 4.0
        values[0, 6] += 8.0
        degrees = StudentT(2.0, 0.1).grid[16].item()

        def evidence(prior, data):
            rows = data.design.observed.any(-1)
            quarters = []
            for seed in range(4):
                points = qmc.Sobol(int(rows.sum()), rng=seed).random(256)
                weights = torch.ones(256, *rows.shape, dtype=torch.float64)
                weights[:, rows] = torch.from_numpy(
                    gamma(degrees / 2, scale=2 / degrees).ppf(points)
                )
                quarters.append(
                    self.summed(prior, data, weights).logsumexp(0).item() - math.log(256)
                )
            assert np.std(quarters) < 0.2
            return np.logaddexp.reduce(quarters) - math.log(4)

        assert 0.1 < self.gap(known(family, degrees), values, evidence) < 4.0


@pytest.mark.parametrize(
    "family",
    [
        partial(Autoregressive, lags=3, half_lives=(4.0,), coupling=coupling)(
            covariance=covariance, noise=noise, run_effects=False
        )
        for coupling, covariance, noise in itertools.product(
            ("diagonal", "full"), ("diagonal", "full"), ("normal", "student-t")
        )
    ],
    ids=name,
)
def test_8_zero_coefficients_of_the_past_are_a_random_walk(family):
    """In the units of the data; a metric that misses a row steps from its last value."""
    rng = np.random.default_rng(0)
    values = 100.0 + rng.standard_normal((2, 20, 3)).cumsum(1) * [1.0, 5.0, 0.2]
    values[0, 4, 1] = values[0, 9, :2] = values[1, 12] = np.nan
    frame = pd.DataFrame(
        [
            {"run": f"r{n}", "step": t, **dict(zip("abc", values[n, t], strict=True))}
            for n, t in np.ndindex(2, 20)
        ]
    )
    encoding, data = HMM(1, family).encode(Runs.from_dataframe(frame))
    law = values_only(random_law(data.design.layout, 1, degrees=4.0))
    law.coefficients[..., : data.design.layout.past] = 0.0
    if family.noise == "normal":
        law = law._replace(tail=None)
    one = torch.ones(1, 1, dtype=torch.float64)
    got = run_log_densities(data, law, Chain(one, one[None]), 1)

    contrasts = np.zeros((3, 3))
    if family.covariance == "full":
        contrasts[:, :2] = law.coefficients[0, 0, :, -2:] * data.design.layout.active[:, -2:]
    inverse = np.linalg.inv(np.eye(3) - contrasts)
    scaling = encoding.scaling
    unit = (scaling.sd * scaling.increment)[scaling.order]
    root = unit[:, None] * inverse / np.sqrt(law.precision[0, 0].numpy())
    for n in range(2):
        ordered = values[n][:, scaling.order]
        last = ordered[0]
        expected = -np.log(scaling.sd).sum()  # first values, whose law is another one
        for now in ordered[1:]:
            seen = ~np.isnan(now)
            if seen.any():
                covariance = (root @ root.T)[np.ix_(seen, seen)]
                step = (now - last)[seen]
                expected += (
                    multivariate_normal(cov=covariance).logpdf(step)
                    if law.tail is None
                    else multivariate_t(shape=covariance, df=4.0).logpdf(step)
                )
            last = np.where(seen, now, last)
        assert got[n].item() == pytest.approx(expected, rel=1e-9)


class Columns:
    """9. Regressions with a column for every run, each with the precision of the run effects.

    Parameters
    ----------
    design, states, law, values
        Rows, probabilities of their states, what was believed of them before, hyper-parameters.
    prior
        Of the package: its noise's shapes.
    """

    def __init__(self, design, states, law, values, prior):
        self.layout, self.values, self.prior = design.layout, values, prior
        N, _, K = states.shape
        sums = {(k, j): self.nothing(N, j) for k in range(K) for j in range(design.layout.metrics)}
        for n, t in design.observed.any(-1).nonzero().tolist():
            for k, j in itertools.product(range(K), used(design, n, t)):
                self.add(sums[k, j], design, law, (n, t, k, j), states[n, t, k])
        self.posteriors = {place: self.posterior(place[1], N, *sums[place]) for place in sums}
        self.states, self.runs = K, N

    def size(self, j):
        return self.layout.past + (j if self.layout.full else 0)

    def nothing(self, N, j):
        """Moments of [regressors, runs, response], number of rows, variance of rounding."""
        size = self.size(j) + N + 1
        return [torch.zeros(size, size, dtype=torch.float64), 0.0, 0.0]

    def add(self, sums, design, law, place, w):
        n, t, k, j = place
        what = row(design, law, n, t, k)
        scale = 1.0
        if law.tail is not None:
            nu = law.tail.degrees.item()
            scale = (nu + int(design.observed[n, t].sum())) / (nu + what.distance)
        size, full = self.size(j), len(sums[0])
        u = torch.zeros(full, dtype=torch.float64)
        u[:size] = columns(design, n, t, j, what.response)
        u[size + n], u[-1] = 1.0, what.response[j]
        pick = torch.zeros(full, self.layout.metrics, dtype=torch.float64)
        pick[-1, j] = 1.0
        for i in range(size - self.layout.past):
            pick[self.layout.past + i, i] = 1.0
        sums[0] += w * (scale * torch.outer(u, u) + pick @ what.covariance @ pick.T)
        sums[1] += w
        sums[2] += w * scale * design.rounding[j] * design.observed[n, t, j]

    def precision(self, groups, scales, j, N):
        """Of every column's coefficient."""
        past = groups[0][self.layout.group_index[j]]
        contrasts = scales[0, : self.size(j) - self.layout.past]
        return torch.cat([past, contrasts, groups[0, -1:].expand(N)])

    def posterior(self, j, N, moments, rows, rounding):
        """Mean and covariance of the coefficients, shape and rate of the variance."""
        prior = torch.diag(self.precision(*self.values, j, N))
        V = torch.linalg.inv(prior + moments[:-1, :-1])
        m = V @ moments[:-1, -1]
        rest = moments[-1, -1] - m @ moments[:-1, -1] + rounding
        shape = self.prior.shapes[j] + 0.5 * rows
        return m, V, shape, 0.5 * (self.values.scales[0, j] + rest)

    def law(self, tail):
        """What the package's E-step needs of them."""
        K, D, R = self.states, self.layout.metrics, self.layout.regressors
        b = torch.zeros(1, K, D, R, dtype=torch.float64)
        covariance = torch.eye(R, dtype=torch.float64).repeat(1, K, D, 1, 1)
        precision, log_variance = torch.zeros(2, 1, K, D, dtype=torch.float64)
        effect, variance = torch.zeros(2, self.runs, K, D, dtype=torch.float64)
        leverage = torch.zeros(self.runs, K, D, R, dtype=torch.float64)
        for (k, j), (m, V, shape, rate) in self.posteriors.items():
            size = self.size(j)
            b[0, k, j, :size], effect[:, k, j] = m[:size], m[size:]
            covariance[0, k, j, :size, :size] = V[:size, :size]
            leverage[:, k, j, :size] = -V[size:, :size]
            variance[:, k, j] = V.diagonal()[size:]
            precision[0, k, j] = shape / rate
            log_variance[0, k, j] = rate.log() - torch.digamma(shape)
        effects = Effects(effect, Spread(leverage, variance))
        return Law(b, precision, log_variance, covariance, effects, tail)

    def hyper(self):
        """Gamma laws of the hyper-parameters given these posteriors."""
        G, D = len(self.layout.group_names), self.layout.metrics
        start = self.prior.shrinkage((1,))
        groups, scales = (
            [start.group_shape.clone(), start.group_rate.clone()],
            [start.scale_shape.clone(), start.scale_rate.clone()],
        )
        for (_, j), (m, V, shape, rate) in self.posteriors.items():
            squares = shape / rate * m**2 + V.diagonal()
            index = [*self.layout.group_index[j].tolist()]
            index += [G + i for i in range(self.size(j) - self.layout.past)]
            index += [G - 1] * self.runs
            for i, square in zip(index, squares, strict=True):
                law, place = (groups, i) if i < G else (scales, i - G)
                law[0][0, place] += 0.5 if law is groups else 0.0
                law[1][0, place] += 0.5 * square
            scales[1][0, j] += 0.5 * shape / rate
        degrees = 2 * self.prior.hyperpriors.noise_shape + (D - 1) * self.layout.full
        scales[0] += 0.5 * self.states * degrees
        return Gamma(*groups), Gamma(*scales)

    def divergence(self):
        """From the prior, that of the hyper-parameters included: term by term."""
        groups, scales = self.hyper()
        start = self.prior.shrinkage((1,))
        total = kl_divergence(groups, Gamma(start.group_shape, start.group_rate)).sum()
        total = total + kl_divergence(scales, Gamma(start.scale_shape, start.scale_rate)).sum()
        mean = (groups.mean, scales.mean)
        log = tuple(torch.digamma(law.concentration) - law.rate.log() for law in (groups, scales))
        for (_, j), (m, V, shape, rate) in self.posteriors.items():
            a = self.prior.shapes[j]
            expected = self.precision(*mean, j, self.runs)
            squares = shape / rate * m**2 + V.diagonal()
            total = total + 0.5 * (
                -torch.logdet(V) - self.precision(*log, j, self.runs).sum()
                + (expected * squares).sum() - len(m)
            )  # fmt: skip
            total = total + (
                shape * rate.log() - torch.lgamma(shape) + torch.lgamma(a)
                - a * (log[1][0, j] - math.log(2))
                - (shape - a) * (rate.log() - torch.digamma(shape))
                - shape + 0.5 * mean[1][0, j] * shape / rate
            )  # fmt: skip
        return total


@pytest.mark.parametrize("family", variants(run_effects=(True,)), ids=name)
@pytest.mark.parametrize("missing", [0.0, 0.3])
class TestEliminatedEffects:
    """9. Posterior, rows of the E-step, hyper-parameters and divergence."""

    @pytest.fixture
    def both(self, family, missing):
        values = random_values(3, 8, 3, seed=5, missing=missing)
        values[2, 3] = np.nan
        design = design_of(values, family, [8, 8, 5], resolution=0.1)
        assert bool(design.patterns) == (missing > 0)
        degrees = 4.0 if family.noise == "student-t" else None
        before = random_law(design.layout, 2, seed=1, runs=3, degrees=degrees)
        states = torch.rand(3, 8, 2, generator=torch.Generator().manual_seed(1)).double()
        prior, hyper = RegressionPrior(design.layout, 2), precisions(design.layout)
        _, hidden = log_likelihood(design, before)
        got = prior.posterior(moments(design, states, hidden), hyper)
        expected = Columns(design, states, before, hyper, prior)
        return design, prior, got, expected, before.tail

    def test_posterior(self, both):
        design, _, got, expected, tail = both
        law, built = got.law, expected.law(tail)
        used = design.layout.active[:, :, None] & design.layout.active[:, None, :]
        close = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-9)
        close(law.coefficients * design.layout.active, built.coefficients)
        close(law.precision, built.precision)
        close(law.log_variance, built.log_variance)
        close(law.covariance * used, built.covariance * used)
        close(law.effects.mean, built.effects.mean)
        close(law.effects.spread.variance, built.effects.spread.variance)
        close(law.effects.spread.leverage * design.layout.active, built.effects.spread.leverage)
        for (k, j), (_, V, _, _) in expected.posteriors.items():
            runs = got.runs.variance[:, k, j].log().sum()
            close(got.log_det[0, k, j] + runs, torch.logdet(V))

    def test_rows(self, both):
        design, _, got, expected, tail = both
        rows, _ = log_likelihood(design, got.law._replace(tail=tail))
        law = expected.law(tail)
        for n, t in design.observed.any(-1).nonzero().tolist():
            for k in range(2):
                assert rows[n, t, k].item() == pytest.approx(
                    row(design, law, n, t, k).log_likelihood, rel=1e-8
                )

    def test_hyper_parameters_and_divergence(self, both):
        _, prior, got, expected, _ = both
        shrinkage = prior.posterior_shrinkage(got.law)
        groups, scales = expected.hyper()
        built = (groups.concentration, groups.rate, scales.concentration, scales.rate)
        for one, other in zip(shrinkage, built, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
        divergence = prior.divergence(got, shrinkage)
        assert divergence.item() == pytest.approx(expected.divergence().item(), rel=1e-9)


class TestMissingEntries:
    """10. Of metrics at the end of the model's order, and before it."""

    @pytest.mark.parametrize(
        "family", [f for f in variants() if f.coupling == "diagonal"], ids=name
    )
    def test_a_trailing_metric_that_is_never_seen_is_not_there(self, family):
        values = random_values(2, 10, 3)
        values[:, 1:, 2] = np.nan
        more, less = design_of(values, family), design_of(values[:, :, :2], family)
        degrees = 3.0 if family.noise == "student-t" else None
        law = random_law(more.layout, 2, runs=2, degrees=degrees)
        past, contrasts = more.layout.past, less.layout.regressors - more.layout.past
        kept = torch.tensor([*range(past), *range(past, past + contrasts)])
        part = law._replace(
            coefficients=law.coefficients[..., :2, kept],
            precision=law.precision[..., :2],
            log_variance=law.log_variance[..., :2],
            covariance=law.covariance[..., :2, :, :][..., kept, :][..., kept],
        )
        if law.effects is not None:
            mean, (leverage, variance) = law.effects
            spread = Spread(leverage[..., :2, :][..., kept], variance[..., :2])
            part = part._replace(effects=Effects(mean[..., :2], spread))
        rows, other = log_likelihood(more, law)[0], log_likelihood(less, part)[0]
        torch.testing.assert_close(rows[:, 1:], other[:, 1:], rtol=1e-10, atol=1e-10)
        assert (rows[:, 1:] != 0).all()

    @pytest.mark.parametrize("family", variants(covariance=("full",)), ids=name)
    @pytest.mark.parametrize("sure", [False, True])
    def test_a_leading_one_is_integrated_out(self, family, sure):
        """Also of the expected density, which is what the bound needs."""
        values = random_values(2, 6, 3, seed=2)
        values[1, 4, 0] = np.nan
        design = design_of(values, family, resolution=0.0)
        degrees = 3.0 if family.noise == "student-t" else None
        law = random_law(design.layout, 2, runs=2, degrees=degrees)
        law = values_only(law) if sure else law
        expected = log_likelihood(design, law)[0][1, 4, 0].item()
        seen = replace(design, observed=torch.ones_like(design.observed))

        def density(z):
            response = design.response.clone()
            response[1, 4, 0] = math.sinh(z)
            whole = log_likelihood(replace(seen, response=response), law)[0][1, 4, 0].item()
            return math.exp(whole - expected) * math.cosh(z)

        assert quad(density, -9, 9, epsrel=1e-7, limit=200)[0] == pytest.approx(1.0, rel=1e-6)


class TestConstantMetric:
    """11. The variance of rounding bounds the density of rows that stand still."""

    def largest(self, family, resolution):
        """Largest expected log density of a row of one constant metric, after many sweeps."""
        values = np.zeros((3, 30, 1))
        values[:, 0] = [[1.0], [2.0], [3.0]]
        prior, data = problem(family, 1, values[:, 0 if family.dynamic else 1 :])
        rounding = torch.full((1,), resolution**2 / 12, dtype=torch.float64)
        design = replace(data.design, rounding=rounding)
        if family.dynamic:  # the step from the first value is not one of standing still
            design.observed[:, 1] = False
        ascent = CoordinateAscent(
            prior, replace(data, design=design), design.observed[None].double()
        )
        ascent.run(1000)
        law = prior.law(ascent.parameters.regression.law, ascent.parameters.tail)
        return log_likelihood(design, law)[0].max().item()

    @pytest.mark.parametrize("noise", ["normal", "student-t"])
    @pytest.mark.parametrize("past", [Gaussian, partial(Autoregressive, lags=2)])
    @pytest.mark.parametrize("effects", [False, True])
    def test_is_bounded(self, past, noise, effects):
        family, resolution = past(noise=noise, run_effects=effects), 1e-3
        bound = -0.5 * math.log(2 * math.pi * math.e * resolution**2 / 12)
        got = self.largest(family, resolution)
        assert bound - 3.0 < got < bound
        assert self.largest(family, 1e-9) > bound + 5.0
