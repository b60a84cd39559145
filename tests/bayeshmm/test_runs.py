"""`Runs`: reading, roles of columns, selection, and every bad input with its message."""

import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from bayeshmm.runs import Runs
from training.store import RunWriter


def frame(lengths=(4, 3), every=10, **columns):
    """Tidy rows of runs a, b, ...: loss and norm vary, further columns are as given."""
    rng = np.random.default_rng(0)
    rows = sum(lengths)
    tidy = pd.DataFrame(
        {
            "run": np.repeat([chr(ord("a") + n) for n in range(len(lengths))], lengths),
            "step": np.concatenate([np.arange(length) * every for length in lengths]),
            "loss": rng.normal(size=rows),
            "norm": rng.normal(size=rows),
        }
    )
    return tidy.assign(**columns)


def changed(tidy, row, **cells):
    """The frame with some cells of one row replaced."""
    for name, value in cells.items():
        tidy = tidy.astype({name: object}) if isinstance(value, str) else tidy
        tidy.loc[row, name] = value
    return tidy


def refused(*words):
    """Expect a ValueError whose message holds all the words, in this order."""
    return pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, words)))


class TestArrays:
    def test_rows_are_padded_to_the_longest_run(self):
        tidy = frame(lengths=(4, 2))
        runs = Runs.from_dataframe(tidy)
        assert runs.names == ("a", "b")
        assert runs.metrics == ("loss", "norm")
        assert len(runs) == 2
        assert_array_equal(runs.lengths, [4, 2])
        assert_array_equal(runs.steps, [[0, 10, 20, 30], [0, 10, -1, -1]])
        assert runs.steps.dtype == np.int64
        assert runs.values.dtype == np.float64
        assert_array_equal(runs.values[0], tidy[["loss", "norm"]].iloc[:4])
        assert_array_equal(runs.values[1, :2], tidy[["loss", "norm"]].iloc[4:])
        assert np.isnan(runs.values[1, 2:]).all()

    def test_rows_of_different_runs_may_interleave(self):
        tidy = frame(lengths=(3, 3))
        mixed = tidy.iloc[[3, 0, 1, 4, 5, 2]]
        runs = Runs.from_dataframe(mixed)
        assert runs.names == ("b", "a")
        assert_array_equal(
            runs.subset(["a", "b"]).recorded, Runs.from_dataframe(tidy).recorded, strict=True
        )

    def test_the_frame_is_left_alone(self):
        tidy = frame(time=1.0)
        before = tidy.copy()
        Runs.from_dataframe(tidy)
        pd.testing.assert_frame_equal(tidy, before)

    @pytest.mark.parametrize("array", ["steps", "lengths", "recorded", "values"])
    def test_arrays_are_read_only(self, array):
        with pytest.raises(ValueError, match="read-only"):
            getattr(Runs.from_dataframe(frame()), array)[0] = 0

    def test_nan_is_missing(self):
        runs = Runs.from_dataframe(changed(frame(), 1, loss=np.nan))
        assert np.isnan(runs.values[0, 1, 0])
        runs.check_modelled()

    def test_other_column_names(self):
        tidy = frame().rename(columns={"run": "trial", "step": "iteration"})
        runs = Runs.from_dataframe(tidy, run="trial", step="iteration")
        assert_array_equal(runs.values, Runs.from_dataframe(frame()).values)

    @pytest.mark.parametrize(
        "values",
        [
            pd.array([1, None, 3, 4, 5, 6, 7], dtype="Int64"),
            pd.array([True, None, False, True, True, False, True], dtype="boolean"),
            pd.Series([1, None, 2.5, 3, 4, 5, 6], dtype=object),
            pd.Series([True, None, False, True, True, False, True], dtype=object),
            np.arange(7, dtype=np.float32),
        ],
    )
    def test_every_kind_of_number_is_a_metric(self, values):
        runs = Runs.from_dataframe(frame(count=values))
        expected = [np.nan if pd.isna(value) else float(value) for value in values]
        assert runs.metrics == ("loss", "norm", "count")
        assert_array_equal(runs.column("count")[runs.steps >= 0], expected)


