"""Draws from a model's prior, and their picture."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from scipy import stats
from synthetic_runs import PLAIN

import bayeshmm as bh
from bayeshmm import plots
from bayeshmm.plots.style import phase_colours
from bayeshmm.prior_draws import prior_draws

RATE = 1e-3
"""False-alarm rate of a test of draws; the streams are fixed."""

TAME = bh.Hyperpriors(noise_shape=3, scale=(5, 5), shrinkage=(5, 0.05), run_effects=(5, 0.05))
LEVELS = bh.HMM(3, bh.Gaussian(), minimum_dwell=4)
MOVING = bh.HMM(2, bh.Autoregressive(lags=2), minimum_dwell=4)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def draws():
    return prior_draws(LEVELS, rows=30, runs=40, draws=400, seed=0)


class TestDraws:
    def test_shapes(self, draws):
        assert draws.values.shape == draws.paths.shape == (40, 30)
        assert draws.coefficients.shape == (400, 3, 1)
        assert draws.noise.shape == draws.visits.shape == draws.run_effects.shape == (400, 3)
        assert draws.degrees.shape == (400,)
        assert set(np.unique(draws.paths)) <= {0, 1, 2}

    @pytest.mark.parametrize("part", ["coefficients", "run_effects"])
    def test_ratios_to_the_noise_are_cauchy(self, draws, part):
        """Under the default hyper-priors; one value a draw, as the phases share a precision."""
        ratio = getattr(draws, part).reshape(400, -1)[:, 0]
        assert stats.kstest(ratio, stats.cauchy.cdf).pvalue > RATE

    def test_noise(self, draws):
        """``sigma^2 = psi / (2 Gamma(1))`` with ``psi ~ chi^2_1``: half an F law of (1, 2)."""
        variance = draws.noise[:, 1] ** 2
        assert stats.kstest(variance, lambda x: stats.f(1, 2).cdf(2 * x)).pvalue > RATE

    def test_visits(self, draws):
        """Past the dwell every visit is geometric: its law given the exits is summed out."""
        rows = pd.DataFrame({"run": "one", "step": range(30), "metric": 0.0})
        prior = LEVELS.prior(bh.Runs.from_dataframe(rows, metrics=["metric"]))
        a, b = prior.transition.exits.grid[:, 0].numpy().T
        weights = prior.transition.exits.log_prior.exp().numpy()
        assert draws.visits.min() >= 4
        for rows in (4, 6, 10, 30):
            longer = stats.betabinom(rows - 4 + 1, a, b).pmf(0) @ weights
            count = int((draws.visits[:, 0] > rows).sum())
            assert stats.binomtest(count, 400, longer).pvalue > RATE

    def test_one_phase_is_never_left(self):
        found = prior_draws(bh.HMM(1, bh.Gaussian(**PLAIN)), 10, 2, 5, 0)
        assert np.isinf(found.visits).all()
        assert found.run_effects is None
        assert found.degrees is None

    def test_a_run_that_outgrows_all_numbers_is_infinite(self):
        loud = bh.Hyperpriors(shrinkage=(5.0, 5e4))
        hmm = bh.HMM(1, bh.Autoregressive(lags=1, hyperpriors=loud, **PLAIN))
        values = prior_draws(hmm, 400, 10, 10, 0).values
        assert not np.isnan(values).any()
        assert np.isinf(values[:, -1]).mean() > 0.5
        for run in values:
            first = np.flatnonzero(np.isinf(run))[:1]
            assert all(np.isinf(run[at:]).all() for at in first)

    def test_same_seed_same_draws(self):
        one, same, other = (prior_draws(LEVELS, 8, 3, 4, seed) for seed in (1, 1, 2))
        for first, again, different in zip(one, same, other, strict=True):
            np.testing.assert_array_equal(first, again)
            assert not np.array_equal(first, different)


class TestPicture:
    def test_everything(self):
        ax = plots.prior_predictive(MOVING, rows=40, runs=20)
        figure = ax.figure
        figure.draw_without_rendering()
        main, *laws = figure.axes
        assert main is ax
        assert ax.get_yscale() == "symlog"
        assert ax.get_xlabel() == "rows"
        assert ax.get_ylabel() == "a metric, in rms increments"
        titles = [law.get_title().split("\n")[0] for law in laws]
        assert titles == [
            "noise of a phase",
            "size of a coefficient",
            "size of a run effect",
            "length of a visit",
            "degrees of freedom",
        ]
        assert all(law.get_xscale() == "log" for law in laws)
        legend = ax.get_legend()
        assert legend.get_title().get_text().startswith("20 simulated runs")
        names = [text.get_text() for text in legend.get_texts()]
        assert names == ["90 % of them", "half of them", "phase 0", "phase 1"]
        shown = [text.get_text() for text in figure.findobj(mpl.text.Text)]
        assert any("2 phases, Autoregressive(lags=2" in text for text in shown)

    def test_levels_without_extras(self):
        ax = plots.prior_predictive(bh.HMM(1, bh.Gaussian(**PLAIN)), rows=20, runs=10)
        assert ax.get_ylabel() == "a metric, in pooled sd"
        titles = [law.get_title().split("\n") for law in ax.figure.axes[1:]]
        assert titles == [
            ["noise of a phase", "(pooled sd)"],
            ["size of a level", "(over the noise)"],
        ]

    def test_lines_are_the_runs_in_the_colours_of_their_phases(self):
        hmm = bh.HMM(3, bh.Gaussian(hyperpriors=TAME), minimum_dwell=4)
        _, ax = plt.subplots()
        assert plots.prior_predictive(hmm, rows=30, runs=12, seed=3, ax=ax) is ax
        drawn = prior_draws(hmm, 30, 12, 1000, 3)
        lines = [part for part in ax.collections if type(part) is LineCollection]
        assert len(lines) == 6
        colours = np.array([to_rgba(colour) for colour in phase_colours(3)])
        for line, values, path in zip(lines, drawn.values, drawn.paths, strict=False):
            ends = np.array([segment[1] for segment in line.get_segments()])
            np.testing.assert_allclose(ends[:, 1], values[1:])
            np.testing.assert_allclose(line.get_colors(), colours[path[1:]])
        assert not ax.lines

    def test_bands_are_quantiles_over_all_runs(self):
        _, ax = plt.subplots()
        hmm = bh.HMM(2, bh.Gaussian(hyperpriors=TAME), minimum_dwell=4)
        plots.prior_predictive(hmm, rows=15, runs=50, seed=1, ax=ax)
        values = prior_draws(hmm, 15, 50, 1000, 1).values
        bands = [part for part in ax.collections if isinstance(part, PolyCollection)]
        for band, tail in zip(bands, (0.05, 0.25), strict=True):
            vertices = band.get_paths()[0].vertices
            for row in (0, 7, 14):
                edges = vertices[vertices[:, 0] == row, 1]
                expected = np.quantile(values[:, row], [tail, 1 - tail])
                np.testing.assert_allclose([edges.min(), edges.max()], expected)

    def test_runs_that_leave_end_in_a_cross_and_are_counted(self):
        ax = plots.prior_predictive(MOVING, rows=200, runs=20, seed=0)
        values = prior_draws(MOVING, 200, 20, 1000, 0).values
        limit = ax.get_ylim()[1]
        assert ax.get_ylim() == (-1e6, 1e6)
        leave = abs(values).max(1) > limit
        assert 0 < leave[:6].sum() < 6
        crosses = np.array([line.get_xydata()[0] for line in ax.lines])
        expected = [(abs(run) > limit).argmax() for run in values[:6][leave[:6]]]
        np.testing.assert_array_equal(crosses[:, 0], expected)
        assert (abs(crosses[:, 1]) <= limit).all()
        assert f"{leave.mean():.0%} of which" in ax.get_legend().get_title().get_text()

    def test_a_law_is_told_in_numbers(self):
        ax = plots.prior_predictive(LEVELS, rows=30, runs=10, seed=0)
        noise = prior_draws(LEVELS, 30, 10, 1000, 0).noise
        low, median, high = np.quantile(noise, [0.05, 0.5, 0.95], method="inverted_cdf")
        panel = ax.figure.axes[1]
        assert panel.get_xlabel() == f"{median:.2g} ({low:.2g} to {high:.2g})"
        assert panel.lines[0].get_xdata()[0] == median
        assert ">3000)" in ax.figure.axes[4].get_xlabel()

    @pytest.mark.parametrize("size", [{"rows": 1}, {"runs": 1}])
    def test_too_little_to_draw(self, size):
        with pytest.raises(ValueError, match="at least 2"):
            plots.prior_predictive(MOVING, **size)
