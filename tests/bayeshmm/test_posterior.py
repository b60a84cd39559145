"""`Posterior`: what it says of states, changes, parameters and new runs."""

from itertools import groupby

import arviz as az
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal, multivariate_t
from scipy.stats import t as student_t
from synthetic_runs import EVERY, PLAIN, QUICK, change_rows, changed, level_runs

import bayeshmm as bh
from bayeshmm import decoding, messages, phases
from bayeshmm.alignment import display_order

ENTRY_COLUMNS = ["run", "state", "probability", "median", "lower", "upper", "confirmed"]
TRANSITION_COLUMNS = ["run", "source", "target", "occurrence", *ENTRY_COLUMNS[2:]]


def prefix(runs, rows):
    """The first rows of every run."""
    frame = runs.to_dataframe()
    return bh.Runs.from_dataframe(frame[frame["step"] < EVERY * rows], metrics=runs.metrics)


def joined(*several):
    return bh.Runs.from_dataframe(pd.concat([runs.to_dataframe() for runs in several]))


@pytest.fixture(scope="module")
def quick(short):
    return bh.fit(short, 2, **QUICK)


@pytest.fixture(scope="module")
def short_unseen(short):
    """Runs that differ from `short` in name and value, and whose metrics keep to other ranges."""
    runs = changed(
        short,
        run=lambda rows: rows["run"].str.replace("seed", "unseen"),
        m0=lambda rows: rows["m0"] + 0.3 * np.sin(rows["step"]),
    )
    return runs.subset(["unseen-1", "unseen-2", "unseen-4"])


class TestDescription:
    def test_what_was_fitted(self, posterior, moving):
        assert posterior.states == 3
        assert posterior.state_names == ("phase 0", "phase 1", "phase 2")
        assert posterior.metrics == moving.metrics
        assert posterior.inference == "gibbs"

    def test_repr_names_model_data_and_dwell_in_steps(self, posterior):
        text = repr(posterior)
        for words in ("3 phases", "8 runs", "Autoregressive(lags=5", "5 rows (50 steps)", "gibbs"):
            assert words in text
        assert "<table" in posterior._repr_html_()

    def test_rename(self, posterior):
        named = posterior.rename({0: "warm-up", "phase 2": "grok"})
        assert named.state_names == ("warm-up", "phase 1", "grok")
        assert posterior.state_names[0] == "phase 0"
        assert named.smooth().coords["state"].to_numpy().tolist() == list(named.state_names)
        assert named.idata.posterior["state"].to_numpy().tolist() == list(named.state_names)
        assert set(named.entry_times()["state"]) == set(named.state_names)
        old, new = posterior.transition_times(), named.transition_times()
        pd.testing.assert_frame_equal(
            old.drop(columns=["source", "target"]), new.drop(columns=["source", "target"])
        )
        assert "grok" in repr(named)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ({3: "late"}, "no phase 3"),
            ({"grok": "late"}, "no phase 'grok'"),
            ({0: "phase 1"}, "share a name"),
            ({0: "a", 2: "a"}, "share a name"),
        ],
    )
    def test_rename_refuses(self, posterior, names, message):
        with pytest.raises(ValueError, match=message):
            posterior.rename(names)


