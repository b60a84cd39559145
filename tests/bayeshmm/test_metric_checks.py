"""Metrics that tell nothing new, or hardly move, are named; honest ones are not."""

import warnings

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import QUICK

import bayeshmm as bh
from bayeshmm.metric_checks import dependent_metrics, saturated_metrics, warn_of_metrics


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

    def test_missing_values_hide_nothing(self):
        frame = wandering()
        frame["f"] = 2 * frame["a"]
        frame["b"] = frame["b"].mask(frame["step"] % 9 == 4)
        assert dependent_metrics(bh.Runs.from_dataframe(frame)) == {"f": ["a"]}

    def test_units_are_no_matter(self):
        frame = wandering()
        runs = runs_of(frame, a=1e9 * frame["a"], f=1e-9 * frame["a"] ** 2)
        assert dependent_metrics(runs) == {"f": ["a"]}


class TestSaturated:
    def test_an_accuracy_that_stays_at_one(self):
        frame = wandering()
        runs = runs_of(frame, acc=np.minimum(1.0, 0.8 + 0.05 * frame["step"]))
        assert saturated_metrics(runs) == ["acc"]

    @pytest.mark.parametrize(("still", "found"), [(0.85, []), (0.95, ["acc"])])
    def test_nine_tenths_of_the_rows_are_the_limit(self, still, found):
        frame = wandering(rows=200)
        steps = (np.random.default_rng(0).random(len(frame)) > still).cumsum()
        assert saturated_metrics(runs_of(frame, acc=steps / 100)) == found

    def test_missing_rows_do_not_stand_still(self):
        frame = wandering()
        frame["rare"] = frame["c"].where(frame["step"] % 20 == 0)
        assert saturated_metrics(bh.Runs.from_dataframe(frame)) == []


class TestWarnings:
    def test_none_on_independent_noise(self):
        frame = wandering()
        rng = np.random.default_rng(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_metrics(runs_of(frame, w=rng.standard_normal(len(frame))))

    def test_a_function_of_others_is_named_with_the_mend(self):
        runs = runs_of(wandering(), norm=lambda rows: np.hypot(rows["a"], rows["b"]))
        with pytest.warns(bh.MetricWarning, match=r"'norm' of .*leave\s+them out with metrics="):
            warn_of_metrics(runs)

    def test_a_saturated_metric_is_named_with_the_mend(self):
        runs = runs_of(wandering(), acc=lambda rows: np.minimum(1.0, 0.9 + 0.1 * rows["step"]))
        with pytest.warns(bh.MetricWarning, match=r"\['acc'\].*metrics=.*a loss"):
            warn_of_metrics(runs)

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