class TestRoles:
    def test_bookkeeping_is_displayed_and_not_modelled(self):
        names = ["time", "epoch", "log/overhead", "opt/lr"]
        tidy = frame(**{name: np.arange(7.0) for name in names})
        runs = Runs.from_dataframe(tidy)
        assert runs.metrics == ("loss", "norm")
        for name in names:
            assert_array_equal(runs.column(name)[1], [4, 5, 6, np.nan])
            assert runs.select([name]).metrics == (name,)

    def test_bookkeeping_that_is_not_numeric_is_ignored(self):
        runs = Runs.from_dataframe(frame(time=[f"12:0{n}" for n in range(7)]))
        assert runs.columns == ("loss", "norm")

    def test_text_that_is_constant_within_runs_is_an_attribute(self):
        runs = Runs.from_dataframe(frame(optimizer="adam"))
        assert runs.metrics == ("loss", "norm")
        assert list(runs.attributes["optimizer"]) == ["adam", "adam"]

    def test_a_number_that_differs_between_runs_only_is_an_attribute(self):
        runs = Runs.from_dataframe(frame(width=[8] * 4 + [16] * 3))
        assert runs.metrics == ("loss", "norm")
        assert list(runs.attributes["width"]) == [8, 16]
        assert runs.attributes["width"].dtype == np.int64
        assert list(runs.attributes.index) == ["a", "b"]
        with refused("'width' is an attribute", "metrics="):
            runs.select(["width"])

    def test_a_number_that_is_constant_everywhere_stays_a_metric_for_the_fit_to_name(self):
        runs = Runs.from_dataframe(frame(dead=0.0))
        assert "dead" in runs.metrics
        with refused("metric 'dead' is constant", "runs.select", "attributes="):
            runs.check_modelled()

    def test_one_run_keeps_its_constant_metric_and_seed_is_still_an_attribute(self):
        runs = Runs.from_dataframe(frame(lengths=(5,), accuracy=1.0, seed=3))
        assert runs.metrics == ("loss", "norm", "accuracy")
        assert list(runs.attributes["seed"]) == [3]

    def test_a_metric_logged_once_per_run_is_not_an_attribute(self):
        runs = Runs.from_dataframe(frame(final=[np.nan] * 3 + [0.9] + [np.nan] * 2 + [0.8]))
        assert runs.metrics == ("loss", "norm", "final")

    def test_runs_of_one_row_do_not_turn_metrics_into_attributes(self):
        runs = Runs.from_dataframe(frame(lengths=(1, 1)))
        assert runs.metrics == ("loss", "norm")

    def test_named_attributes_and_metrics_win_over_appearance(self):
        tidy = frame(width=[8] * 4 + [16] * 3, batch=32, note=list("abcdefg"))
        runs = Runs.from_dataframe(tidy, metrics=["width", "loss"])
        assert runs.metrics == ("width", "loss")
        assert list(runs.attributes["batch"]) == [32, 32]
        assert runs.columns == ("loss", "norm", "width")  # the varying note cannot be drawn
        runs = Runs.from_dataframe(tidy.drop(columns="note"), attributes=["batch"])
        assert runs.metrics == ("loss", "norm")

    def test_attributes_of_runs_without_truncation(self):
        assert list(Runs.from_dataframe(frame()).attributes["truncated"]) == [False, False]

    def test_attributes_are_a_copy(self):
        runs = Runs.from_dataframe(frame())
        attributes = runs.attributes
        attributes["truncated"] = True
        assert not runs.attributes["truncated"].any()


class TestChoice:
    def test_select_orders_the_metrics_and_keeps_the_rest_for_display(self):
        runs = Runs.from_dataframe(frame())
        chosen = runs.select(["norm"])
        assert chosen.metrics == ("norm",)
        assert_array_equal(chosen.values, runs.values[:, :, 1:])
        assert_array_equal(chosen.column("loss"), runs.values[:, :, 0])
        assert chosen.select(["norm", "loss"]).metrics == ("norm", "loss")
        assert runs.metrics == ("loss", "norm")

    def test_subset_orders_the_runs_and_trims_the_padding(self):
        tidy = frame(lengths=(4, 2, 3), width=[1] * 4 + [2] * 2 + [3] * 3)
        runs = Runs.from_dataframe(tidy).select(["norm"])
        some = runs.subset(["c", "b"])
        assert some.names == ("c", "b")
        assert_array_equal(some.lengths, [3, 2])
        assert_array_equal(some.values, runs.values[[2, 1], :3])
        assert_array_equal(some.steps, runs.steps[[2, 1], :3])
        assert list(some.attributes["width"]) == [3, 2]

    def test_one_name_may_be_given_bare(self):
        runs = Runs.from_dataframe(frame())
        assert runs.select("norm").metrics == ("norm",)
        assert runs.subset("b").names == ("b",)


