"""Units, the order of the law, causal features, and how they come together in an encoding."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from synthetic_runs import QUICK, changed, level_runs, tidy

import bayeshmm as bh
from bayeshmm.emissions.features import Memory, past
from bayeshmm.encoding import Encoding
from bayeshmm.scaling import (
    FINEST,
    Scaling,
    observed_increments,
    recording_step,
    recursive_order,
)
from bayeshmm.transitions import Calendar


def encoding_of(runs, emission):
    return Encoding.fit(runs, emission, Calendar.of(runs))


class TestScaling:
    def test_pooled_mean_and_deviation(self, gappy):
        scaling = Scaling.fit(gappy)
        rows = gappy.values.reshape(-1, 2)
        assert_allclose(scaling.mean, np.nanmean(rows, 0))
        assert_allclose(scaling.sd, np.nanstd(rows, 0))
        standard = scaling.standardise(gappy).reshape(-1, 2)
        assert_allclose(np.nanmean(standard, 0), 0, atol=1e-12)
        assert_allclose(np.nanstd(standard, 0), 1)
        assert_array_equal(np.isnan(standard)[:, np.argsort(scaling.order)], np.isnan(rows))

    def test_increments_are_from_the_last_observed_value(self, gappy):
        squares = []
        for run in (
            gappy.values[:, :, 0] / gappy.values[:, :, 0][~np.isnan(gappy.values[:, :, 0])].std()
        ):
            squares += (np.diff(run[~np.isnan(run)]) ** 2).tolist()
        assert Scaling.fit(gappy).increment[0] == pytest.approx(np.sqrt(np.mean(squares)))

    def test_units_are_kept_for_other_runs(self, short, gappy):
        scaling = Scaling.fit(short)
        found = scaling.standardise(gappy.subset(["seed-2", "seed-0"]))
        expected = (gappy.values[[2, 0]] - scaling.mean) / scaling.sd
        assert_allclose(found, expected[:, :, scaling.order])

    def test_metrics_are_found_by_name(self, short):
        scaling = Scaling.fit(short)
        reordered = changed(short, a=1.0).select(["m1", "m0"])
        assert_array_equal(scaling.standardise(reordered), scaling.standardise(short))
        assert_array_equal(scaling.log_jacobian(reordered), scaling.log_jacobian(short))

    def test_resolution_is_the_recording_step(self, short):
        runs = changed(short, rounded=lambda rows: rows["m1"].round(1))
        scaling = Scaling.fit(runs)
        assert scaling.resolution[2] * scaling.sd[2] == pytest.approx(0.1)

    def test_values_that_differ_by_rounding_error_are_one_value(self, short):
        rough = changed(short, m1=lambda rows: rows["m1"].round(1) + 1e-13 * rows["step"])
        scaling = Scaling.fit(rough)
        assert scaling.resolution[1] * scaling.sd[1] == pytest.approx(0.1, rel=1e-6)

    def test_metrics_without_a_visible_step_have_the_finest_resolution(self, short):
        assert_array_equal(Scaling.fit(short).resolution, FINEST)

    def test_resolution_of_a_logarithm_is_that_of_its_largest_value(self, short):
        runs = changed(short, m1=lambda rows: 1.0 + rows["m1"].round(1).abs())
        scaling = Scaling.fit(runs, {"m1": 0.5})
        largest = np.nanmax(runs.values[:, :, 1])
        assert scaling.resolution[1] * scaling.sd[1] == pytest.approx(0.1 / (largest + 0.5))
        logged = np.unique(np.log(runs.values[:, :, 1][runs.steps >= 0] + 0.5))
        assert scaling.resolution[1] * scaling.sd[1] <= np.diff(logged).min()

    def test_a_metric_that_never_moves_has_units_too(self):
        runs = bh.Runs.from_dataframe(
            tidy("a", np.array([[1.0, 2.0], [1.0, 3.0]])), metrics=["m0", "m1"]
        )
        scaling = Scaling.fit(runs)
        assert scaling.sd[0] == 1
        assert np.isfinite(scaling.standardise(runs)).all()


def printed(values, digits):
    return np.array([float(f"{value:.{digits}g}") for value in values])


def single(values):
    return values.astype(np.float32).astype(float)


def accidents(values, rng):
    """The values with errors of a few units in the last place of single precision."""
    return values + rng.integers(-2, 3, len(values)) * 2.0**-24


class TestRecordingStep:
    @pytest.mark.parametrize(
        ("record", "step"),
        [
            (lambda rng: rng.integers(0, 513, 300) / 512, 1 / 512),
            (lambda rng: np.minimum(rng.integers(300, 2000, 300), 512) / 512, 1 / 512),
            (lambda rng: accidents(rng.integers(0, 513, 300) / 512, rng), 1 / 512),
            (lambda rng: printed(rng.integers(0, 513, 300) / 512, 6), 1 / 512),
            (lambda rng: printed(rng.integers(0, 8641, 2000) / 8640, 7), 1 / 8640),
            (lambda rng: single(rng.integers(0, 501, 300) / 500), 1 / 500),
            (lambda rng: single(rng.integers(0, 50001, 3000) / 50000), 1 / 50000),
            (lambda rng: np.append(rng.integers(0, 513, 300) / 512, 0.25 + 2.0**-54), 1 / 512),
            (lambda rng: rng.integers(0, 4000, 300).astype(float), 1.0),
            (lambda rng: rng.choice([0.0, 0.02, 0.05, 0.07], 50), 0.01),
            (lambda rng: (0.3 + rng.random(300)).round(3), 1e-3),
            (lambda rng: np.repeat(single(2 + 2 * rng.random(300)), 2), 2.0**-22),
        ],
        ids=[
            "accuracy",
            "saturated",
            "averaged in single precision",
            "printed with six digits",
            "fine, printed with seven digits",
            "single precision",
            "fine, single precision",
            "one accident",
            "integers",
            "no neighbouring values",
            "decimals",
            "units in the last place",
        ],
    )
    @pytest.mark.parametrize("seed", range(3))
    def test_steps_are_found(self, record, step, seed):
        assert recording_step(record(np.random.default_rng(seed))) == pytest.approx(step, rel=1e-4)

    @pytest.mark.parametrize(
        "record",
        [
            lambda rng: rng.standard_normal(300).cumsum(),
            lambda rng: np.append(rng.standard_normal(300).cumsum(), [1.0] * 100),
            lambda rng: np.append(0.3 + 0.2 * rng.random(100), [1e6, 1e6, 0.4, 0.4]),
            lambda rng: np.repeat(10.0 ** rng.uniform(-8, 3, 300), 2),
            lambda rng: np.append(1e-4 * rng.integers(0, 50, 300), 1e5 * rng.random(30)),
            lambda rng: 5.0 - 1e-4 * np.arange(60) + 1e-7 * rng.random(60),
            lambda rng: 10.0 * np.exp(-np.arange(60) / (2000 * rng.random() + 20)),
            lambda rng: np.repeat(1e6 + 1e-3 * rng.standard_normal(300), 2),
            lambda rng: np.full(20, 3.7),
            lambda rng: np.full(20, np.nan),
        ],
        ids=[
            "continuous",
            "a value that recurs",
            "an outlier",
            "eleven orders of magnitude",
            "steps far below the largest values",
            "a straight line",
            "a slow decay",
            "far from zero",
            "constant",
            "missing",
        ],
    )
    @pytest.mark.parametrize("seed", range(3))
    def test_none_is_seen_where_there_is_none(self, record, seed):
        assert recording_step(record(np.random.default_rng(seed))) < 1e-9

    def test_it_never_exceeds_the_step(self):
        """Over 300 metrics of all sizes, rough and fine, in single precision or printed."""
        rng = np.random.default_rng(0)
        for n in range(300):
            step = 10.0 ** rng.uniform(-4, 4)
            size = int(10 ** rng.uniform(0.5, 3.5))
            values = step * (rng.integers(0, size, 200) + rng.integers(0, size))
            recorded = (values, single(values), printed(values, 6))[n % 3]
            assert recording_step(recorded) <= step * (1 + 1e-4)

    def test_it_follows_the_units(self):
        values = np.random.default_rng(0).integers(0, 513, 300) / 512
        assert recording_step(1e7 * values) == pytest.approx(1e7 / 512)
        assert recording_step(1e-7 * values) == pytest.approx(1e-7 / 512)


class TestLogarithms:
    def test_default_floor_is_a_ten_thousandth_of_the_largest_value(self, short):
        runs = changed(short, m1=lambda rows: rows["m1"] ** 2)
        scaling = Scaling.fit(runs, ["m1"])
        floor = 1e-4 * np.nanmax(runs.values[:, :, 1])
        assert scaling.floors == {"m1": pytest.approx(floor)}
        logged = np.log(runs.values[:, :, 1] + floor)
        assert scaling.mean[1] == pytest.approx(np.nanmean(logged))
        assert scaling.sd[1] == pytest.approx(np.nanstd(logged))

    def test_floors_may_be_given(self, short):
        assert Scaling.fit(short, {"m0": 2.5}).floors == {"m0": 2.5}

    def test_zeros_have_a_logarithm(self, short):
        runs = changed(short, m1=lambda rows: np.maximum(rows["m1"], 0))
        assert (runs.values[:, :, 1] == 0).any()
        assert np.isfinite(Scaling.fit(runs, ["m1"]).standardise(runs)[short.steps >= 0]).all()

    @pytest.mark.parametrize("log", [["m1"], {"m1": 0.1}])
    def test_values_below_the_floor_are_named(self, short, log):
        with pytest.raises(ValueError, match=r"(?s)'m1' of run 'seed-\d' falls to -.*larger floor"):
            Scaling.fit(short, log)

    def test_unknown_metrics_are_named(self, short):
        with pytest.raises(ValueError, match=r"log= names \['m9'\].*'m0'"):
            Scaling.fit(short, ["m0", "m9"])

    def test_jacobian_is_the_derivative_of_the_standardisation(self, gappy):
        """Summed over the observed values, by finite differences."""
        scaling = Scaling.fit(gappy, {"m0": 0.5})
        shift = 1e-6
        nudged = bh.Runs.from_dataframe(
            gappy.to_dataframe().assign(
                m0=lambda rows: rows["m0"] + shift, m1=lambda rows: rows["m1"] + shift
            )
        )
        slope = (scaling.standardise(nudged) - scaling.standardise(gappy)) / shift
        assert_allclose(
            scaling.log_jacobian(gappy), np.nansum(np.log(slope), axis=(1, 2)), rtol=1e-6
        )


class TestOrder:
    def test_the_best_predicted_metric_comes_last(self):
        rng = np.random.default_rng(0)
        a, b, c = rng.standard_normal((3, 4, 50))
        total = a + b + 0.1 * rng.standard_normal((4, 50))
        order = recursive_order(np.stack([total, a, b, c], -1), ["sum", "a", "b", "c"])
        assert order[-1] == 0
        assert sorted(order) == [0, 1, 2, 3]

    def test_it_follows_the_names_and_not_the_columns(self):
        steps = np.random.default_rng(1).standard_normal((5, 30, 4)).cumsum(-1)
        names = np.array(["w", "x", "y", "z"])
        shuffled = np.array([2, 0, 3, 1])
        one = names[recursive_order(steps, names)]
        other = names[shuffled][recursive_order(steps[:, :, shuffled], names[shuffled])]
        assert one.tolist() == other.tolist()

    def test_copies_and_constants_have_a_place(self):
        steps = np.random.default_rng(2).standard_normal((3, 20, 1)) * [1.0, 1.0, 0.0]
        assert sorted(recursive_order(steps, ["a", "b", "c"])) == [0, 1, 2]


class TestFeatures:
    def test_increments_skip_what_is_missing(self):
        values = np.array([1.0, np.nan, 4.0, 6.0, np.nan, np.nan, 5.0])[None, :, None]
        expected = [np.nan, np.nan, 3, 2, np.nan, np.nan, -1]
        assert_array_equal(observed_increments(values)[0, :, 0], expected)

    def test_lags_by_hand(self):
        values = np.array([1.0, 3.0, np.nan, 7.0, 8.0])[None, :, None]
        reference, features = past(values, lags=3)
        assert_array_equal(reference[0, :, 0], [np.nan, 1, 3, 3, 7])
        # level, then the differences of the values observed last
        assert_array_equal(
            features[0, :, 0], [[0, 0, 0], [1, 0, 0], [3, 2, 0], [3, 2, 0], [7, 4, 2]]
        )

    def test_averages_by_hand(self):
        """Weights 1, 1/2, 1/4, ... of rows 1, 2, 3, ... back; missing rows age the others."""
        values = np.array([4.0, 8.0, np.nan, 0.0])[None, :, None]
        _, features = past(values, lags=1, half_lives=[1.0])
        expected = [0, 4, (8 + 4 / 2) / 1.5, (8 / 2 + 4 / 4) / 0.75]
        level = [0, 4, 8, 8]
        assert_allclose(features[0, :, 0, 1], np.subtract(expected, level))

    def test_the_future_is_unknown(self, gappy):
        values = gappy.values
        for rows in (1, 7, 25):
            for whole, part in zip(
                past(values, 4, [3.0]), past(values[:, :rows], 4, [3.0]), strict=True
            ):
                assert_array_equal(whole[:, :rows], part)

    def test_a_shift_moves_the_level_alone(self, short):
        reference, features = past(short.values, 3, [5.0])
        moved, shifted = past(short.values + 10, 3, [5.0])
        assert_allclose(moved - reference, np.where(np.isnan(reference), np.nan, 10))
        gap = (shifted - features)[:, 1:]
        assert_allclose(gap, np.broadcast_to([10, 0, 0, 0], gap.shape), atol=1e-9)

    def test_memory_of_a_row_that_is_missing(self):
        memory = Memory((2,), 2)
        for row in ([1.0, np.nan], [2.0, 5.0]):
            memory.observe(np.array(row))
        assert_array_equal(memory.reference, [2, 5])
        assert_array_equal(memory.features(), [[2, 1], [5, 0]])


class TestEncoding:
    def test_responses_are_increments_in_units_of_their_scale(self, gappy):
        encoding = encoding_of(gappy, bh.Autoregressive(lags=2))
        design = encoding.encode(gappy).design
        scaling, order = encoding.scaling, encoding.scaling.order
        steps = observed_increments(gappy.values)[:, :, order]
        unit = (scaling.sd * scaling.increment)[order]
        seen = ~np.isnan(steps)
        assert_array_equal(design.observed, seen)
        assert_allclose(design.response[seen], (steps / unit)[seen])
        response = design.response.numpy()
        assert_allclose([np.mean(response[..., j][seen[..., j]] ** 2) for j in (0, 1)], 1)

    def test_responses_of_levels_are_the_values(self, gappy):
        encoding = encoding_of(gappy, bh.Gaussian())
        data = encoding.encode(gappy)
        standard = encoding.scaling.standardise(gappy)
        assert_allclose(data.design.response, np.nan_to_num(standard))
        assert data.entry is None

    def test_regressors_have_a_root_mean_square_of_one(self, gappy):
        encoding = encoding_of(gappy, bh.Autoregressive(lags=3, half_lives=(5.0,)))
        design = encoding.encode(gappy).design
        for j in range(2):
            used = design.past[:, :, j][design.observed[:, :, j]]
            assert_allclose(used.square().mean(0), 1)

    def test_first_values_are_kept_apart(self, gappy):
        encoding = encoding_of(gappy, bh.Autoregressive())
        entry = encoding.encode(gappy).entry
        values = gappy.values
        first = [[run[~np.isnan(run[:, j]), j][0] for j in (0, 1)] for run in values]
        scaling = encoding.scaling
        standard = (np.array(first) - scaling.mean) / scaling.sd
        assert_allclose(entry.response[:, 0], standard[:, scaling.order])

    def test_jacobian_counts_every_value_once(self, gappy):
        """Increments are in units of sd x increment, first values in units of sd."""
        encoding = encoding_of(gappy, bh.Autoregressive())
        scaling = encoding.scaling
        seen = (~np.isnan(gappy.values)).sum(1)
        expected = -seen @ np.log(scaling.sd) - (seen - 1) @ np.log(scaling.increment)
        assert_allclose(encoding.encode(gappy).log_jacobian, expected)

    def test_a_run_is_encoded_by_itself(self, gappy):
        encoding = encoding_of(gappy, bh.Autoregressive())
        whole, alone = (encoding.encode(runs).design for runs in (gappy, gappy.subset("seed-2")))
        rows = int(gappy.lengths[2])
        assert_array_equal(alone.response[0], whole.response[2, :rows])
        assert_array_equal(alone.past[0], whole.past[2, :rows])

    def test_nothing_lies_beyond_the_end(self, short):
        design = encoding_of(short, bh.Autoregressive()).encode(short).design
        beyond = short.steps < 0
        assert beyond.any()
        assert not design.observed[beyond].any()
        assert not design.past[beyond].any()
        assert not design.response[beyond].any()

    def test_rounding_bounds_the_density_of_metrics_that_stand_still(self):
        """In the second phase the metric repeats one rounded value."""
        runs = level_runs([[20]] * 6, [40] * 6, [[3.0], [0.0]], [[[0.5]], [[1e-12]]], seed=0)
        posterior = bh.fit(
            changed(runs, m0=lambda rows: rows["m0"].round(2)),
            2,
            emission="gaussian",
            **QUICK,
        )
        variance = posterior.idata.posterior["covariance"].sel(state="phase 1")
        still = float(np.sqrt(variance).mean())
        assert 0.01 / np.sqrt(12) / 2 < still < 0.01
