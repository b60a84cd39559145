"""`fit`: known changes are found, a seed rules everything, and bad input is named."""

import random
import re

import joblib
import numpy as np
import pandas as pd
import pyro
import pytest
import reproducible
import torch
from synthetic_runs import EVERY, QUICK, changed

import bayeshmm as bh


def refused(*words):
    """Expect a ValueError whose message holds all the words, in this order."""
    return pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, words)))


class TestRecovery:
    def test_changes_of_the_law_of_motion_are_found(self, posterior, changes):
        entries = posterior.entry_times().set_index(["state", "run"])
        covered = 0
        for k in (1, 2):
            found = entries.loc[f"phase {k}"]
            truth = EVERY * changes[:, k - 1]
            assert (found["probability"] > 0.95).all()
            assert (np.abs(found["median"] - truth) <= 4 * EVERY).all()
            assert ((found["upper"] - found["lower"]) <= 10 * EVERY).all()
            covered += ((found["lower"] <= truth) & (truth <= found["upper"])).sum()
        assert covered >= 14  # of 16 intervals of 90 %

    def test_the_less_a_change_shows_the_wider_its_interval(self, posterior):
        """Phases 0 and 1 overlap; phase 2 sets a metric moving that stood still."""
        entries = posterior.entry_times()
        width = (entries["upper"] - entries["lower"]).groupby(entries["state"]).mean()
        assert width["phase 1"] > 2 * EVERY
        assert width["phase 1"] > 2 * width["phase 2"]

    def test_levels_are_found(self, level_posterior, levels):
        _, rows = levels
        found = level_posterior.entry_times().set_index("state").loc["phase 1"]
        assert (np.abs(found["median"] - EVERY * rows[:, 0]) <= EVERY).all()

    def test_values_may_be_missing(self, short):
        frame = short.to_dataframe()
        gaps = np.random.default_rng(0).random((len(frame), 2)) < 0.15
        frame[["m0", "m1"]] = frame[["m0", "m1"]].mask(gaps)
        frame.loc[frame["step"] == 100, ["m0", "m1"]] = np.nan  # a row that misses everything
        runs = bh.Runs.from_dataframe(frame)
        posterior = bh.fit(runs, 2, minimum_dwell=4, restarts=2, draws=200, progress=False)
        whole = bh.fit(short, 2, **QUICK)
        assert np.isfinite(posterior.idata.log_likelihood["log_lik"]).all()
        assert np.isfinite(posterior.log_density(runs)).all()
        entered = [
            one.entry_times().query("state == 'phase 1'")["median"].to_numpy()
            for one in (posterior, whole)
        ]
        assert (np.abs(entered[0] - entered[1]) <= 3 * EVERY).all()


