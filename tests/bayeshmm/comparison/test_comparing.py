"""`compare`: the table, the rule that chooses, and what too few runs leave unsaid."""

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from synthetic_runs import PLAIN, QUICK

import bayeshmm as bh
from bayeshmm import plots

COLUMNS = [
    *("elbo", "elpd", "elpd_se", "elpd_diff", "diff_se", "step_ahead", "bic"),
    *("autocorrelation", "normality", "agreement", "smallest_share", "edge"),
]
SETTINGS = {"minimum_dwell": 4, "restarts": 2, "draws": 40, "progress": False}
DIAGONAL = "Gaussian(covariance='diagonal', noise='normal', run_effects=False)"


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


class TestTable:
    def test_index_and_columns(self, comparison):
        table = comparison.table
        assert table.index.names == ["emission", "states"]
        assert list(table.index) == [
            (emission, K) for emission in ("autoregressive", DIAGONAL) for K in (1, 2, 3)
        ]
        assert list(table) == COLUMNS

    def test_one_model_has_the_same_index(self, short):
        table = bh.compare(short, [1], **SETTINGS).table
        assert isinstance(table.index, pd.MultiIndex)
        assert list(table.index) == [("autoregressive", 1)]

    def test_units_are_told(self, comparison):
        units = comparison.table.attrs["units"]
        assert "nats per row" in units
        assert all(name in units for name in COLUMNS[:7])

    def test_the_best_model_differs_from_itself_by_nothing(self, comparison):
        table = comparison.table
        best = table["elpd"].idxmax()
        assert best == ("autoregressive", 2)
        assert table.loc[best, ["elpd_diff", "diff_se"]].tolist() == [0, 0]
        np.testing.assert_allclose(table["elpd_diff"], table["elpd"] - table["elpd"].max())
        others = table.drop(best)
        assert (others["diff_se"] > 0).all()
        assert (table["elpd_se"] > 0).all()

    def test_the_family_that_made_the_runs_wins(self, comparison):
        scores = comparison.table["elpd"]
        assert scores["autoregressive"].min() > scores[DIAGONAL].max() + 1

    def test_restarts_and_shares(self, comparison):
        table = comparison.table
        assert table["agreement"].between(0, 1).all()
        assert (table.xs(1, level="states")[["agreement", "smallest_share"]] == 1).all(axis=None)
        assert (table["smallest_share"] <= 1 / table.index.get_level_values("states") + 1e-9).all()
        assert table.loc[("autoregressive", 3), "smallest_share"] < 0.05  # a phase to spare

    def test_a_score_that_still_rises_at_the_end_is_flagged(self, comparison):
        edge = comparison.table["edge"]
        assert edge[edge].index.tolist() == [(DIAGONAL, 3)]

    def test_elpd_is_the_density_of_runs_left_out(self, short):
        """One phase has one mode, so that refits from scratch find the same."""
        table = bh.compare(short, [1], **SETTINGS).table
        scores = []
        for name in short.names:
            rest = short.subset([other for other in short.names if other != name])
            scores += bh.fit(rest, 1, **QUICK).log_density(short.subset(name)).to_numpy().tolist()
        assert table["elpd"].item() == pytest.approx(sum(scores) / short.lengths.sum(), abs=1e-3)

    def test_folds(self, short):
        """Half of the runs know less than five sixths."""
        alone, half = (
            bh.compare(short, [1], folds=folds, **SETTINGS).table["elpd"].item()
            for folds in (None, 2)
        )
        assert half < alone

    def test_elbo_and_bic_of_one_gaussian_phase(self, levels):
        runs, _ = levels
        table = bh.compare(runs, [1], bh.Gaussian(covariance="diagonal", **PLAIN), **SETTINGS).table
        rows = runs.values.reshape(-1, 2)
        likelihood = norm(rows.mean(0), rows.std(0)).logpdf(rows).sum()
        bic = -2 * likelihood + 4 * np.log(len(rows))
        assert table["bic"].item() == pytest.approx(bic, abs=1)
        assert table["elbo"].item() < likelihood
        assert table["elbo"].item() == pytest.approx(-bic / 2, abs=10)

    def test_densities_are_in_the_units_of_the_data(self, short):
        frame = short.to_dataframe()
        scaled = bh.Runs.from_dataframe(frame.assign(m0=100 * frame["m0"]))
        one, other = (bh.compare(runs, [1, 2], **SETTINGS).table for runs in (short, scaled))
        rows = short.lengths.sum()
        np.testing.assert_allclose(other["elpd"] - one["elpd"], -np.log(100))
        np.testing.assert_allclose(other["elbo"] - one["elbo"], -rows * np.log(100))
        np.testing.assert_allclose(other["bic"] - one["bic"], 2 * rows * np.log(100))
        np.testing.assert_allclose(other["elpd_diff"], one["elpd_diff"], atol=1e-6)