class TestViews:
    def test_to_dataframe_gives_the_rows_back(self):
        tidy = frame(time=np.arange(7.0))
        runs = Runs.from_dataframe(tidy)
        pd.testing.assert_frame_equal(runs.to_dataframe(), tidy, check_dtype=False)
        assert list(runs.select("norm").to_dataframe()) == ["run", "step", "norm", "loss", "time"]

    def test_summary(self):
        tidy = changed(frame(lengths=(4, 3, 1)), 1, loss=np.nan)
        tidy.loc[6, "step"] = 25
        summary = Runs.from_dataframe(tidy).summary()
        assert list(summary.index) == ["a", "b", "c"]
        assert list(summary["rows"]) == [4, 3, 1]
        assert list(summary["first_step"]) == [0, 0, 0]
        assert list(summary["last_step"]) == [30, 25, 0]
        assert list(summary["step_gap"].fillna(-1)) == [10, -1, -1]
        assert list(summary["missing"]) == [1, 0, 0]
        assert not summary["truncated"].any()

    def test_step_gap(self):
        assert Runs.from_dataframe(frame(every=5)).step_gap == 5
        assert Runs.from_dataframe(changed(frame(), 3, step=31)).step_gap is None
        assert Runs.from_dataframe(frame(lengths=(1,))).step_gap is None

    def test_repr_says_what_there_is(self):
        runs = Runs.from_dataframe(frame(time=np.arange(7.0), optimizer="<adam>"))
        text = repr(runs)
        assert "2 of 3 to 4 rows, steps 0 to 30 every 10" in text
        assert "metrics: 'loss', 'norm'" in text
        assert "for display: 'time'" in text
        assert "attributes: 'optimizer', 'truncated'" in text
        assert "<table" in runs._repr_html_()

    def test_repr_html_escapes_names(self):
        page = Runs.from_dataframe(frame().replace({"run": {"a": "<b>"}}))._repr_html_()
        assert "<b>" not in page
        assert "&lt;b&gt;" in page


class TestNonFinite:
    @pytest.mark.parametrize("value", [np.inf, -np.inf])
    def test_error_is_the_default(self, value):
        with refused("run 'b', metric 'norm'", "step 20", "'truncate'", "'missing'"):
            Runs.from_dataframe(changed(frame(), 6, norm=value))

    def test_truncate_cuts_the_run_there_and_marks_it(self):
        tidy = changed(frame(lengths=(5, 3)), 2, norm=np.inf)
        runs = Runs.from_dataframe(tidy, nonfinite="truncate")
        assert_array_equal(runs.lengths, [2, 3])
        assert_array_equal(runs.steps, [[0, 10, -1], [0, 10, 20]])
        assert list(runs.attributes["truncated"]) == [True, False]
        assert_array_equal(runs.values[0, :2], tidy[["loss", "norm"]].iloc[:2])
        assert np.isnan(runs.recorded[0, 2]).all()

    def test_truncate_refuses_to_leave_less_than_two_rows(self):
        with refused("run 'b', metric 'loss'", "step 10", "leave the run out", "'missing'"):
            Runs.from_dataframe(changed(frame(), 5, loss=np.inf), nonfinite="truncate")

    def test_missing_keeps_the_row(self):
        runs = Runs.from_dataframe(changed(frame(), 2, norm=np.inf), nonfinite="missing")
        assert_array_equal(runs.lengths, [4, 3])
        assert np.isnan(runs.values[0, 2, 1])
        assert not runs.attributes["truncated"].any()

    def test_columns_that_are_not_modelled_do_not_matter(self):
        tidy = changed(frame(time=np.arange(7.0)), 2, time=np.inf, norm=-np.inf)
        runs = Runs.from_dataframe(tidy, metrics=["loss"])
        assert np.isnan(runs.column("time")[0, 2])
        assert np.isnan(runs.column("norm")[0, 2])

    def test_the_mark_survives_a_round_trip(self):
        tidy = changed(frame(), 2, norm=np.inf)
        cut = Runs.from_dataframe(tidy, nonfinite="truncate")
        again = Runs.from_dataframe(cut.to_dataframe().join(cut.attributes, on="run"))
        pd.testing.assert_frame_equal(again.attributes, cut.attributes)

    def test_unknown_setting(self):
        with refused("nonfinite='drop'", "'truncate'"):
            Runs.from_dataframe(frame(), nonfinite="drop")