class TestPaths:
    def test_padding_is_minus_one_and_nothing_else_is(self, posterior, moving):
        assert posterior.paths.shape == (400, *moving.steps.shape)
        padding = np.broadcast_to(moving.steps < 0, posterior.paths.shape)
        np.testing.assert_array_equal(posterior.paths < 0, padding)
        assert posterior.paths.min() == -1
        assert posterior.paths.max() == 2

    def test_every_visit_lasts_the_minimum_dwell_but_the_last(self, short, short_unseen):
        """Levels cut a drift as finely as they may, so the limit is reached."""
        settings = QUICK | {"minimum_dwell": 6}
        posterior = bh.fit(short, 4, emission="gaussian", **settings)
        new_paths = decoding.state_paths(posterior, short_unseen)
        assert new_paths.shape[1:] == short_unseen.steps.shape
        shortest = []
        for paths in (posterior.paths, new_paths):
            visits = [
                [len(list(rows)) for _, rows in groupby(path[path >= 0])]
                for path in paths.reshape(-1, paths.shape[-1])
            ]
            shortest.append(min(min(lasted[:-1]) for lasted in visits if len(lasted) > 1))
        assert min(shortest) == 6

    @pytest.mark.parametrize("seed", range(4))
    def test_phases_are_numbered_by_first_visit(self, short, seed):
        posterior = bh.fit(short, 4, emission="gaussian", seed=seed, **(QUICK | {"restarts": 4}))
        modal = posterior.smooth().fillna(-1).argmax("state").to_numpy()
        order = display_order(np.where(short.steps >= 0, modal, -1), 4)
        np.testing.assert_array_equal(order, np.arange(4))


class TestTables:
    def test_entry_times(self, posterior, moving):
        table = posterior.entry_times(level=0.8)
        assert list(table) == ENTRY_COLUMNS
        assert len(table) == 8 * 3
        paths = posterior.paths, moving.steps, moving.names, posterior.state_names
        expected = phases.entry_times(*paths, 0.8, posterior.minimum_dwell)
        pd.testing.assert_frame_equal(table, expected)
        first = table[table["state"] == "phase 0"]
        assert (first[["probability", "median", "lower", "upper"]] == [1, 0, 0, 0]).all(axis=None)

    def test_transition_times(self, posterior, moving):
        table = posterior.transition_times(level=0.8)
        assert list(table) == TRANSITION_COLUMNS
        paths = posterior.paths, moving.steps, moving.names, posterior.state_names
        expected = phases.transition_times(*paths, 0.8, posterior.minimum_dwell)
        pd.testing.assert_frame_equal(table, expected)

    @pytest.mark.parametrize("table", ["entry_times", "transition_times"])
    def test_a_higher_level_gives_intervals_that_contain_the_lower_ones(self, posterior, table):
        narrow, wide = (getattr(posterior, table)(level=level) for level in (0.5, 0.95))
        assert (wide["lower"] <= narrow["lower"]).all()
        assert (wide["upper"] >= narrow["upper"]).all()
        assert (wide["upper"] > narrow["upper"]).any()
        assert (narrow["median"] == wide["median"]).all()
        assert narrow["median"].between(narrow["lower"], narrow["upper"]).all()

    @pytest.mark.parametrize("level", [0, 1, 90])
    def test_level(self, posterior, level):
        with pytest.raises(ValueError, match=f"level={level} must lie between 0 and 1"):
            posterior.entry_times(level=level)

    @pytest.mark.parametrize("table", ["entry_times", "transition_times"])
    def test_some_of_the_fitted_runs(self, posterior, moving, table):
        some = moving.subset(["seed-6", "seed-2"])
        found = getattr(posterior, table)(runs=some)
        of_all = getattr(posterior, table)()
        expected = pd.concat([of_all[of_all["run"] == name] for name in some.names])
        pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))

    def test_new_runs(self, posterior, unseen):
        truth = EVERY * change_rows(2, 5, [(20, 32), (46, 58)])
        entries = posterior.entry_times(runs=unseen).set_index(["state", "run"])
        for k in (1, 2):
            found = entries.loc[f"phase {k}"]
            assert (np.abs(found["median"] - truth[:, k - 1]) <= 6 * EVERY).all()
        changes = posterior.transition_times(runs=unseen)
        assert set(changes["run"]) == set(unseen.names)
        pd.testing.assert_frame_equal(changes, posterior.transition_times(runs=unseen))