class TestSettings:
    def test_uneven_steps_are_named(self, short):
        frame = short.to_dataframe()
        runs = bh.Runs.from_dataframe(frame[(frame["run"] != "seed-4") | (frame["step"] != 50)])
        with pytest.warns(bh.SpacingWarning, match="'seed-4'.*40 and 60.*10 steps apart"):
            posterior = bh.fit(runs, 2, **QUICK)
        assert "steps)" not in repr(posterior)

    def test_an_expected_dwell_is_in_steps_where_rows_are_uneven_too(self, short):
        frame = short.to_dataframe()
        runs = bh.Runs.from_dataframe(frame[(frame["run"] != "seed-4") | (frame["step"] != 50)])
        hmm = bh.HMM(2, "gaussian", bh.Dirichlet(expected_dwell=200), 4)
        # a base step of 10, three more rows of which are the dwell's
        assert hmm.transition_prior(runs).exits.excess == hmm.transition_prior(short).exits.excess
        assert hmm.transition_prior(short).exits.excess == 20 - 4

    def test_only_the_chosen_metrics_are_modelled(self, short):
        posterior = bh.fit(short, 2, metrics=["m1"], **QUICK)
        assert posterior.metrics == ("m1",)
        assert posterior.runs.columns == ("m0", "m1")
        assert bh.fit(short, 2, metrics="m1", **QUICK).metrics == ("m1",)

    @pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
    @pytest.mark.filterwarnings("ignore::bayeshmm.ApproximationWarning")
    @pytest.mark.parametrize(("inference", "kind"), [("auto", "gibbs"), (bh.VI(steps=20), "vi")])
    def test_the_engine_is_told(self, short, inference, kind):
        posterior = bh.fit(short, 1, **(QUICK | {"inference": inference}))
        assert posterior.inference == kind
        assert kind in repr(posterior)

    @pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
    def test_at_least_the_draws_asked_for(self, short):
        posterior = bh.fit(short, 1, **(QUICK | {"inference": "gibbs", "draws": 41}))
        assert 41 <= len(posterior.paths) < 41 + posterior.diagnostics["chains"]
        assert posterior.idata.posterior.sizes["chain"] == posterior.diagnostics["chains"]

    def test_restarts_are_reported_best_first(self, posterior):
        table = posterior.restarts
        assert len(table) == 4
        assert sorted(table["start"]) == [0, 1, 2, 3]
        assert table["objective"].is_monotonic_decreasing
        assert table["agreement"].iloc[0] == 1.0
        assert table["agreement"].between(0, 1).all()

    def test_diagnostics_of_chains_that_agree(self, posterior):
        assert posterior.diagnostics["r_hat"] < 1.05
        assert posterior.diagnostics["effective_draws"] > 50

    def test_chains_that_disagree_are_named(self, short, monkeypatch):
        monkeypatch.setattr("bayeshmm.diagnostics.RHAT_LIMIT", 0.5)
        with pytest.warns(bh.ConvergenceWarning, match=r"(?s)R-hat.*draws=.*restarts="):
            bh.fit(short, 2, **(QUICK | {"inference": "gibbs"}))

    def test_default_dwell_is_ten_rows_or_a_tenth_of_the_median_run(self, short, moving):
        assert bh.HMM(2).dwell(short) == 4
        assert bh.HMM(2).dwell(moving) == 7
        assert bh.HMM(2, minimum_dwell=3).dwell(moving) == 3

    def test_an_expected_dwell_is_a_prior(self, short):
        """In steps; what three rows past the dwell say of the exits gives way to it."""

        def longest(steps):
            prior = bh.Dirichlet(expected_dwell=steps)
            posterior = bh.fit(short, 2, transition=prior, **QUICK)
            return float(posterior.idata.posterior["dwell"].median(("chain", "draw")).max())

        assert longest(20_000.0) > 2 * longest(200.0)

    def test_order_of_the_columns_changes_nothing(self, moving):
        settings = QUICK | {"minimum_dwell": 5, "draws": 80}
        one, other = (
            bh.fit(runs, 3, **settings) for runs in (moving, moving.select(["m2", "m0", "m1"]))
        )
        pd.testing.assert_frame_equal(one.entry_times(), other.entry_times())
        pd.testing.assert_frame_equal(one.transition_times(), other.transition_times())
        np.testing.assert_allclose(one.log_density(moving), other.log_density(moving))
        covariance = [p.idata.posterior["covariance"].mean(("chain", "draw")) for p in (one, other)]
        np.testing.assert_allclose(covariance[0], covariance[1].reindex_like(covariance[0]))


class TestReproduction:
    def test_same_seed_same_tables_in_any_process(self, short):
        """The workers are interpreters of their own, started afresh."""
        in_workers = joblib.Parallel(n_jobs=2)(
            joblib.delayed(function)(short)
            for function in (reproducible.fitted, reproducible.compared)
        )
        here = reproducible.fitted(short), reproducible.compared(short)
        assert tuple(in_workers) == here
        assert reproducible.fitted(short) == here[0]
        assert reproducible.compared(short, jobs=2) == here[1]

    def test_another_seed_gives_other_draws(self, short):
        one, same, other = (bh.fit(short, 2, **QUICK, seed=seed) for seed in (0, 0, 1))
        transition = [p.idata.posterior["transition"].to_numpy() for p in (one, same, other)]
        np.testing.assert_array_equal(transition[0], transition[1])
        assert (transition[0] != transition[2]).any()

    def test_no_global_state_is_touched(self, short):
        def state():
            return {
                "torch": torch.get_rng_state().tolist(),
                "numpy": [str(part) for part in np.random.get_state()],  # noqa: NPY002
                "random": random.getstate(),
                "dtype": torch.get_default_dtype(),
                "threads": torch.get_num_threads(),
                "parameters": sorted(pyro.get_param_store().keys()),
            }

        before = state()
        posterior = bh.fit(short, 2, **(QUICK | {"inference": "gibbs", "draws": 200}))
        posterior.smooth(short), posterior.entry_times(), posterior.log_density(short)
        bh.compare(short, [1], restarts=1, progress=False)
        assert state() == before