class TestBadRows:
    @pytest.mark.parametrize("column", ["run", "step"])
    def test_column_absent(self, column):
        with refused(f"no column '{column}'", f"{column}=", "'loss', 'norm'"):
            Runs.from_dataframe(frame().drop(columns=column))

    def test_column_doubled(self):
        with refused("two columns are called 'loss'", "rename"):
            Runs.from_dataframe(frame().rename(columns={"norm": "loss"}))

    def test_no_rows(self):
        with refused("no rows"):
            Runs.from_dataframe(frame().iloc[:0])

    def test_not_a_frame(self):
        with pytest.raises(TypeError, match="pandas DataFrame, not dict"):
            Runs.from_dataframe({"run": ["a"]})

    def test_run_unnamed(self):
        with refused("row 2 has no run", "'run'"):
            Runs.from_dataframe(changed(frame(), 2, run=np.nan))

    @pytest.mark.parametrize("step", [np.nan, np.inf, -10, 12.5])
    def test_step_that_is_none(self, step):
        with refused("run 'a'", str(step), "whole numbers from 0"):
            Runs.from_dataframe(changed(frame().astype({"step": float}), 2, step=step))

    def test_step_that_is_text(self):
        with refused("run 'b'", "late", "whole numbers from 0"):
            Runs.from_dataframe(changed(frame(), 5, step="late"))

    def test_duplicate_step(self):
        with refused("run 'b' has two rows for step 10", "drop_duplicates"):
            Runs.from_dataframe(changed(frame(), 6, step=10))

    def test_decreasing_step(self):
        with refused("run 'a': step 5 comes after a later one", "sort_values"):
            Runs.from_dataframe(changed(frame(), 3, step=5))

    @pytest.mark.parametrize("metrics", [None, ["loss"]])
    def test_metric_not_numeric(self, metrics):
        with refused("run 'b': metric 'loss' is not numeric (oops)", "pd.to_numeric", "drop"):
            Runs.from_dataframe(changed(frame(), 5, loss="oops"), metrics=metrics)

    def test_numbers_written_as_text_are_not_numeric(self):
        with refused("run 'a': metric 'loss' is not numeric", "pd.to_numeric"):
            Runs.from_dataframe(frame().astype({"loss": str}))

    def test_attribute_that_varies(self):
        with refused("run 'a': attribute 'loss' varies", "attributes="):
            Runs.from_dataframe(frame(), attributes=["loss"])

    def test_metric_that_is_also_an_attribute(self):
        with refused("'loss' is in both metrics= and attributes="):
            Runs.from_dataframe(frame(), metrics=["loss"], attributes=["loss"])

    @pytest.mark.parametrize("role", ["metrics", "attributes"])
    def test_role_of_an_unknown_column(self, role):
        with refused(f"unknown {role[:-1]} 'los': did you mean 'loss'?"):
            Runs.from_dataframe(frame(), **{role: ["los"]})


class TestBadChoice:
    def test_unknown_metric(self):
        with refused("unknown metric 'nrom': did you mean 'norm'?"):
            Runs.from_dataframe(frame()).select(["loss", "nrom"])

    def test_unknown_metric_that_resembles_nothing(self):
        with refused("unknown metric 'zzz': there are 'loss', 'norm'"):
            Runs.from_dataframe(frame()).select(["zzz"])

    def test_metric_chosen_twice(self):
        with refused("metric 'loss' is chosen twice"):
            Runs.from_dataframe(frame()).select(["loss", "loss"])

    def test_unknown_column(self):
        with refused("unknown column 'time'"):
            Runs.from_dataframe(frame()).column("time")

    def test_unknown_run(self):
        tidy = frame().replace({"run": {"a": "seed-0", "b": "seed-1"}})
        with refused("unknown run 'seed-7': did you mean 'seed-"):
            Runs.from_dataframe(tidy).subset(["seed-7"])

    def test_no_run(self):
        with refused("no run chosen", "'a', 'b'"):
            Runs.from_dataframe(frame()).subset([])

    def test_many_names_are_counted_not_listed(self):
        many = frame(**{f"m{n}": np.arange(7.0) for n in range(30)})
        with refused("unknown metric 'zzz'", "'loss'", "and 22 more"):
            Runs.from_dataframe(many).select(["zzz"])


