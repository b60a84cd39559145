"""What runs tell of seeds that were not trained, on paths that are made by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, chi2, kstest
from scipy.stats import t as student_t
from state_paths import posterior_of

from bayeshmm.phases.population import (
    UNITS,
    normal_over_seeds,
    outliving,
    population,
    share_entering,
    share_of_seeds,
)
from bayeshmm.phases.seeds import seeds_needed

S = 4000
STATES = ["start", "end"]
ENTRIES = np.array([20, 25, 28, 30, 33, 35, 41, 99])
"""Rows at which eight runs of 60 rows enter the second phase; the last one never does."""


def paths_entering(rows, draws=S, length=12, lengths=None):
    """Runs that enter the second phase at these rows, or never where that is beyond their end."""
    paths = (np.arange(length) >= np.asarray(rows)[:, None]).astype(np.int8)
    if lengths is not None:
        paths[np.arange(length) >= np.asarray(lengths)[:, None]] = -1
    return np.broadcast_to(paths, (draws, *paths.shape))


def indexed(table):
    return table.set_index(["quantity", "place"])


@pytest.fixture(scope="module")
def table():
    rows = [4, 5, 6, 7, 99]
    return indexed(population(posterior_of(paths_entering(rows), STATES, minimum_dwell=2)))


@pytest.fixture(scope="module")
def posterior():
    return posterior_of(paths_entering(ENTRIES, length=60), STATES)


class TestLaws:
    def test_a_share_has_its_beta_law(self):
        happens = np.broadcast_to(np.array([True, True, False, True, False])[:, None], (S, 5, 1))
        draws = share_of_seeds(happens, np.random.default_rng(0))
        assert kstest(draws[:, 0], beta(3.5, 2.5).cdf).pvalue > 0.01

    def test_a_mean_has_its_t_law_and_a_variance_its_chi_squared(self):
        values = np.array([3.0, 5.0, 4.0, 9.0, np.nan])
        drawn = normal_over_seeds(np.tile(values[:, None], (S, 1, 1)), np.random.default_rng(0))
        known = values[:4]
        law = student_t(3, known.mean(), known.std(ddof=1) / 2)
        assert kstest(drawn[0][:, 0], law.cdf).pvalue > 0.01
        ratio = 3 * known.var(ddof=1) / drawn[1][:, 0] ** 2
        assert kstest(ratio, chi2(3).cdf).pvalue > 0.01

    def test_of_one_run_nothing_is_known(self):
        values = np.array([[[3.0], [np.nan]]])
        assert all(np.isnan(part).all() for part in normal_over_seeds(values, np.random))

    def test_entering_is_jeffreys_law_where_all_runs_are_seen_as_long(self):
        times = np.array([30.0, np.nan, 10.0, 30.0, np.nan])
        last = np.full(5, 90)
        draws = share_entering(np.tile(times[:, None], (S, 1, 1)), last, np.random.default_rng(0))
        assert kstest(draws[:, 0], beta(3.5, 2.5).cdf).pvalue > 0.01

    def test_entering_counts_runs_that_stop_early_for_as_long_as_they_were_seen(self):
        # Of five runs one enters at 10; two stop at 20 without; one of the other two enters at 50.
        times = np.array([10.0, np.nan, np.nan, 50.0, np.nan])
        last = np.array([90, 20, 20, 90, 90])
        draws = share_entering(np.tile(times[:, None], (S, 1, 1)), last, np.random.default_rng(0))
        never = (5.5 / 6) * (4.5 / 5.5) * (1.5 / 2.5)  # Kaplan and Meier: 4/5 * 1/2
        assert draws.mean() == pytest.approx(1 - never, abs=0.02)
        late = np.where(last == 90, last, 50)  # seen until the second entry: at risk for it
        draws = share_entering(np.tile(times[:, None], (S, 1, 1)), late, np.random.default_rng(0))
        assert draws.mean() == pytest.approx(1 - beta(3.5, 2.5).mean(), abs=0.02)

    def test_outliving_is_that_of_kaplan_and_meier(self):
        times = np.tile([4.0, 2.0, np.nan, 2.0, 7.0], (S, 1))
        ended = np.array([True, True, False, False, False])
        order, share = outliving(
            times, np.broadcast_to(ended, times.shape), np.random.default_rng(0)
        )
        assert order[0, :4].tolist() == [2, 2, 4, 7]
        expected = np.cumprod([3.5 / 4.5, 1, 1.5 / 2.5, 1])
        np.testing.assert_allclose(share.mean(axis=0)[:4], expected, atol=0.02)

    @pytest.mark.parametrize("runs", [2, 5])
    def test_intervals_cover_at_the_nominal_rate(self, runs):
        """2000 sets of runs: standard error 0.007."""
        rng = np.random.default_rng(runs)
        times = np.tile(rng.normal(300, 50, (runs, 2000)), (400, 1, 1))
        mean, deviation = normal_over_seeds(times, rng)
        new = mean + deviation * rng.standard_normal(mean.shape)
        truth = rng.normal(300, 50, 2000)
        for draws, value in ((mean, 300), (deviation, 50), (new, truth)):
            lower, upper = np.quantile(draws, [0.05, 0.95], axis=0)
            assert np.mean((lower <= value) & (value <= upper)) == pytest.approx(0.9, abs=0.025)


class TestPopulation:
    def test_a_row_per_quantity_and_place(self, table):
        times = ["mean", "sd"]
        quantities = ["entered", *(f"entry_{t}" for t in times), "entry"]
        quantities += [*(f"dwell_{t}" for t in times), "dwell", "dwell_expected"]
        expected = [(quantity, state) for quantity in quantities for state in STATES]
        expected += [("used", "start -> end"), ("used", "end -> start")]
        expected += [("route", "start -> end"), ("route", "start")]
        assert table.index.tolist() == expected
        assert set(UNITS) == {quantity for quantity, _ in expected}
        assert table.attrs == {"units": UNITS, "level": 0.9}

    def test_times_are_of_the_runs_that_have_them(self, table):
        law = student_t(3, 55, 10 * np.std([4, 5, 6, 7], ddof=1) / 2)
        own = table.loc[("entry_mean", "end")]
        assert own["runs"] == 4
        np.testing.assert_allclose(
            own[["median", "lower", "upper"]].tolist(), law.ppf([0.5, 0.05, 0.95]), atol=1.5
        )
        # A run that is never left is no dwell of its first phase; the second one is always cut.
        assert table.loc[("dwell_mean", "start"), "median"] == pytest.approx(55, abs=1.5)
        assert table.loc[("dwell_mean", "end"), ["median", "lower", "upper"]].isna().all()

    def test_a_new_run_is_less_sure_than_the_mean(self, table):
        widths = table["upper"] - table["lower"]
        ratio = widths["entry", "end"] / widths["entry_mean", "end"]
        assert ratio == pytest.approx(5**0.5, rel=0.1)

    def test_probabilities_are_beta(self, table):
        for key in (("entered", "end"), ("used", "start -> end"), ("route", "start -> end")):
            own = table.loc[key, ["median", "lower", "upper"]].tolist()
            np.testing.assert_allclose(own, beta(4.5, 1.5).ppf([0.5, 0.05, 0.95]), atol=0.02)
        assert table.loc[("route", "start"), "runs"] == 1

    def test_the_chain_says_what_it_expects(self, table):
        assert table.loc[("dwell_expected", "start"), "median"] == pytest.approx(10 * (1 + 10))

    def test_uncertain_paths_widen_the_intervals(self, table):
        rng = np.random.default_rng(0)
        rows = np.array([4, 5, 6, 7]) + rng.integers(-2, 3, (S, 4))
        paths = (np.arange(12) >= rows[..., None]).astype(np.int8)
        wide = indexed(population(posterior_of(paths, STATES))).loc[("entry_mean", "end")]
        sharp = table.loc[("entry_mean", "end")]
        assert wide["upper"] - wide["lower"] > 1.2 * (sharp["upper"] - sharp["lower"])

    def test_conditions_are_told_apart(self):
        kinds = ["a"] * 3 + ["b"] * 3
        paths = paths_entering([3, 4, 5, 7, 8, 99])
        table = population(posterior_of(paths, STATES, kinds=kinds, by="kind"))
        table = table.set_index(["condition", "quantity", "place"])
        assert table.loc[("a", "entry_mean", "end"), "median"] == pytest.approx(40, abs=2)
        assert table.loc[("b", "entry_mean", "end"), "median"] == pytest.approx(75, abs=2)
        assert table.loc[("b", "entered", "end"), "runs"] == 2

    def test_a_single_phase_has_no_changes(self):
        table = population(posterior_of(np.zeros((20, 3, 5), dtype=np.int8), ["only"]))
        assert "used" not in set(table["quantity"])
        assert table.set_index("quantity").loc["route", "place"] == "only"

    def test_relabelling_and_reordering_move_nothing_beyond_monte_carlo_error(self):
        paths, order = paths_entering([4, 5, 6, 7, 99]), [3, 1, 4, 0, 2]
        one = indexed(population(posterior_of(paths, STATES))).sort_index()
        other = posterior_of(1 - paths[:, order], STATES[::-1], names=[f"run-{n}" for n in order])
        two = indexed(population(other)).sort_index()
        assert (one.index == two.index).all()
        scale = (one["upper"] - one["lower"]).fillna(0.0) + 1e-9
        for column in ("median", "lower", "upper"):
            assert (one[column] - two[column]).isna().equals(one[column].isna())
            assert ((one[column] - two[column]).abs().fillna(0.0) <= 0.15 * scale).all()


class TestSeedsNeeded:
    def test_no_further_run_leaves_the_interval_as_it_is(self, posterior):
        table = indexed(population(posterior))
        for quantity, place, named in (
            ("entry", "end", "entry_mean"),
            ("dwell", "start", "dwell_mean"),
            ("entered", "end", "entered"),
            ("used", "end -> start", "used"),
            ("route", "start -> end", "route"),
        ):
            found = seeds_needed(posterior, quantity, place, more=[0, 3])
            own = table.loc[(named, place)]
            now = own["upper"] - own["lower"]
            assert found.loc[0, "width"] == pytest.approx(now, rel=0.06), quantity
            assert found.loc[0, "seen"] == 0
            assert found["runs"].tolist() == [8, 11]

    def test_what_is_foreseen_is_what_happens_to_runs_simulated_one_by_one(self, posterior):
        rng, sets, more = np.random.default_rng(1), 2000, 16
        old = 10.0 * ENTRIES[:7]
        spread = old.std(ddof=1) * np.sqrt(6 / rng.chisquare(6, sets))
        centre = old.mean() + spread / np.sqrt(7) * rng.standard_normal(sets)
        enter = rng.random((sets, more)) < rng.beta(7.5, 1.5, (sets, 1))
        new = centre[:, None] + spread[:, None] * rng.standard_normal((sets, more))
        means, shares = [], []
        for own, entered in zip(new, enter, strict=True):
            times = np.append(old, own[entered])
            error = times.std(ddof=1) / len(times) ** 0.5
            means.append(2 * student_t.ppf(0.95, len(times) - 1) * error)
            parameters = len(times) + 0.5, 8 + more - len(times) + 0.5
            shares.append(np.ptp(beta.ppf([0.05, 0.95], *parameters)))
        for quantity, widths in (("entry", means), ("entered", shares)):
            table = seeds_needed(posterior, quantity, "end", np.median(widths), more=[more])
            assert table["width"][0] == pytest.approx(np.mean(widths), rel=0.06)
            assert table["enough"][0] == pytest.approx(0.5, abs=0.15)

    def test_what_all_runs_do_at_once_needs_no_further_run(self, posterior):
        table = seeds_needed(posterior, "entry", "start", width=1, more=[0, 5])
        assert table[["width", "enough"]].to_numpy().tolist() == [[0, 1], [0, 1]]

    def test_narrow_enough(self, posterior):
        table = seeds_needed(posterior, "entry", "end", width=60, more=[0, 10, 40, 160])
        assert table["width"].is_monotonic_decreasing
        assert table["enough"].is_monotonic_increasing
        assert table["enough"].iloc[0] == 0
        assert table["enough"].iloc[-1] > 0.9
        assert table.attrs["units"] == "training steps"

    def test_a_rare_change_is_seen_at_last(self, posterior):
        table = seeds_needed(posterior, "used", "end -> start", more=[5, 50])
        draws = beta(0.5, 8.5).rvs(200_000, np.random.default_rng(0))
        for number, seen in table[["more", "seen"]].to_numpy():
            assert seen == pytest.approx(1 - np.mean((1 - draws) ** number), abs=0.03)

    def test_the_same_seed_gives_the_same_table(self, posterior):
        one, two = (seeds_needed(posterior, "entry", "end", seed=s) for s in (3, 3))
        pd.testing.assert_frame_equal(one, two)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ("speed", "end"),
                "quantity='speed' must be one of dwell, entered, entry, route, used",
            ),
            (("entry", "middle"), "entry: there is no 'middle', only 'start', 'end'"),
            (("dwell", "end"), "fewer than two runs have one"),
            (("entry", "end", None, 0.9, [1.5]), "must be whole numbers of runs"),
            (("entry", "end", None, 0.9, []), "must be whole numbers of runs"),
            (("entry", "end", None, 90), "level=90 must lie between 0 and 1"),
        ],
    )
    def test_bad_questions_are_named(self, posterior, arguments, message):
        with pytest.raises(ValueError, match=message):
            seeds_needed(posterior, *arguments)