class TestStateProbabilities:
    @pytest.mark.parametrize("kind", ["smooth", "filter"])
    @pytest.mark.parametrize("new", [False, True])
    def test_shape_coordinates_and_padding(self, posterior, moving, unseen, kind, new):
        runs = unseen if new else moving
        found = getattr(posterior, kind)(*[unseen] * new)
        assert found.dims == ("run", "time", "state")
        assert found.coords["run"].to_numpy().tolist() == list(runs.names)
        assert found.coords["step"].dims == ("run", "time")
        np.testing.assert_array_equal(found.coords["step"], runs.steps)
        within = runs.steps >= 0
        assert np.isnan(found.to_numpy()[~within]).all()
        inside = found.to_numpy()[within]
        assert ((inside >= 0) & (inside <= 1)).all()
        np.testing.assert_allclose(inside.sum(-1), 1.0, atol=1e-12)

    def test_smoothed_probabilities_are_those_of_the_paths(self, posterior):
        """Both average over the same posterior; 400 draws tell a probability to a few percent."""
        shares = np.stack([(posterior.paths == k).mean(0) for k in range(3)], -1)
        gap = np.abs(posterior.smooth().fillna(0).to_numpy() - shares)
        assert gap.max() < 0.15
        assert gap.mean() < 0.01

    def test_in_the_last_row_nothing_is_left_to_learn(self, posterior, moving):
        last = moving.lengths - 1
        rows = np.arange(len(moving))
        filtered, smoothed = (
            p.to_numpy()[rows, last] for p in (posterior.filter(), posterior.smooth())
        )
        np.testing.assert_allclose(filtered, smoothed, atol=1e-9)

    def test_smoothing_learns_from_later_rows(self, posterior):
        assert float(np.abs(posterior.filter() - posterior.smooth()).max()) > 0.1

    @pytest.mark.parametrize("rows", [8, 30, 50])
    def test_filtered_probabilities_of_new_runs_know_only_the_past(self, posterior, unseen, rows):
        whole, part = posterior.filter(unseen), posterior.filter(prefix(unseen, rows))
        np.testing.assert_allclose(whole[:, :rows], part, atol=1e-9)

    @pytest.mark.parametrize("kind", ["smooth", "filter"])
    def test_company_changes_nothing(self, posterior, moving, unseen, kind):
        """Of a known run the posterior says what it says whichever runs are asked for with it."""
        question, rows = getattr(posterior, kind), moving.lengths[4]
        mixed = question(joined(moving.subset("seed-4"), unseen)).sel(run="seed-4")
        np.testing.assert_allclose(mixed[:rows], question().sel(run="seed-4")[:rows], atol=1e-9)

    def test_a_metric_more_is_no_matter(self, posterior, unseen):
        extra = changed(unseen, noise=lambda rows: np.sin(rows["step"] ** 2))
        np.testing.assert_array_equal(posterior.smooth(extra), posterior.smooth(unseen))

    def test_a_metric_less_is_named(self, posterior, unseen):
        less = bh.Runs.from_dataframe(unseen.to_dataframe().drop(columns="m1"))
        with pytest.raises(ValueError, match="'m1'"):
            posterior.smooth(less)


