"""Plain tables: wide and long, of one run and of several."""

import json

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from bayeshmm import Runs
from bayeshmm.sources import tidy_files

WRITERS = {
    ".csv": lambda df, path: df.to_csv(path, index=False),
    ".jsonl": lambda df, path: df.to_json(path, orient="records", lines=True),
    ".parquet": lambda df, path: df.to_parquet(path),
}


@pytest.fixture(params=WRITERS)
def written(request, tmp_path):
    """Write a frame to a file of each kind, below `tmp_path`."""

    def write(df, name="log"):
        path = (tmp_path / name).with_suffix(request.param)
        path.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[request.param](df, path)
        return path

    return write


def one(**columns):
    return pd.DataFrame({"step": [0, 10, 20], "loss": [3.0, 2.0, 1.0]} | columns)


class TestOneRun:
    def test_a_file_is_a_run(self, written):
        runs = Runs.read(written(one()))
        assert runs.names == ("log",)
        assert_array_equal(runs.column("loss"), [[3, 2, 1]])
        assert runs.source.left_out == ()

    def test_a_folder_of_them(self, written, tmp_path):
        for seed in (10, 9):
            written(one(), f"deep/seed-{seed}")
        runs = Runs.read(tmp_path)
        assert runs.names == ("deep/seed-9", "deep/seed-10")
        assert_array_equal(runs.column("loss"), [[3, 2, 1]] * 2)

    def test_rows_of_one_step_are_merged(self, written):
        df = one(step=[0, 10, 10], loss=[3.0, 2.0, np.nan], val=[np.nan, np.nan, 5.0])
        runs = Runs.read(written(df))
        assert_array_equal(runs.values, [[[3, np.nan], [2, 5]]])
        assert runs.source.left_out == ()

    def test_validation_written_after_all_of_training(self, written):
        df = one(val=np.nan)
        df = pd.concat([df, pd.DataFrame({"step": [0, 15], "val": [5.0, 4.0]})])
        runs = Runs.read(written(df))
        assert runs.names == ("log",)
        assert_array_equal(runs.steps, [[0, 10, 15, 20]])
        assert_array_equal(runs.column("loss"), [[3, 2, np.nan, 1]])
        assert_array_equal(runs.column("val"), [[5, np.nan, 4, np.nan]])
        assert runs.source.left_out == ()

    def test_a_restart(self, written):
        with pytest.warns(UserWarning, match=r"values were logged again.*\(1 of 'loss'\)"):
            runs = Runs.read(written(one(step=[0, 10, 10])))
        assert_array_equal(runs.column("loss"), [[3, 1]])

    def test_constant_text_is_an_attribute_and_other_text_is_left_out(self, written):
        runs = Runs.read(written(one(optimizer="adam", note=["a", "b", None])))
        assert runs.metrics == ("loss",)
        assert list(runs.attributes["optimizer"]) == ["adam"]
        assert runs.source.left_out == ("left out: columns that are not numeric ('note')",)

    def test_numbers_written_as_text(self, written):
        runs = Runs.read(written(one(acc=["3", None, "1.5"])))
        assert_array_equal(runs.column("acc"), [[3, np.nan, 1.5]])

    def test_a_row_of_nothing_is_none(self, written):
        assert_array_equal(Runs.read(written(one(loss=[3, np.nan, 1]))).steps, [[0, 20]])

    def test_lines_without_a_step(self, tmp_path):
        path = tmp_path / "log.jsonl"
        lines = [{"config": {"lr": 0.1}}, {"step": 0, "loss": 1}, {"step": 1, "loss": 2}]
        path.write_text("\n".join(map(json.dumps, [*lines, {"step": 2, "loss": 3}])))
        runs = Runs.read(path)
        assert runs.columns == ("loss",)
        assert_array_equal(runs.column("loss"), [[1, 2, 3]])
        assert runs.source.left_out == ("left out: rows without a step (1)",)

    def test_values_that_are_lists(self, tmp_path):
        path = tmp_path / "log.jsonl"
        lines = [{"step": n, "loss": n, "grads": [n, n], "by": {"layer": n}} for n in range(3)]
        path.write_text("\n".join(map(json.dumps, lines)))
        runs = Runs.read(path)
        assert runs.metrics == ("loss",)
        assert runs.source.left_out == ("left out: columns that are not numeric ('grads', 'by')",)

    def test_a_step_that_is_none(self, written):
        path = written(one(step=["0", "late", "20"]))
        with pytest.raises(ValueError, match=r"log\..*: row 1: late is not a step"):
            Runs.read(path)


