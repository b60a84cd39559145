"""Metrics that tell nothing new, or hardly move, are named; honest ones are not."""

import warnings

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import QUICK

import bayeshmm as bh
from bayeshmm.metric_checks import (
    dependent_metrics,
    saturated_metrics,
    still_metrics,
    warn_of_metrics,
)


def wandering(noise=0.05, high=13.0, low=10.0, runs=6, rows=60, seed=0) -> pd.DataFrame:
    """Tidy rows of three metrics: a falls, b swings, and c wanders."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, rows)
    frames = [
        pd.DataFrame(
            {
                "run": f"seed-{n}",
                "step": np.arange(rows),
                "a": high - (high - low) * time + noise * rng.standard_normal(rows).cumsum(),
                "b": 5 + 2 * np.sin((3 + n) * time) + noise * rng.standard_normal(rows).cumsum(),
                "c": 0.1 * rng.standard_normal(rows).cumsum(),
            }
        )
        for n in range(runs)
    ]
    return pd.concat(frames, ignore_index=True)


def runs_of(frame, **columns):
    return bh.Runs.from_dataframe(frame.assign(**columns))


def walks(moves, step=0.0) -> bh.Runs:
    """Runs whose metrics are the sums of `moves` (N, T, D), recorded in steps of `step`."""
    values = moves.cumsum(axis=1)
    values = np.round(values / step) * step if step else values
    names = [f"m{j}" for j in range(moves.shape[2])]
    frames = [
        pd.DataFrame(run, columns=names).assign(run=f"seed-{n}", step=range(len(run)))
        for n, run in enumerate(values)
    ]
    return bh.Runs.from_dataframe(pd.concat(frames), metrics=names)


class TestDependent:
    @pytest.mark.parametrize(
        ("function", "of"),
        [
            (lambda rows: 3 * rows["a"] - 7, ["a"]),
            (lambda rows: rows["a"] ** 2, ["a"]),
            (lambda rows: 0.3 * rows["a"] - 2 * rows["b"], ["a", "b"]),
            (lambda rows: rows["a"] * rows["b"], ["a", "b"]),
            (lambda rows: np.hypot(rows["a"], rows["b"]), ["a", "b"]),
            (lambda rows: np.sqrt(rows["a"] ** 2 - rows["b"] ** 2), ["a", "b"]),
        ],
        ids=["affine", "square", "sum", "product", "norm", "deviation"],
    )
    def test_functions_of_one_or_two_metrics(self, function, of):
        found = dependent_metrics(runs_of(wandering(), f=function))
        assert {name: sorted(others) for name, others in found.items()} == {"f": of}

    @pytest.mark.parametrize(("high", "low"), [(13.0, 10.0), (40.0, 2.0)])
    @pytest.mark.parametrize("noise", [0.05, 0.3])
    def test_a_norm_whatever_the_range_and_the_noise(self, high, low, noise):
        """What a training run logs: a norm of two parts that change much, and roughly."""
        frame = wandering(noise, high, low)
        found = dependent_metrics(runs_of(frame, norm=np.hypot(frame["a"], frame["b"])))
        assert {name: sorted(others) for name, others in found.items()} == {"norm": ["a", "b"]}

    @pytest.mark.parametrize("digits", [None, 6])
    @pytest.mark.parametrize("seed", range(3))
    def test_sums_of_three_and_norms_of_four_metrics(self, digits, seed):
        """In the presence of others; what a hook logs of the weights of four layers."""
        rng = np.random.default_rng(seed)
        frame = wandering(seed=seed)
        for name, start in (("d", 4.0), ("e", 3.0), ("f", 2.0)):
            frame[name] = start + 0.02 * rng.standard_normal(len(frame)).cumsum()
        frame["total"] = frame[["b", "d", "e"]].sum(axis=1)
        frame["norm"] = np.sqrt((frame[["a", "b", "d", "f"]] ** 2).sum(axis=1))
        if digits is not None:
            metrics = frame.columns.drop(["run", "step"])
            frame[metrics] = frame[metrics].map(lambda value: float(f"{value:.{digits}g}"))
        assert dependent_metrics(bh.Runs.from_dataframe(frame)) == {
            "total": ["b", "d", "e"],
            "norm": ["a", "b", "d", "f"],
        }

    def test_one_metric_of_a_tie_is_named_the_later_one(self):
        frame = wandering().assign(norm=lambda rows: np.hypot(rows["a"], rows["b"]))
        runs = bh.Runs.from_dataframe(frame, metrics=["norm", "a", "c", "b"])
        assert {k: sorted(v) for k, v in dependent_metrics(runs).items()} == {"b": ["a", "norm"]}

    def test_two_copies_leave_one(self):
        frame = wandering()
        found = dependent_metrics(runs_of(frame, copy=frame["a"], again=-frame["a"]))
        assert sorted(found) == ["again", "copy"]

    @pytest.mark.parametrize("runs", [1, 3])
    def test_a_steep_start_does_not_stand_for_all_rows(self, runs):
        """The few rows in which everything falls are explained by as many coefficients."""
        rng = np.random.default_rng(0)
        frame = wandering(noise=0.001, runs=runs)
        start = np.exp(-frame["step"] / 0.7)
        frame = frame.assign(
            a=frame["a"] + 9 * start,
            b=frame["b"] - 5 * start**2,
            loss=4.8 * start + 0.01 + 1e-3 * rng.standard_normal(len(frame)),
        )
        assert dependent_metrics(bh.Runs.from_dataframe(frame)) == {}

    @pytest.mark.parametrize("seed", range(3))
    def test_independent_metrics_are_left_alone(self, seed):
        frame = wandering(seed=seed)
        rng = np.random.default_rng(seed)
        white = {f"w{i}": rng.standard_normal(len(frame)) for i in range(3)}
        assert dependent_metrics(runs_of(frame, **white)) == {}

    def test_noise_of_a_percent_is_something_new(self):
        frame = wandering()
        rough = frame["a"] + 0.02 * frame["a"].std() * np.random.default_rng(1).standard_normal(
            len(frame)
        )
        assert dependent_metrics(runs_of(frame, rough=rough)) == {}

    @pytest.mark.parametrize("parts", [1, 2, 4])
    @pytest.mark.parametrize("seed", range(3))
    def test_a_squared_correlation_of_999_is_something_new(self, parts, seed):
        """Twelve random walks, one of them the sum of others and a thousandth of noise."""
        rng = np.random.default_rng(seed)
        moves = rng.standard_normal((5, 60, 12))
        noise = np.sqrt(0.001 / 0.999 * parts) * rng.standard_normal((5, 60))
        moves[:, :, 11] = moves[:, :, :parts].sum(-1) + noise
        explained = np.corrcoef(moves[:, :, 11].ravel(), moves[:, :, :parts].sum(-1).ravel())
        assert explained[0, 1] ** 2 > 0.998
        assert dependent_metrics(walks(moves)) == {}

    @pytest.mark.parametrize("step", [0.0, 0.5], ids=["continuous", "quantised"])
    def test_false_alarms(self, step):
        """None in 16 sets of twelve random walks, 5 runs of 60 rows; nor in 300 such sets."""
        for seed in range(8):
            runs = walks(np.random.default_rng(seed).standard_normal((5, 60, 12)), step)
            assert dependent_metrics(runs) == {}

    def test_smooth_metrics_of_few_runs_are_left_alone(self):
        """Many smooth curves explain another by chance, but for its noise of a hundredth."""
        rng = np.random.default_rng(0)
        time = np.linspace(0, 1, 200)[:, None]
        for _ in range(4):
            curves = np.exp(-time * rng.uniform(0.5, 6, 8)) + np.tanh(3 * (time - rng.random(8)))
            moves = np.diff(curves, axis=0, prepend=curves[:1])
            moves *= 1 + 0.02 * rng.standard_normal(moves.shape)
            assert dependent_metrics(walks(moves[None])) == {}

    def test_too_few_moves_tell_nothing(self):
        """Accuracies that saturate after three rows: as many coefficients as moves fit them all."""
        rng = np.random.default_rng(0)
        moves = rng.standard_normal((2, 40, 4)) * (np.arange(40)[:, None] < 4)
        moves[:, 0] = rng.standard_normal((2, 4))
        assert dependent_metrics(walks(moves)) == {}

    def test_a_metric_that_only_changes_sign(self):
        runs = runs_of(wandering(), sign=lambda rows: (-1.0) ** rows["step"])
        assert dependent_metrics(runs) == {}

    def test_missing_values_hide_nothing(self):
        frame = wandering()
        frame["f"] = 2 * frame["a"]
        frame["b"] = frame["b"].mask(frame["step"] % 9 == 4)
        assert dependent_metrics(bh.Runs.from_dataframe(frame)) == {"f": ["a"]}

    def test_metrics_seen_less_often_hide_nothing(self):
        frame = wandering(rows=100)
        frame["rare"] = frame["c"].cumsum().where(frame["step"] % 20 == 0)
        rng = np.random.default_rng(0)
        frame["d"] = 0.1 * rng.standard_normal(len(frame)).cumsum()
        frame["total"] = frame[["a", "c", "d"]].sum(axis=1).mask(frame["step"] % 9 == 4)
        assert dependent_metrics(bh.Runs.from_dataframe(frame)) == {"total": ["a", "c", "d"]}

    def test_units_are_no_matter(self):
        frame = wandering()
        runs = runs_of(frame, a=1e9 * frame["a"], f=1e-9 * frame["a"] ** 2)
        assert dependent_metrics(runs) == {"f": ["a"]}


class TestSaturated:
    def test_an_accuracy_that_stays_at_one(self):
        frame = wandering()
        runs = runs_of(frame, acc=np.minimum(1.0, 0.8 + 0.05 * frame["step"]))
        assert saturated_metrics(runs) == {"acc": pytest.approx(55 / 59)}

    @pytest.mark.parametrize(("still", "found"), [(0.42, []), (0.58, ["acc"]), (0.8, ["acc"])])
    def test_half_of_the_rows_are_the_limit(self, still, found):
        frame = wandering(rows=200)
        steps = (np.random.default_rng(0).random(len(frame)) > still).cumsum()
        assert list(saturated_metrics(runs_of(frame, acc=steps / 512))) == found

    def test_rounding_errors_are_no_moves(self):
        frame = wandering()
        rng = np.random.default_rng(0)
        accuracy = np.minimum(1.0, 410 / 512 + frame["step"] * 10 / 512)
        rough = accuracy + rng.integers(-1, 2, len(frame)) * 2.0**-24
        assert list(saturated_metrics(runs_of(frame, acc=rough))) == ["acc"]

    def test_missing_rows_do_not_stand_still(self):
        frame = wandering()
        frame["rare"] = frame["c"].where(frame["step"] % 20 == 0)
        assert saturated_metrics(bh.Runs.from_dataframe(frame)) == {}

    def test_metrics_that_never_move_in_one_run(self):
        frame = wandering()
        frame["b"] = frame["b"].mask(frame["run"] == "seed-2", 5.0)
        frame["c"] = frame["c"].mask((frame["run"] == "seed-3") & (frame["step"] > 2), 1.0)
        assert still_metrics(bh.Runs.from_dataframe(frame)) == {"b": ["seed-2"]}


class TestWarnings:
    def test_none_on_independent_noise(self):
        frame = wandering()
        rng = np.random.default_rng(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_metrics(runs_of(frame, w=rng.standard_normal(len(frame))), dynamic=True)

    def test_a_function_of_others_is_named_with_the_mend(self):
        runs = runs_of(wandering(), norm=lambda rows: np.hypot(rows["a"], rows["b"]))
        with pytest.warns(bh.MetricWarning, match=r"'norm' of .*leave\s+them out with metrics="):
            warn_of_metrics(runs, dynamic=True)

    def test_a_saturated_metric_is_named_with_the_mend(self):
        runs = runs_of(wandering(), acc=lambda rows: np.minimum(1.0, 0.9 + 0.1 * rows["step"]))
        with pytest.warns(bh.MetricWarning, match=r"'acc' in 98%.*metrics=.*a loss"):
            warn_of_metrics(runs, dynamic=True)

    def test_a_run_in_which_a_metric_never_moves_is_named_with_the_mend(self):
        frame = wandering()
        frame["b"] = frame["b"].mask(frame["run"] == "seed-2", 5.0)
        with pytest.warns(bh.MetricWarning, match=r"'b' in 'seed-2'.*metrics=.*runs\.subset"):
            warn_of_metrics(bh.Runs.from_dataframe(frame), dynamic=True)

    def test_uneven_rows_are_named_where_phases_are_laws_of_motion(self):
        frame = wandering()
        runs = bh.Runs.from_dataframe(frame[(frame["run"] != "seed-3") | (frame["step"] != 7)])
        with pytest.warns(bh.SpacingWarning, match=r"'seed-3'.*6 and 8.*per logged row.*gaussian"):
            warn_of_metrics(runs, dynamic=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_metrics(runs, dynamic=False)

    @pytest.mark.parametrize(
        "make",
        [lambda runs: bh.fit(runs, 1, **QUICK), lambda runs: bh.compare(runs, [1], progress=False)],
    )
    def test_fit_and_compare_warn_at_the_line_that_called_them(self, make):
        runs = runs_of(wandering(rows=30), copy=lambda rows: rows["a"])
        with pytest.warns(bh.MetricWarning, match="'copy' of a") as caught:
            make(runs)
        assert [warning.filename for warning in caught] == [__file__]

    def test_only_what_is_modelled_counts(self):
        runs = runs_of(wandering(rows=30), copy=lambda rows: rows["a"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bh.fit(runs, 1, metrics=["a", "b", "c"], **QUICK)