class TestInferenceData:
    def test_groups_variables_and_dimensions(self, posterior):
        idata = posterior.idata
        sizes = {name: idata.posterior[name].dims[2:] for name in idata.posterior.data_vars}
        assert sizes == {
            "initial": ("state",),
            "transition": ("state", "state_to"),
            "dwell": ("state",),
            "exit_mean": (),
            "exit_concentration": (),
            "jump_concentration": (),
            "coefficient": ("state", "metric", "regressor"),
            "contrast": ("state", "metric", "metric_to"),
            "covariance": ("state", "metric", "metric_to"),
            "run_effect": ("run", "state", "metric"),
            "degrees": (),
            "shrinkage": ("kind",),
            "path": ("run", "time"),
        }
        assert idata.log_likelihood["log_lik"].dims == ("chain", "draw", "run")
        assert idata.observed_data["y"].dims == ("run", "time", "metric")
        assert idata.observed_data["step"].dims == ("run", "time")
        assert idata.posterior["regressor"].to_numpy().tolist() == [
            "intercept",
            "level",
            *(f"difference {lag}" for lag in (1, 2, 3, 4)),
        ]

    def test_data_and_paths_are_those_of_the_runs(self, posterior, moving):
        idata = posterior.idata
        np.testing.assert_array_equal(idata.observed_data["y"], moving.values)
        np.testing.assert_array_equal(idata.observed_data["step"], moving.steps)
        paths = idata.posterior["path"].to_numpy().reshape(posterior.paths.shape)
        np.testing.assert_array_equal(paths, posterior.paths)

    def test_probabilities_sum_to_one(self, posterior):
        for name in ("initial", "transition"):
            np.testing.assert_allclose(
                posterior.idata.posterior[name].sum(dim=posterior.idata.posterior[name].dims[-1]),
                1.0,
            )

    def test_dwell_is_the_expected_length_of_a_visit_in_steps(self, posterior):
        draws = posterior.idata.posterior
        leave = (draws["transition"].to_numpy() * (1 - np.eye(3))).sum(-1)
        np.testing.assert_allclose(draws["dwell"], EVERY * (5 - 1 + 1 / leave))

    def test_arviz_summarises(self, posterior):
        table = az.summary(posterior.idata, var_names=["initial", "transition", "dwell"])
        assert np.isfinite(table["mean"]).all()
        assert (table["r_hat"] < 1.2).all()
        assert "transition[phase 0, phase 1]" in table.index
        # ArviZ has a dimension "metric" of its own in its summary
        emission = posterior.idata.posterior.rename(metric="of")
        assert len(az.summary(emission, var_names=["covariance"])) == 3 * 3 * 3

    def test_arviz_diagnoses(self, posterior):
        names = ["initial", "transition", "dwell", "covariance", "coefficient"]
        assert (az.rhat(posterior.idata, var_names=names).to_array() < 1.3).all()
        assert (az.ess(posterior.idata, var_names=names).to_array() > 20).all()

    def test_moments_of_levels_are_in_the_units_of_the_data(self, level_posterior, levels):
        """Against the rows that each state claims; their number, 160, leaves little to a prior."""
        runs, changes = levels
        draws = level_posterior.idata.posterior
        assert draws["mean"].dims[2:] == ("state", "metric")
        phase = (np.arange(40) >= changes).astype(int)
        for k in (0, 1):
            rows = runs.values[phase == k]
            mean = draws["mean"].sel(state=f"phase {k}")
            error = np.abs(mean.mean(("chain", "draw")) - rows.mean(0))
            assert (error < 0.05 * rows.std(0)).all()
            np.testing.assert_allclose(
                mean.std(("chain", "draw")), rows.std(0) / np.sqrt(len(rows)), rtol=0.2
            )
            covariance = draws["covariance"].sel(state=f"phase {k}").mean(("chain", "draw"))
            np.testing.assert_allclose(covariance, np.cov(rows.T), atol=0.08 * rows.var(0).max())

    def test_metrics_keep_their_place_whatever_the_order_of_the_law(self, levels):
        """The recursive law takes the best predicted metric last; users never see that."""
        runs = changed(
            levels[0], m1=lambda rows: -3.0 * rows["m1"], a=lambda rows: rows["step"] % 7
        )
        one = bh.fit(runs, 2, emission="gaussian", **QUICK)
        other = bh.fit(runs.select(["m1", "a", "m0"]), 2, emission="gaussian", **QUICK)
        for name in ("mean", "covariance"):
            found = [p.idata.posterior[name].mean(("chain", "draw")) for p in (one, other)]
            np.testing.assert_allclose(found[0], found[1].reindex_like(found[0]), rtol=1e-6)

    def test_one_state(self, short):
        draws = bh.fit(short, 1, **QUICK).idata.posterior
        assert (draws["transition"] == 1).all()
        assert (draws["initial"] == 1).all()
        assert np.isinf(draws["dwell"]).all()
        assert set(np.unique(draws["path"])) == {-1, 0}