class TestCheckModelled:
    def test_sound_runs_pass(self):
        Runs.from_dataframe(frame()).check_modelled()

    def test_twenty_metrics_pass_and_more_ask_for_a_choice(self):
        rng = np.random.default_rng(1)
        many = frame(**{f"m{n}": rng.normal(size=7) for n in range(18)})
        Runs.from_dataframe(many).check_modelled()
        with refused("21 metrics", "20", "runs.select"):
            Runs.from_dataframe(many.assign(last=np.arange(7.0))).check_modelled()

    def test_no_metric(self):
        tidy = frame(time=np.arange(7.0)).drop(columns=["loss", "norm"])
        with refused("0 metrics", "runs.select", "'time'"):
            Runs.from_dataframe(tidy).check_modelled()

    def test_no_numeric_column(self):
        with refused("0 metrics"):
            Runs.from_dataframe(frame()[["run", "step"]]).check_modelled()

    def test_run_of_one_row(self):
        with refused("run 'b' has one row", "runs.subset"):
            Runs.from_dataframe(frame(lengths=(4, 1))).check_modelled()

    def test_metric_missing_everywhere(self):
        with refused("metric 'norm' is missing in every run", "runs.select"):
            Runs.from_dataframe(frame(norm=np.nan)).check_modelled()

    def test_metric_missing_in_one_run(self):
        tidy = frame()
        tidy.loc[tidy["run"] == "b", "norm"] = np.nan
        with refused("run 'b': metric 'norm' is never recorded", "runs.subset", "runs.select"):
            Runs.from_dataframe(tidy).check_modelled()

    def test_metric_that_never_changes_within_a_run(self):
        tidy = frame(width=[8] * 4 + [16] * 3)
        with refused("metric 'width' is constant within every run"):
            Runs.from_dataframe(tidy, metrics=["loss", "width"]).check_modelled()

    def test_uneven_steps(self):
        tidy = frame(lengths=(4, 3)).assign(step=[1, 11, 21, 31, 1, 11, 26])
        said = Runs.from_dataframe(tidy).uneven_spacing()
        assert said is not None
        assert "run 'b': the rows of steps 11 and 26 are not 10 steps apart" in said

    def test_even_steps(self):
        assert Runs.from_dataframe(frame()).uneven_spacing() is None


