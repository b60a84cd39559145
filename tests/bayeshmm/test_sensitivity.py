"""Prior sensitivity: weights against densities by quadrature, shifts against a fit made again."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from synthetic_runs import EVERY, QUICK, change_rows, moving_runs

import bayeshmm as bh
from bayeshmm import sensitivity
from bayeshmm.emissions.law import Effects, Law
from bayeshmm.emissions.layout import Layout
from bayeshmm.emissions.regression import RegressionPrior
from bayeshmm.emissions.tails import StudentT
from bayeshmm.inference import gibbs
from bayeshmm.transitions import Calendar, Chain, Dirichlet

PARTS = ["shrinkage", "run_effects", "scale", "noise_shape", "degrees", "expected_dwell"]
SHIFTS = ["entry_time", "entry_probability", "occupancy", "transition", "dwell", "noise", "in_sd"]
DWELL = 4
CHAINS, SWEEPS = 24, 120


@pytest.fixture(scope="module")
def few():
    """Four runs of 25 rows and one metric, so that priors have a say."""
    laws = np.array([[(-0.3, 0.0, 0.1), (0.0, 0.3, 0.3)], [(0.0, 0.0, 0.05), (0.5, 0.0, 0.2)]])
    rows = change_rows(4, 0, [(10, 16)])
    return moving_runs(rows, [24, 26, 25, 24], laws, np.array([10.0, 0.0]), 2).select("m0")


@pytest.fixture(scope="module")
def mode(few):
    return bh.fit(few, 2, emission=bh.Autoregressive(lags=1), **QUICK)


@pytest.fixture(scope="module")
def few_posterior(mode):
    """Exact draws around the same mode."""
    return replace(
        mode,
        inference="gibbs",
        draws=drawn(mode, mode.variational.prior, seed=1),
        diagnostics=pd.Series({"effective_draws": 0.5 * CHAINS * SWEEPS}),
    )


@pytest.fixture(scope="module")
def table(few_posterior):
    return few_posterior.sensitivity()


def drawn(mode, prior, seed):
    """Draws of the posterior of `mode` under another prior."""
    return gibbs.sample(
        replace(mode.variational, prior=prior),
        mode.encoding.encode(mode.runs),
        CHAINS * SWEEPS,
        chains=CHAINS,
        warmup=50,
        thin=1,
        seed=seed,
    )


def under(prior, part, times):
    """The model with one prior made wider by a factor, as a user would write it."""
    if part == "expected_dwell":
        present = prior.transition
        rows = present.expected_dwell + (times - 1) * (present.expected_dwell - DWELL)
        return replace(prior, transition=Dirichlet().prior(present.states, DWELL, rows))
    present = prior.regression.hyperpriors
    shape, rate = (present.noise_shape, None) if part == "noise_shape" else getattr(present, part)
    value = {
        "shrinkage": (shape, rate and rate * times**2),
        "run_effects": (shape, rate and rate * times**2),
        "scale": (shape, rate and rate / times**2),
        "noise_shape": shape / times,
        "degrees": (shape, rate and rate / times),
    }[part]
    hyperpriors = replace(present, **{part: value})
    return replace(
        prior,
        regression=replace(prior.regression, hyperpriors=hyperpriors),
        tail=StudentT(*hyperpriors.degrees),
    )


class TestAgainstAFitMadeAgain:
    def statistics(self, draws):
        """Of every block, bounded or logged: (S, M)."""
        law = draws.law
        parts = [
            law.log_variance.flatten(1),
            torch.tanh(law.coefficients).flatten(1),
            law.effects.mean.square().mean(1).log().flatten(1),
            law.tail.degrees.log(),
            draws.chain.transition.diagonal(dim1=-2, dim2=-1).flatten(1),
            torch.from_numpy((draws.paths == 0).mean((1, 2)))[:, None],
        ]
        return torch.cat(parts, 1).numpy()

    def estimate(self, values, weights):
        """Weighted means and their standard errors, by the delta method over chains."""
        mean = weights @ values
        parts = (len(weights) * weights[:, None] * (values - mean)).reshape(CHAINS, SWEEPS, -1)
        return mean, parts.mean(1).std(0, ddof=1) / math.sqrt(CHAINS)

    @pytest.mark.parametrize(
        ("part", "times"),
        [
            ("shrinkage", 2.0),
            ("run_effects", 2.0),
            ("scale", 0.1),
            ("noise_shape", 0.2),
            ("degrees", 0.5),
            ("expected_dwell", 2.0),
        ],
    )
    def test_weighted_means_are_those_of_the_other_posterior(self, few_posterior, part, times):
        """Largest |z| with a false-alarm rate of 1e-3; without weights the means differ."""
        _, present = sensitivity.under(few_posterior, part, 1.0)
        _, log_density = sensitivity.under(few_posterior, part, times)
        weights, k_hat = sensitivity.smoothed((log_density - present).numpy(), 0.5)
        assert k_hat < sensitivity.RELIABLE
        prior = under(few_posterior.variational.prior, part, times)
        again = self.statistics(drawn(few_posterior, prior, seed=2))
        values, even = self.statistics(few_posterior.draws), np.full(len(weights), 1 / len(weights))
        mean, error = self.estimate(again, even)
        largest = []
        for by in (weights, even):
            found, found_error = self.estimate(values, by)
            largest.append((abs(found - mean) / np.hypot(error, found_error)).max())
        limit = stats.t.isf(0.5e-3 / len(mean), CHAINS - 1)
        assert largest[0] < limit < largest[1]


class TestDensities:
    """Every log ratio is that of densities written anew, the hyper-parameters integrated out."""

    layout = Layout(2, ("intercept", "level"), full=True, run_effects=True)

    def law(self, K=2, N=3):
        rng = np.random.default_rng(0)
        coefficients = torch.from_numpy(rng.normal(0, 0.7, (1, 1, K, 2, 3)))
        coefficients[..., ~self.layout.active] = 5.0  # must not matter
        precision = torch.from_numpy(rng.gamma(2.0, 0.5, (1, 1, K, 2)))
        effects = Effects(torch.from_numpy(rng.normal(0, 0.5, (1, N, K, 2))))
        return Law(coefficients, precision, -precision.log(), effects=effects)

    def log_integral(self, log_density, prior):
        """Of the exponential of a function of a precision (points, 1, 1) over its Gamma prior."""
        shape, rate = prior
        log = np.linspace(-30.0, 7.0, 4001)  # the prior has a pole at 0, its logarithm has none
        precision = np.exp(log)[:, None, None]
        law = stats.gamma(shape, scale=1 / rate).logpdf(precision[:, 0, 0]) + log
        points = log_density(precision).sum((-2, -1)) + law
        return math.log(np.trapezoid(np.exp(points - points.max()), log)) + points.max()

    def by_quadrature(self, law, hyperpriors):
        b, variance = law.coefficients[0, 0].numpy(), 1 / law.precision[0, 0].numpy()
        effects = law.effects.mean[0].reshape(-1, 2).numpy()
        sd = np.sqrt(variance)

        def normal(values, deviation):
            return lambda x: stats.norm(0, deviation / np.sqrt(x)).logpdf(values)

        def noise(j):
            shape = hyperpriors.noise_shape + j / 2
            contrast = normal(b[:, 1:, 2], sd[:, 1:])  # of metric 1 with metric 0

            def log_density(psi):
                own = stats.invgamma(shape, scale=psi / 2).logpdf(variance[:, j : j + 1])
                return own + contrast(psi) if j == 0 else own

            return log_density

        total = sum(
            self.log_integral(normal(b[:, :, group], sd), hyperpriors.shrinkage) for group in (0, 1)
        )
        tiled = np.tile(sd, (len(effects) // len(sd), 1))
        total += self.log_integral(normal(effects, tiled), hyperpriors.run_effects)
        return total + sum(self.log_integral(noise(j), hyperpriors.scale) for j in (0, 1))

    @pytest.mark.parametrize(
        "change",
        [
            {"shrinkage": (0.5, 2.0)},
            {"run_effects": (0.5, 0.125)},
            {"scale": (0.5, 0.125)},
            {"noise_shape": 2.0},
            {"noise_shape": 0.5, "scale": (2.0, 3.0), "shrinkage": (1.5, 0.7)},
        ],
        ids=lambda change: "-".join(change),
    )
    def test_regressions(self, change):
        law, present = self.law(), bh.Hyperpriors()
        other = replace(present, **change)
        expected = self.by_quadrature(law, other) - self.by_quadrature(law, present)
        found = [
            sensitivity.log_regressions(RegressionPrior(self.layout, 2, some), law)
            for some in (present, other)
        ]
        assert found[0].shape == (1,)
        assert (found[1] - found[0]).item() == pytest.approx(expected, rel=1e-6)

    def test_degrees(self):
        """A Gamma law cut to the grid, per unit of the logarithm."""
        prior, other = StudentT(2.0, 0.1), StudentT(2.0, 0.05)
        grid = prior.grid.numpy()

        def log_law(rate):
            density = stats.gamma(2.0, scale=1 / rate).pdf(grid) * grid
            return np.log(density / density.sum())

        place = [3, 40, 59]
        degrees = prior.grid[place][:, None]
        found = sensitivity.log_degrees(other, degrees) - sensitivity.log_degrees(prior, degrees)
        np.testing.assert_allclose(found, (log_law(0.05) - log_law(0.1))[place], rtol=1e-9)

    def test_exits(self):
        rng = np.random.default_rng(0)
        exits = rng.beta(1.0, 9.0, (4, 3))
        matrix = np.einsum("sk,kl->skl", exits / 2, 1 - np.eye(3)) + np.apply_along_axis(
            np.diag, 1, 1 - exits
        )
        chain = Chain(torch.ones(4, 1, 3).double() / 3, torch.from_numpy(matrix)[:, None])
        densities = []
        for rows in (12.0, 20.0):
            prior = Dirichlet().prior(3, DWELL, rows).exits
            a, b = prior.grid[:, 0].numpy().T
            given = stats.beta(a, b).pdf(exits[:, :, None]).prod(1)
            expected = np.log(given @ prior.log_prior.exp().numpy())
            densities.append((expected, prior.log_density(chain.log_exits[:, 0]).numpy()))
        (first, found_first), (second, found_second) = densities
        np.testing.assert_allclose(found_second - found_first, second - first, rtol=1e-8)


class TestWeights:
    def test_weights_that_hardly_differ_are_left_alone(self):
        log_ratio = np.linspace(0.0, 0.9, 200)
        weights, k_hat = sensitivity.smoothed(log_ratio, 1.0)
        np.testing.assert_allclose(weights, np.exp(log_ratio) / np.exp(log_ratio).sum())
        assert k_hat == 0.0

    @pytest.mark.parametrize(("tail", "reliable"), [(0.2, True), (1.5, False)])
    def test_k_hat_is_the_shape_of_the_tail(self, tail, reliable):
        log_ratio = np.log(stats.genpareto(tail).ppf((np.arange(4000) + 0.5) / 4000))
        weights, k_hat = sensitivity.smoothed(log_ratio, 1.0)
        assert weights.sum() == pytest.approx(1.0)
        assert (k_hat < sensitivity.RELIABLE) == reliable
        assert k_hat == pytest.approx(tail, abs=0.25)

    def test_shifts_are_over_the_draws_that_have_a_value(self):
        values = np.array([[1.0, np.nan, 7.0], [3.0, 4.0, 7.0], [5.0, 8.0, 7.0]])
        mean, shift, deviation = sensitivity.shifts(values, np.array([0.5, 0.25, 0.25]))
        np.testing.assert_allclose(mean, [3.0, 6.0, 7.0])
        np.testing.assert_allclose(shift, [2.5 - 3.0, 0.0, 0.0], atol=1e-15)
        np.testing.assert_allclose(deviation, [math.sqrt(8 / 3), 2.0, 0.0])
        _, shift, _ = sensitivity.shifts(values, np.array([1.0, 0.0, 0.0]))
        np.testing.assert_allclose(shift, [-2.0, 0.0, 0.0], atol=1e-15)


class TestTable:
    def test_rows_and_columns(self, table):
        index = [(part, change) for part in PARTS for change in ("narrowed", "widened")]
        assert list(table.index) == index
        assert list(table) == ["prior", "k_hat", *SHIFTS, "error_in_sd", "most_moved"]
        assert table.attrs["units"]["entry_time"] == "training steps"
        assert table.attrs["factor"] == 2.0
        assert np.isfinite(table.select_dtypes("number").to_numpy()).all()
        assert (table[SHIFTS] >= 0).all(axis=None)

    def test_priors_are_written_as_in_code(self, table, few_posterior):
        rows = few_posterior.variational.prior.transition.expected_dwell
        assert table["prior"].tolist() == [
            *("shrinkage=(0.5, 0.125)", "shrinkage=(0.5, 2.0)"),
            *("run_effects=(0.5, 0.125)", "run_effects=(0.5, 2.0)"),
            *("scale=(0.5, 2.0)", "scale=(0.5, 0.125)"),
            *("noise_shape=2.0", "noise_shape=0.5"),
            *("degrees=(2.0, 0.2)", "degrees=(2.0, 0.05)"),
            f"expected_dwell={(rows - (rows - DWELL) / 2) * EVERY:g}",
            f"expected_dwell={(rows + (rows - DWELL)) * EVERY:g}",
        ]

    @pytest.mark.parametrize("row", [("run_effects", "widened"), ("expected_dwell", "narrowed")])
    def test_shifts_by_hand(self, table, few_posterior, row):
        part, change = row
        times = {"narrowed": 0.5, "widened": 2.0}[change]
        densities = [sensitivity.under(few_posterior, part, x)[1] for x in (times, 1.0)]
        weights, k_hat = sensitivity.smoothed((densities[0] - densities[1]).numpy(), 0.5)
        found = table.loc[row]
        assert found["k_hat"] == k_hat
        paths, draws = few_posterior.paths, few_posterior.draws
        share = (paths == 0).sum((1, 2)) / (paths[0] >= 0).sum()
        assert found["occupancy"] == pytest.approx(abs(weights @ share - share.mean()))
        stay = draws.chain.transition[:, 0].numpy()
        shift = np.einsum("s,skl->kl", weights, stay) - stay.mean(0)
        assert found["transition"] == pytest.approx(abs(shift).max())
        exits = 1 - stay[:, [0, 1], [0, 1]]
        ratio = weights @ exits / exits.mean(0)
        assert found["dwell"] == pytest.approx(max(ratio.max(), 1 / ratio.min()) - 1)
        noise = np.sqrt(few_posterior.idata.posterior["covariance"].to_numpy().reshape(-1, 2))
        ratio = weights @ noise / noise.mean(0)
        assert found["noise"] == pytest.approx(max(ratio.max(), 1 / ratio.min()) - 1)
        entered = (paths == 1).any(-1)  # every run starts in phase 0
        first = EVERY * (paths == 1).argmax(-1)
        assert (entered.mean(0) > 0.5).all()
        means = [
            (w[:, None] * first * entered).sum(0) / (w[:, None] * entered).sum(0)
            for w in (weights, np.full(len(weights), 1 / len(weights)))
        ]
        assert found["entry_time"] == pytest.approx(abs(means[0] - means[1]).max())
        never = abs(weights @ entered - entered.mean(0)).max()
        assert found["entry_probability"] == pytest.approx(never, abs=1e-12)

    def test_the_largest_shift_has_a_name(self, table, few_posterior):
        found = table.loc["expected_dwell", "widened"]
        # of two phases, where one is left for is no question: dwell and stay say the same
        assert found["most_moved"].startswith(("dwell in phase ", "transition phase "))
        assert 0.1 < found["in_sd"] < 2.0
        named = few_posterior.rename({0: "warm-up", 1: "grok"}).sensitivity()
        again = named.loc[("expected_dwell", "widened"), "most_moved"]
        assert again.split()[0] == found["most_moved"].split()[0]
        assert again.endswith(("warm-up", "grok"))

    def test_errors_are_those_of_the_weights(self, table, few_posterior):
        """Shuffled, the values have nothing to do with the weights: their shifts are all error."""
        densities = [sensitivity.under(few_posterior, "degrees", x)[1] for x in (0.5, 1.0)]
        weights, _ = sensitivity.smoothed((densities[0] - densities[1]).numpy(), 0.5)
        values = np.random.default_rng(0).normal(size=(len(weights), 500))
        _, shift, deviation = sensitivity.shifts(values, weights)
        error = table.loc[("degrees", "narrowed"), "error_in_sd"] * math.sqrt(0.5)  # independent
        ratio = (shift / deviation).std() / error
        assert ratio == pytest.approx(1.0, abs=4 / math.sqrt(2 * 500))

    def test_no_change_no_shift(self, few_posterior):
        for part in PARTS:
            one, other = (sensitivity.under(few_posterior, part, 1.0)[1] for _ in range(2))
            weights, k_hat = sensitivity.smoothed((one - other).numpy(), 1.0)
            assert np.ptp(weights) == 0.0
            assert k_hat == 0.0
        table = few_posterior.sensitivity(factor=1.0 + 1e-9)
        np.testing.assert_allclose(table[SHIFTS], 0.0, atol=1e-6)

    def test_larger_changes_move_more(self, few_posterior, table):
        small = few_posterior.sensitivity(factor=1.2)
        assert (small["in_sd"] < table["in_sd"]).all()
        assert (small["in_sd"] > 0).all()

    def test_parts_that_a_model_lacks_have_no_rows(self, level_posterior):
        table = level_posterior.sensitivity()
        assert set(table.index.get_level_values("part")) == set(PARTS) - {"run_effects", "degrees"}
        assert (table["in_sd"] < 0.5).all()

    def test_one_phase(self, few):
        settings = {"minimum_dwell": DWELL, "restarts": 1, "draws": 200, "progress": False}
        table = bh.fit(few, 1, emission="gaussian", **settings).sensitivity()
        assert set(table.index.get_level_values("part")) == set(PARTS[:-1])
        others = ["entry_time", "entry_probability", "occupancy", "transition", "dwell"]
        assert (table[others] == 0.0).all(axis=None)
        assert (table["noise"] > 0).all()
        assert (table["most_moved"] == "noise of m0 in phase 0").all()

    def test_steps_are_those_of_the_calendar(self, few_posterior):
        """Past a dwell of four median gaps of 2.5 base steps of 7, twice what was expected."""
        calendar = Calendar(7, 2.5)
        uneven = replace(few_posterior, encoding=replace(few_posterior.encoding, calendar=calendar))
        excess = few_posterior.variational.prior.transition.exits.excess
        written = uneven.sensitivity().loc[("expected_dwell", "widened"), "prior"]
        assert written == f"expected_dwell={7 * (4 * 2.5 + 2 * excess):g}"


class TestRefusals:
    @pytest.mark.parametrize("factor", [1.0, 0.5, -2.0, math.inf, math.nan])
    def test_factor(self, few_posterior, factor):
        with pytest.raises(ValueError, match=r"above 1"):
            few_posterior.sensitivity(factor)

    def test_an_unreliable_row_is_named_with_the_remedy(self, few_posterior):
        with pytest.warns(sensitivity.SensitivityWarning) as caught:
            table = few_posterior.sensitivity(factor=50.0)
        (warning,) = caught
        assert warning.filename == __file__
        unreliable = table.index[table["k_hat"] > 0.7]
        assert len(unreliable) > 0
        for part, change in unreliable:
            assert f"{part} {change}" in str(warning.message)
        assert "Hyperpriors(...)" in str(warning.message)