def level_log_densities(draws, values):
    """Log density of every row under every state, from one draw's parameters in data units."""
    density = np.zeros((*values.shape[:2], draws.sizes["state"]))
    degrees = draws["degrees"].item() if "degrees" in draws else np.inf
    for n, k in np.ndindex(len(values), draws.sizes["state"]):
        mean, shape = draws["mean"][k].to_numpy(), draws["covariance"][k].to_numpy()
        if "run_effect" in draws:
            mean = mean + draws["run_effect"][n, k].to_numpy()
        for t in range(values.shape[1]):
            seen = ~np.isnan(values[n, t])
            if seen.any():
                law = multivariate_t(mean[seen], shape[np.ix_(seen, seen)], degrees)
                density[n, t, k] = law.logpdf(values[n, t, seen])
    return density


class TestRunLikelihoods:
    """`log_lik` of a draw against the density written out from that draw's parameters."""

    def check(self, posterior, density):
        runs = posterior.runs
        found = posterior.idata.log_likelihood["log_lik"].isel(chain=0, draw=3)
        draw = posterior.idata.posterior.isel(chain=0, draw=3)
        with np.errstate(divide="ignore"):
            logs = [
                torch.from_numpy(np.log(draw[name].to_numpy()))
                for name in ("initial", "transition")
            ]
        expected = messages.log_marginal(
            *logs,
            torch.from_numpy(density(draw)),
            lengths=torch.tensor(runs.lengths),
            minimum_dwell=posterior.hmm.dwell(runs),
        )
        np.testing.assert_allclose(found, expected, atol=1e-3)

    def test_levels(self, level_posterior):
        values = level_posterior.runs.values
        self.check(level_posterior, lambda draw: level_log_densities(draw, values))

    def test_levels_of_logarithms_with_missing_values(self, levels):
        """Parameters are those of log(x + floor); densities those of x."""
        frame = levels[0].to_dataframe()
        frame["m1"] = np.exp(0.3 * frame["m1"]) - 0.1
        frame["m0"] = frame["m0"].mask(frame["step"] % 70 == 0)
        runs = bh.Runs.from_dataframe(frame)
        posterior = bh.fit(runs, 2, emission="gaussian", log={"m1": 0.2}, **QUICK)
        logged = runs.values.copy()
        logged[:, :, 1] = np.log(logged[:, :, 1] + 0.2)

        def density(draw):
            return level_log_densities(draw, logged) - logged[:, :, 1, None]

        self.check(posterior, density)

    def test_laws_of_motion(self, short):
        """One metric and one lag: the increment is Student-t around a line in the level."""
        runs = short.select("m0")
        posterior = bh.fit(runs, 2, emission=bh.Autoregressive(lags=1), **QUICK)
        values = runs.values[:, :, 0]
        level, increment = values[:, :-1], np.diff(values)
        mean, sd = np.nanmean(values), np.nanstd(values)
        regressor = (level - mean) / sd
        unit = np.sqrt(np.nanmean(increment**2))
        seen = ~np.isnan(increment)
        size = np.sqrt((regressor**2)[seen].mean())
        entry = posterior.variational.entry.regression.law

        def density(draw):
            intercept, slope = draw["coefficient"].to_numpy()[:, 0].T
            expected = unit * (intercept + slope * regressor[:, :, None] / size)
            deviation = np.sqrt(draw["covariance"].to_numpy()[:, 0, 0])
            expected = expected + draw["run_effect"].to_numpy()[:, None, :, 0]
            residual = increment[:, :, None] - expected
            rows = student_t.logpdf(residual, draw["degrees"].item(), scale=deviation)
            start = (values[:, 0] - mean) / sd
            centre = float(entry.coefficients.squeeze())
            noise = (start - centre) ** 2 + float(entry.covariance.squeeze()) / float(
                entry.precision
            )
            first = -0.5 * (
                float(entry.precision) * noise + float(entry.log_variance) + np.log(2 * np.pi)
            )
            rows = np.nan_to_num(np.concatenate([np.zeros_like(rows[:, :1]), rows], 1))
            rows[:, 0] = (first - np.log(sd))[:, None]
            return rows

        self.check(posterior, density)