class TestBadInput:
    @pytest.mark.parametrize("states", [0, -1, 2.5, "two", True])
    def test_number_of_states(self, short, states):
        with refused("states", "integer", repr(states)):
            bh.fit(short, states, **QUICK)

    def test_whole_numbers_of_any_kind_count_states(self, short):
        assert bh.fit(short, np.int64(1), **QUICK).states == 1

    def test_more_states_than_rows(self, short):
        with refused("states=41", "40 rows", "'seed-0'", "fewer states"):
            bh.fit(short, 41, **QUICK)

    @pytest.mark.parametrize("dwell", [0, -2, 2.5, True])
    def test_dwell(self, short, dwell):
        with refused("minimum_dwell", "rows", str(dwell)):
            bh.fit(short, 2, **(QUICK | {"minimum_dwell": dwell}))

    def test_dwell_longer_than_the_runs(self, short):
        with refused("minimum_dwell=41", "'seed-0'", "40 rows", "smaller minimum_dwell"):
            bh.fit(short, 2, **(QUICK | {"minimum_dwell": 41}))

    @pytest.mark.parametrize("emission", ["hmm", 3, None, bh.Gaussian])
    def test_emission(self, short, emission):
        with refused("emission=", "Gaussian(...)", "Autoregressive(...)"):
            bh.fit(short, 2, emission=emission, **QUICK)

    @pytest.mark.parametrize("transition", ["sticky", bh.Dirichlet])
    def test_transition(self, short, transition):
        with refused("transition", "Dirichlet"):
            bh.fit(short, 2, transition=transition, **QUICK)

    @pytest.mark.parametrize("steps", [0, -5.0, float("nan")])
    def test_expected_dwell(self, short, steps):
        with refused("expected_dwell", str(steps)):
            bh.fit(short, 2, transition=bh.Dirichlet(expected_dwell=steps), **QUICK)

    @pytest.mark.parametrize("inference", ["mcmc", None])
    def test_inference(self, short, inference):
        with refused(f"inference={inference!r}", "gibbs"):
            bh.fit(short, 2, **(QUICK | {"inference": inference}))

    @pytest.mark.parametrize("settings", [{"restarts": 0}, {"draws": 0}])
    def test_numbers_of_restarts_and_draws(self, short, settings):
        with refused("restarts", "draws"):
            bh.fit(short, 2, **(QUICK | settings))

    @pytest.mark.parametrize("setting", [{"lags": 0}, {"half_lives": (0,)}, {"covariance": "diag"}])
    def test_settings_of_a_family(self, setting):
        with refused(next(iter(setting)), "must be"):
            bh.Autoregressive(**setting)

    def test_metric_that_never_changes(self, short):
        with refused("'flat'", "constant", "select"):
            bh.fit(changed(short, flat=1.0), 2, **QUICK)

    def test_metric_that_is_missing_everywhere(self, short):
        with refused("'gone'", "missing in every run", "select"):
            bh.fit(changed(short, gone=np.nan), 2, **QUICK)

    def test_metric_that_one_run_lacks(self, short):
        runs = changed(short, m1=lambda rows: rows["m1"].mask(rows["run"] == "seed-3"))
        with refused("'seed-3'", "'m1'", "never recorded", "subset"):
            bh.fit(runs, 2, **QUICK)

    def test_unknown_metric(self, short):
        with refused("'m7'", "'m1'"):
            bh.fit(short, 2, metrics=["m0", "m7"], **QUICK)

    def test_no_metric(self, short):
        with refused("0 metrics", "select"):
            bh.fit(short, 2, metrics=[], **QUICK)

    def test_more_than_twenty_metrics(self, short):
        noise = np.random.default_rng(0).standard_normal((19, int(short.lengths.sum())))
        with refused("21 metrics", "20", "select"):
            bh.fit(changed(short, **{f"x{i}": row for i, row in enumerate(noise)}), 2, **QUICK)

    def test_run_of_one_row(self, short):
        frame = short.to_dataframe()
        runs = bh.Runs.from_dataframe(frame[(frame["run"] != "seed-2") | (frame["step"] == 0)])
        with refused("'seed-2'", "one row", "subset"):
            bh.fit(runs, 2, **QUICK)

    def test_log_of_negative_values(self, short):
        low = short.values[:, :, 1].min(axis=1, initial=0, where=~np.isnan(short.values[:, :, 1]))
        run = short.names[int(low.argmin())]
        with refused("'m1'", repr(run), "larger floor"):
            bh.fit(short, 2, log=["m1"], **QUICK)

    def test_log_of_what_is_not_modelled(self, short):
        with refused("log=", "'m7'", "'m0'"):
            bh.fit(short, 2, log=["m7"], **QUICK)

    def test_one_name_may_stand_alone(self, short):
        runs = changed(short, m0=lambda rows: np.exp(rows["m0"] / 10))
        one, other = (bh.fit(runs, 1, log=log, **QUICK) for log in ("m0", ["m0"]))
        np.testing.assert_array_equal(one.log_density(runs), other.log_density(runs))

    def test_a_frame_is_not_yet_runs(self, short):
        with pytest.raises((TypeError, ValueError), match="Runs"):
            bh.fit(short.to_dataframe(), 2, **QUICK)