class TestPosteriors:
    def test_a_mapping_over_the_table(self, comparison):
        assert list(comparison.posteriors) == list(comparison.table.index)
        assert len(comparison.posteriors) == 6
        assert (DIAGONAL, 2) in comparison.posteriors
        with pytest.raises(KeyError, match="was not compared"):
            comparison.posteriors["gaussian", 2]

    def test_drawn_when_asked_for_and_once(self, short, monkeypatch):
        comparison = bh.compare(short, [1, 2], **(SETTINGS | {"draws": 200}))
        drawn = []

        def draw(*args, real=bh.comparison.result.draw):
            drawn.append(args)
            return real(*args)

        monkeypatch.setattr("bayeshmm.comparison.result.draw", draw)
        assert repr(comparison)
        assert comparison.best_key
        assert drawn == []
        first = comparison.posteriors["autoregressive", 2]
        assert comparison.posteriors["autoregressive", 2] is first
        assert first.states == 2
        assert len(drawn) == 1

    def test_they_are_those_of_a_fit(self, comparison, short):
        alone = bh.fit(short, 2, minimum_dwell=4, restarts=3, draws=200, progress=False)
        same = comparison.posteriors["autoregressive", 2]
        pd.testing.assert_frame_equal(same.entry_times(), alone.entry_times())
        pd.testing.assert_frame_equal(same.restarts, alone.restarts)
        np.testing.assert_array_equal(same.log_density(short), alone.log_density(short))


class TestChoice:
    @pytest.mark.parametrize(("tolerance", "states"), [(0.5, 1), (0.1, 2)])
    def test_best_follows_the_tolerance(self, short, tolerance, states):
        """A second phase is worth 0.4 nats a row here."""
        comparison = bh.compare(short, [1, 2, 3], tolerance=tolerance, **SETTINGS)
        assert comparison.tolerance == tolerance
        assert comparison.best_key == ("autoregressive", states)
        assert f"chosen: {states} states, autoregressive" in repr(comparison)

    def test_best_is_the_posterior_of_the_choice(self, comparison):
        assert comparison.tolerance == 0.0
        assert comparison.best_key == ("autoregressive", 2)
        assert comparison.best is comparison.posteriors["autoregressive", 2]
        assert comparison.reason.startswith("the best held-out log density, 1.00 nats a row")

    def test_the_levels_are_said_to_be_the_problem(self, comparison):
        """Their states slice a drift: they ask for more of them, and leave memory in the rows."""
        (remark,) = comparison.remarks
        assert remark.startswith(f"{DIAGONAL} predicts 3.71 nats a row worse")
        assert remark in repr(comparison)
        assert "<table" in comparison._repr_html_()
        assert "predicts 3.71" in comparison._repr_html_()
        assert (comparison.table["autocorrelation"].xs(DIAGONAL) > 0.8).all()
        assert abs(comparison.table.loc[("autoregressive", 2), "autocorrelation"]) < 0.2

    @pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
    def test_a_doubtful_choice_warns(self, short):
        comparison = bh.compare(short, [2, 3], "gaussian", tolerance=0.0, **SETTINGS)
        assert comparison.best_key == ("gaussian", 3)
        with pytest.warns(bh.ComparisonWarning) as caught:
            assert comparison.best.states == 3
        said = [
            str(warning.message)
            for warning in caught
            if issubclass(warning.category, bh.ComparisonWarning)
        ]
        assert [remark for remark in comparison.remarks if remark in said] == said
        assert "slice a trend" in said[0]
        assert "3 states, the most that were compared, are chosen: compare more." in said[1]

    def test_plot(self, comparison):
        axes = comparison.plot()
        assert "nats per row" in axes.get_ylabel()
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert {"autoregressive", DIAGONAL} < set(labels)


@pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:.*the most that were compared")
@pytest.mark.parametrize("few", [1, 3])
class TestFewRuns:
    def test_from_runs_to_pictures(self, short, few):
        runs = short.subset(short.names[:few])
        comparison = bh.compare(runs, [1, 2], **SETTINGS)
        table = comparison.table
        assert table[["elpd", "elpd_se", "elpd_diff", "diff_se"]].isna().all(axis=None)
        assert np.isfinite(table[["elbo", "step_ahead", "bic"]]).all(axis=None)
        assert f"{few} runs, fewer than 5" in table.attrs["elpd"]
        assert comparison.score == "step_ahead"
        assert "one-step-ahead" in comparison.reason
        with pytest.warns(bh.ComparisonWarning, match="fewer than 5.*more runs"):
            posterior = comparison.best
        assert len(posterior.entry_times()) == few * posterior.states
        assert set(posterior.transition_times()["run"]) <= set(runs.names)
        assert np.isfinite(posterior.log_density(runs)).all()
        assert posterior.smooth().sizes["run"] == few
        assert "one-step-ahead" in comparison.plot().get_ylabel()
        assert np.size(plots.phases(posterior)) >= 1
        assert plots.training_map(posterior).figure is not None

    def test_one_step_ahead_scores_tell_the_law_of_motion(self, short, few):
        """The last third of the rows belongs to the second phase."""
        runs = short.subset(short.names[:few])
        ahead = bh.compare(runs, [1, 2], **SETTINGS).table["step_ahead"]
        assert ahead["autoregressive", 2] > ahead["autoregressive", 1] + 0.5

    def test_a_fit(self, short, few):
        runs = short.subset(short.names[:few])
        posterior = bh.fit(runs, 2, minimum_dwell=4, restarts=2, draws=200, progress=False)
        entered = posterior.entry_times().query("state == 'phase 1'")
        whole = bh.fit(short, 2, **QUICK).entry_times().query("state == 'phase 1'")[:few]
        assert (np.abs(entered["median"].to_numpy() - whole["median"].to_numpy()) <= 30).all()

    def test_a_metric_that_begins_late(self, short, few):
        """In the rows that the score learns from, it is never seen."""
        frame = short.subset(short.names[:few]).to_dataframe()
        frame["m1"] = frame["m1"].mask(frame["step"] < 300)
        comparison = bh.compare(bh.Runs.from_dataframe(frame), [1, 2], **SETTINGS)
        assert np.isfinite(comparison.table["step_ahead"]).all()


class TestBadInput:
    @pytest.mark.parametrize("folds", [0, 1, 7, -1])
    def test_folds(self, short, folds):
        with pytest.raises(ValueError, match=f"folds={folds} .*between 2 and .* 6"):
            bh.compare(short, [1], folds=folds, **SETTINGS)

    @pytest.mark.parametrize(("states", "emission"), [([], "gaussian"), ([1], [])])
    def test_nothing_to_compare(self, short, states, emission):
        with pytest.raises(ValueError, match="nothing to compare"):
            bh.compare(short, states, emission, **SETTINGS)

    @pytest.mark.parametrize("states", [[0], [1, 2.5], [-1, 1]])
    def test_states(self, short, states):
        with pytest.raises(ValueError, match="states must be an integer"):
            bh.compare(short, states, **SETTINGS)

    def test_states_from_numpy(self, short):
        keys = list(bh.compare(short, np.arange(1, 3), **SETTINGS).table.index)
        assert keys == [("autoregressive", 1), ("autoregressive", 2)]

    def test_one_number_is_not_a_range(self, short):
        with pytest.raises((TypeError, ValueError), match="states"):
            bh.compare(short, 3, **SETTINGS)

    def test_more_states_than_rows(self, short):
        with pytest.raises(ValueError, match=r"states=41.*40 rows.*'seed-0'"):
            bh.compare(short, [1, 41], **SETTINGS)

    def test_family(self, short):
        with pytest.raises(ValueError, match="emission='hmm' is not known"):
            bh.compare(short, [1], ["gaussian", "hmm"], **SETTINGS)

    @pytest.mark.parametrize("settings", [{"restarts": 0}, {"draws": 0}])
    def test_numbers_of_restarts_and_draws(self, short, settings):
        with pytest.raises(ValueError, match=r"restarts.*draws"):
            bh.compare(short, [1, 2], **(SETTINGS | settings))

    def test_metrics_are_checked_before_any_fit(self, short):
        frame = short.to_dataframe().assign(flat=0.5)
        with pytest.raises(ValueError, match="'flat' is constant"):
            bh.compare(bh.Runs.from_dataframe(frame), [1], **SETTINGS)
        table = bh.compare(
            bh.Runs.from_dataframe(frame), [1], metrics=["m0", "m1"], **SETTINGS
        ).table
        assert np.isfinite(table["elpd"]).all()


def test_the_active_backend_fits_the_same_models(short, capfd):
    alone = bh.compare(short, [1, 2], **SETTINGS).table
    with joblib.parallel_config(n_jobs=2):
        there = bh.compare(short, [1, 2], **(SETTINGS | {"progress": True})).table
    pd.testing.assert_frame_equal(there, alone, check_exact=True)
    assert "models: 100%" in capfd.readouterr().err