class TestLogDensity:
    def test_a_run_by_itself(self, posterior, unseen):
        found = posterior.log_density(unseen)
        assert found.dims == ("run",)
        assert found.coords["run"].to_numpy().tolist() == list(unseen.names)
        assert found.attrs["shortcut"] == []
        alone = posterior.log_density(unseen.subset("unseen-1"))
        np.testing.assert_allclose(alone, found[1:])

    def test_units_of_the_data(self, short, short_unseen, quick):
        """An affine change of units shifts the density by its Jacobian and does nothing else."""

        def rescaled(runs):
            return changed(
                runs, m0=lambda rows: 40 + 7 * rows["m0"], m1=lambda rows: 3e-4 * rows["m1"]
            )

        other = bh.fit(rescaled(short), 2, **QUICK)
        shift = other.log_density(rescaled(short_unseen)) - quick.log_density(short_unseen)
        np.testing.assert_allclose(
            shift, -short_unseen.lengths * (np.log(7) + np.log(3e-4)), rtol=1e-7
        )
        np.testing.assert_allclose(other.smooth(), quick.smooth(), atol=1e-7)
        np.testing.assert_allclose(
            other.smooth(rescaled(short_unseen)), quick.smooth(short_unseen), atol=1e-7
        )
        ratio = other.idata.posterior["covariance"] / quick.idata.posterior["covariance"]
        assert ratio.sel(metric="m0", metric_to="m0").to_numpy() == pytest.approx(49)

    def test_missing_values_have_no_units(self, short):
        frame = short.to_dataframe()
        frame["m1"] = frame["m1"].mask(frame["step"] % 30 == 0)
        runs = bh.Runs.from_dataframe(frame)
        scaled = changed(runs, m1=lambda rows: 8 * rows["m1"])
        one, other = (bh.fit(some, 2, **QUICK).log_density(some) for some in (runs, scaled))
        observed = (~np.isnan(runs.values[:, :, 1])).sum(1)
        np.testing.assert_allclose(other - one, -observed * np.log(8), rtol=1e-7)

    def test_a_logarithm_counts_its_jacobian(self, short, short_unseen):
        floor = 0.25
        fits = [
            bh.fit(short, 2, log={"m0": floor}, **QUICK),
            bh.fit(changed(short, m0=lambda rows: np.log(rows["m0"] + floor)), 2, **QUICK),
        ]
        logged = changed(short_unseen, m0=lambda rows: np.log(rows["m0"] + floor))
        shift = fits[0].log_density(short_unseen) - fits[1].log_density(logged)
        np.testing.assert_allclose(shift, -np.nansum(logged.values[:, :, 0], axis=1), rtol=1e-7)

    @pytest.mark.parametrize("log", [(), {"m0": 0.5}])
    @pytest.mark.parametrize(
        ("emission", "states", "least"),
        [
            (bh.Gaussian(**PLAIN), 1, 1 - 2e-3),
            (bh.Gaussian(**PLAIN), 2, 0.9),
            ("gaussian", 1, 0.9),
            ("gaussian", 2, 0.9),
        ],
    )
    def test_it_is_a_density(self, levels, emission, states, least, log):
        """Runs of one row: the predictive density integrates to 1, a bound of it to less."""
        runs = changed(levels[0].select("m0"), m0=lambda rows: np.exp(rows["m0"] / 4))
        posterior = bh.fit(runs.select("m0"), states, emission=emission, log=log, **QUICK)
        low = -0.5 + 1e-4 if log else -40.0
        grid = np.concatenate([np.linspace(low, 20, 3000), np.geomspace(20.01, 1e4, 500)])
        rows = pd.DataFrame({"run": range(len(grid)), "step": 0, "m0": grid})
        density = np.exp(posterior.log_density(bh.Runs.from_dataframe(rows, metrics=["m0"])))
        total = np.trapezoid(density, grid)
        assert total < 1 + 2e-3
        assert total > least

    @pytest.mark.parametrize(
        ("emission", "states", "least"),
        [
            (bh.Autoregressive(**PLAIN), 1, 1 - 2e-3),
            (bh.Autoregressive(**PLAIN), 2, 0.9),
            ("autoregressive", 2, 0.9),
        ],
    )
    def test_a_row_given_the_row_before_it_has_a_density(self, short, emission, states, least):
        posterior = bh.fit(short.select("m0"), states, emission=emission, **QUICK)
        grid = np.linspace(-30, 50, 4001)
        rows = pd.DataFrame({"run": np.repeat(np.arange(len(grid)), 2), "m0": 9.5})
        rows["step"] = np.tile([0, EVERY], len(grid))
        rows.loc[1::2, "m0"] = grid
        both = posterior.log_density(bh.Runs.from_dataframe(rows, metrics=["m0"]))
        alone = bh.fit(short.select("m0"), 1, **QUICK)  # exact, and the first row has no state
        first = alone.log_density(bh.Runs.from_dataframe(rows[:1], metrics=["m0"]))
        total = np.trapezoid(np.exp(both - first.item()), grid)
        assert total < 1 + 2e-3
        assert total > least

    def test_one_gaussian_phase_predicts_as_its_law_does(self):
        """With 320 rows seen, the predictive density of 40 rows is nearly that of the true law."""
        runs = level_runs([[]] * 8, [40] * 8, [[3.0, -1.0]], [[[1.0, 0.5], [0.5, 2.0]]], seed=0)
        new = level_runs([[]] * 5, [40] * 5, [[3.0, -1.0]], [[[1.0, 0.5], [0.5, 2.0]]], seed=1)
        new = changed(new, run=lambda rows: "new-" + rows["run"])
        found = bh.fit(runs, 1, emission=bh.Gaussian(**PLAIN), **QUICK).log_density(new)
        law = multivariate_normal([3.0, -1.0], [[1.0, 0.5], [0.5, 2.0]])
        np.testing.assert_allclose(found, law.logpdf(new.values).sum(1), atol=2.0)

    def test_a_strange_run_is_unlikely(self, posterior, unseen):
        backwards = changed(unseen, m0=lambda rows: rows["m0"].to_numpy()[::-1])
        assert (posterior.log_density(backwards) < posterior.log_density(unseen) - 50).all()

    def test_known_runs_are_scored_as_if_they_were_not(self, posterior, moving):
        """The shortcut is labelled, and near the refit without the run."""
        found = posterior.log_density(moving)
        assert found.attrs["shortcut"] == list(moving.names)
        for name in ("seed-2", "seed-5"):
            rest = moving.subset([other for other in moving.names if other != name])
            refit = bh.fit(rest, 3, **(QUICK | {"minimum_dwell": 5, "restarts": 4}))
            honest = refit.log_density(moving.subset(name))
            assert honest.attrs["shortcut"] == []
            gap = found.sel(run=name).item() - honest.item()
            assert abs(gap) < 0.05 * len(moving.steps[0])

    def test_known_and_new_runs_together(self, posterior, moving, unseen):
        found = posterior.log_density(joined(unseen, moving.subset(["seed-3", "seed-0"])))
        assert found.attrs["shortcut"] == ["seed-3", "seed-0"]
        expected = [*posterior.log_density(unseen), *posterior.log_density(moving)[[3, 0]]]
        np.testing.assert_allclose(found, expected)

    def test_a_known_name_with_other_rows_is_new(self, posterior, moving):
        assert posterior.log_density(prefix(moving, 60)).attrs["shortcut"] == []

    def test_new_values_that_have_no_logarithm_are_named(self, short, short_unseen):
        posterior = bh.fit(short, 2, log={"m0": 0.5}, **QUICK)
        below = changed(short_unseen, m0=lambda rows: rows["m0"].mask(rows["step"] == 50, -1.0))
        with pytest.raises(ValueError, match=r"(?s)'m0'.*'unseen-1'.*floor"):
            posterior.log_density(below)