class TestSteps:
    @pytest.mark.parametrize("name", tidy_files.STEPS[1:-1])
    def test_other_names(self, written, name):
        runs = Runs.read(written(one().rename(columns={"step": name}).assign(epoch=[0, 0, 1])))
        assert_array_equal(runs.steps, [[0, 10, 20]])
        assert runs.columns == ("loss", "epoch")
        assert runs.source.left_out == (
            f"left out: the name {name!r} of the column that is taken as the step",
        )

    def test_the_epoch_for_want_of_another(self, written):
        path = written(one().rename(columns={"step": "epoch"}))
        with pytest.warns(UserWarning, match="no step but the epoch: all times are in epochs"):
            runs = Runs.read(path)
        assert_array_equal(runs.steps, [[0, 10, 20]])

    def test_with_several_runs(self, written):
        df = one(run=["a", "a", "b"]).rename(columns={"step": "iteration"})
        runs = Runs.read(written(df))
        assert runs.names == ("a", "b")
        assert len(runs.source.left_out) == 1

    def test_none(self, written):
        path = written(one().drop(columns="step"))
        with pytest.raises(ValueError, match=r"no column 'step'.*'global_step'.*there are 'loss'"):
            Runs.read(path)


class TestLong:
    @pytest.mark.parametrize("key", tidy_files.KEYS)
    def test_is_pivoted(self, written, key):
        df = pd.DataFrame(
            [
                ("b", 10, "loss", 2.0),
                ("b", 10, "acc", 0.5),
                ("b", 20, "loss", 1.0),
                ("a", 10, "acc", 0.25),
                ("a", 15, "loss", np.nan),
            ],
            columns=["run", "step", key, "value"],
        )
        runs = Runs.read(written(df))
        assert runs.names == ("b", "a")
        assert runs.metrics == ("loss", "acc")
        assert_array_equal(runs.steps, [[10, 20], [10, -1]])
        assert_array_equal(runs.column("loss"), [[2, 1], [np.nan, np.nan]])
        assert_array_equal(runs.column("acc"), [[0.5, np.nan], [0.25, np.nan]])

    def test_of_one_run_and_with_other_columns(self, written):
        df = pd.DataFrame({"iter": [0, 0, 1, 1], "tag": list("abab"), "value": [1.0, 2, 3, 4]})
        df = df.assign(time=[1.0, 2, 3, 4], optimizer="adam", note=list("wxyz"))
        runs = Runs.read(written(df))
        assert runs.names == ("log",)
        assert runs.metrics == ("a", "b")
        assert_array_equal(runs.column("time"), [[2, 4]])
        assert list(runs.attributes["optimizer"]) == ["adam"]
        assert runs.source.left_out[1:] == ("left out: the column 'note', which varies",)

    def test_a_restart_of_one_run(self, written):
        steps = [0, 10, 20, 30, 20, 20, 0, 10, 20, 30]
        df = pd.DataFrame(
            {
                "run": list("aaaaaabbbb"),
                "step": steps,
                "name": ["loss"] * 5 + ["acc"] + ["loss"] * 4,
                "value": np.arange(10.0),
            }
        )
        path = written(df)
        with pytest.warns(UserWarning, match=r"values were logged again.*\(2 of 'loss'\)"):
            runs = Runs.read(path)
        assert_array_equal(runs.column("loss"), [[0, 1, 4, np.nan], [6, 7, 8, 9]])
        assert_array_equal(runs.column("acc")[0], [np.nan, np.nan, 5, np.nan])

    def test_an_infinite_value_is_none(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text("step,metric,value\n0,loss,1\n1,loss,inf\n2,loss,3\n")
        with pytest.raises(ValueError, match="metric 'loss': not finite at step 1"):
            Runs.read(path)

    def test_metrics_of_text(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text("step,metric,value\n0,loss,1\n0,note,hot\n1,loss,3\n")
        runs = Runs.read(path)
        assert runs.metrics == ("loss",)
        assert runs.source.left_out == ("left out: what is not numeric ('note')",)

    def test_without_values_it_is_wide(self, written):
        runs = Runs.read(written(one(name="x")))
        assert runs.metrics == ("loss",)


class TestFound:
    def test_only_what_names_a_step(self, tmp_path):
        (tmp_path / "data.csv").write_text("x,y\n1,2\n")
        (tmp_path / "empty.csv").touch()
        (tmp_path / "list.jsonl").write_text("3\n")
        (tmp_path / "torn.jsonl").write_text("{\n")
        (tmp_path / "trajectories.parquet").touch()
        (tmp_path / "log.csv").write_text('"loss","global_step"\n1,2\n')
        (tmp_path / "log.jsonl").write_text('{"iter": 1}\n')
        assert tidy_files.found(tmp_path) == {
            "log": tmp_path / "log.csv",
            "log.jsonl": tmp_path / "log.jsonl",
        }