class TestFiles:
    @pytest.fixture(params=["csv", "parquet", "jsonl"])
    def path(self, request, tmp_path):
        """A file of each kind, with runs whose names look like numbers."""
        tidy = changed(frame(), 1, loss=np.nan).replace({"run": {"a": "001", "b": "002"}})
        path = tmp_path / f"runs.{request.param}"
        if request.param == "csv":
            tidy.to_csv(path)  # index and all, as people do
        elif request.param == "parquet":
            tidy.to_parquet(path)
        else:
            lines = (json.dumps(row) for row in tidy.to_dict("records"))  # NaN is written as such
            path.write_text("\n".join(lines) + "\n")
        return path

    def test_read_gives_what_the_frame_gives(self, path):
        runs = Runs.read(path)
        assert runs.names == ("001", "002")
        assert runs.metrics == ("loss", "norm")
        assert_array_equal(
            runs.values, Runs.from_dataframe(changed(frame(), 1, loss=np.nan)).values
        )

    def test_infinity_in_a_file(self, tmp_path):
        path = tmp_path / "runs.csv"
        changed(frame(), 2, norm=np.inf).to_csv(path, index=False)
        with refused("run 'a', metric 'norm'", "step 20"):
            Runs.read(path)
        assert_array_equal(Runs.read(path, nonfinite="truncate").lengths, [2, 3])

    def test_no_such_path(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere: there is no such file or folder"):
            Runs.read(tmp_path / "nowhere")

    def test_unknown_suffix(self, tmp_path):
        path = tmp_path / "runs.xlsx"
        path.write_text("?")
        with refused("runs.xlsx", ".csv, .parquet or .jsonl"):
            Runs.read(path)

    def test_empty_file(self, tmp_path):
        path = tmp_path / "runs.csv"
        path.touch()
        with refused("runs.csv", "empty"):
            Runs.read(path)

    @pytest.mark.parametrize("line", ["{", "3"])
    def test_corrupt_line(self, tmp_path, line):
        path = tmp_path / "runs.jsonl"
        path.write_text('{"run": "a", "step": 0, "loss": 1}\n' + line)
        with refused("runs.jsonl", "line 2 is not a JSON object"):
            Runs.read(path)

    def test_messages_name_the_file(self, tmp_path):
        path = tmp_path / "runs.csv"
        frame().drop(columns="step").to_csv(path, index=False)
        with refused("runs.csv", "no column 'step'"):
            Runs.read(path)


class TestFolder:
    @staticmethod
    def write(directory, losses, seed=0):
        """Store a run that logs every ten steps."""
        config = {"seed": seed, "config": {"lr": 0.1}, "every": 10, "metrics": []}
        writer = RunWriter(directory, config)
        for n, loss in enumerate(losses):
            row = {"step": 10 * n, "time": float(n), "train/loss": loss, "train/acc": n / 5}
            writer.write(row)
        writer.close(status="finished")

    @pytest.fixture
    def folder(self, tmp_path):
        """Two runs: the loss of one is constant, that of the other is NaN at step 30."""
        self.write(tmp_path / "seed-0", [1.0] * 5)
        self.write(tmp_path / "deep/seed-1", [2, 2.5, 3, np.nan, 4], seed=1)
        return tmp_path

    def test_a_run_directory_is_a_folder_of_one(self, folder):
        runs = Runs.read(folder / "seed-0")
        assert runs.names == ("seed-0",)
        assert runs.step_gap == 10
        assert_array_equal(runs.column("train/acc"), [[0, 0.2, 0.4, 0.6, 0.8]])

    def test_logged_nan_is_not_finite(self, folder):
        with refused("run 'deep/seed-1', metric 'train/loss'", "step 30", "'truncate'"):
            Runs.read(folder)
        assert_array_equal(Runs.read(folder, nonfinite="truncate").lengths, [3, 5])
        missing = Runs.read(folder, nonfinite="missing").subset("deep/seed-1")
        assert_array_equal(missing.column("train/loss")[0], [2, 2.5, 3, np.nan, 4])

    def test_roles_and_attributes_come_from_the_store(self, folder):
        runs = Runs.read(folder, nonfinite="missing")
        assert runs.names == ("deep/seed-1", "seed-0")
        assert runs.metrics == ("train/loss", "train/acc")
        assert runs.columns == ("time", "train/loss", "train/acc")
        assert list(runs.attributes["seed"]) == [1, 0]
        assert list(runs.attributes["config.lr"]) == [0.1, 0.1]

    def test_run_without_rows(self, folder):
        self.write(folder / "seed-2", [])
        with refused("run 'seed-2' has no row"):
            Runs.read(folder, nonfinite="missing")

    def test_empty_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="empty"):
            Runs.read(tmp_path)


class TestSource:
    @pytest.fixture
    def runs(self, tmp_path):
        """Two logs, one of which says its steps twice."""
        (tmp_path / "<a>.csv").write_text("step,loss\n0,1\n1,2\n1,3\n2,4\n")
        (tmp_path / "b.csv").write_text("iter,loss\n0,1\n1,2\n")
        with pytest.warns(UserWarning, match="logged again"):
            return Runs.read(tmp_path)

    def test_says_what_was_read_and_what_was_left_out(self, runs, tmp_path):
        assert runs.source.title == "plain .csv, .jsonl or .parquet files"
        assert runs.source.path == tmp_path
        again, name = runs.source.left_out
        assert again.startswith("'<a>': values were logged again")
        assert name.startswith("left out: 'b': the name 'iter'")

    def test_is_in_the_repr_and_on_the_page(self, runs):
        assert f"\n  source: {runs.source.title}, {runs.source.path}\n" in repr(runs)
        assert repr(runs).endswith("\n".join(f"    {note}" for note in runs.source.left_out))
        assert "&lt;a&gt;&#x27;: values were logged again" in runs._repr_html_()

    def test_many_notes_are_shortened(self, runs):
        source = replace(runs.source, left_out=tuple(map(str, range(15))))
        text = repr(replace(runs, source=source))
        assert "\n    9\n    and 5 more: see runs.source.left_out" in text
        assert "\n    10" not in text

    def test_is_kept(self, runs):
        assert runs.select("loss").source == runs.source
        assert runs.subset("b").source == runs.source
        assert pickle.loads(pickle.dumps(runs)).source == runs.source

    def test_frames_have_none(self):
        runs = Runs.from_dataframe(frame())
        assert runs.source is None
        assert "source" not in repr(runs)
