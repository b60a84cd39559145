"""What a folder or a file is taken for, what is said of it, and what becomes of its columns."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

import bayeshmm as bh
from bayeshmm import Runs, sources
from training.store import RunWriter


def write_csv(path, rows="step,loss\n0,1.0\n10,0.5\n20,0.4\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rows)


def write_run(path):
    writer = RunWriter(path, {"seed": 0, "config": {}, "every": 10, "metrics": []})
    for step in (0, 10, 20):
        writer.write({"step": step, "loss": 1 / (1 + step)})
    writer.close(status="finished")


def write_state(path):
    path.mkdir(parents=True, exist_ok=True)
    history = [{"step": step, "loss": 1 / step, "learning_rate": 0.1 / step} for step in (1, 2, 3)]
    state = {"global_step": 3, "log_history": history}
    (path / "trainer_state.json").write_text(json.dumps(state))


def write_events(path):
    path.mkdir(parents=True, exist_ok=True)
    (path / "events.out.tfevents.1.host.1.0").touch()


def write_wandb(path):
    place = path / "wandb" / "run-20260101_000000-abc"
    place.mkdir(parents=True)
    (place / "run-abc.wandb").touch()


def write_checkpoints(path):
    path.mkdir(parents=True, exist_ok=True)
    for step in (10, 20):
        (path / f"step_{step}.pt").touch()


WRITERS = {
    "store": write_run,
    "wandb": write_wandb,
    "huggingface": write_state,
    "lightning": lambda path: write_csv(path / "metrics.csv"),
    "tensorboard": write_events,
    "tidy": lambda path: write_csv(path / "seed-0.csv"),
    "checkpoints": write_checkpoints,
}


class TestFolders:
    @pytest.mark.parametrize("name", WRITERS)
    def test_each_is_recognised_at_any_depth(self, tmp_path, name):
        WRITERS[name](tmp_path / "deep" / "run")
        assert sources.recognised(tmp_path) == name
        assert sources.recognised(tmp_path / "deep" / "run") == name

    @pytest.mark.parametrize("name", WRITERS)
    def test_hidden_folders_are_not_looked_into(self, tmp_path, name):
        """A sweep trains in one, and what is there is not finished."""
        WRITERS[name](tmp_path / ".training" / "run")
        with pytest.raises(FileNotFoundError, match="looked for"):
            sources.recognised(tmp_path)

    def test_the_first_of_the_order_is_read(self, tmp_path):
        assert list(WRITERS) == list(sources.READERS)
        for name, write in reversed(WRITERS.items()):
            write(tmp_path / name)
            assert sources.recognised(tmp_path) == name

    def test_the_others_are_named(self, tmp_path):
        for name, write in WRITERS.items():
            write(tmp_path / name)
        runs = Runs.read(tmp_path)
        assert runs.names == ("store",)
        assert runs.source.left_out == tuple(
            f"also there: {sources.READERS[name].TITLE} (read them with format={name!r})"
            for name in list(WRITERS)[1:]
        )

    def test_what_is_beside_the_files_of_one_folder_is_named_too(self, tmp_path):
        write_state(tmp_path / "out" / "checkpoint-3")
        (tmp_path / "out" / "checkpoint-3" / "model.safetensors").touch()
        runs = Runs.read(tmp_path / "out")
        assert runs.names == ("out",)
        assert [note for note in runs.source.left_out if "checkpoints" in note]

    def test_a_file_is_not_named_as_something_else(self, tmp_path):
        write_csv(tmp_path / "version_0" / "metrics.csv")
        runs = Runs.read(tmp_path)
        assert runs.source == sources.Source("Lightning CSV logs", tmp_path)

    def test_format_chooses(self, tmp_path):
        for name, write in WRITERS.items():
            write(tmp_path / name)
        assert Runs.read(tmp_path, format="lightning").names == ("lightning",)
        assert Runs.read(tmp_path, format="tidy").names == ("lightning/metrics", "tidy/seed-0")
        assert Runs.read(tmp_path, format="tidy").source.left_out == ()

    def test_format_that_is_not_there(self, tmp_path):
        write_run(tmp_path / "run")
        with pytest.raises(FileNotFoundError, match="holds no Lightning CSV logs"):
            Runs.read(tmp_path, format="lightning")

    def test_unknown_format(self, tmp_path):
        with pytest.raises(ValueError, match="format='mlflow': give one of 'store', 'wandb'"):
            Runs.read(tmp_path, format="mlflow")

    def test_nothing_known(self, tmp_path):
        (tmp_path / "notes.txt").write_text("step")
        write_csv(tmp_path / "metrics.csv", "loss\n1\n")
        said = r"holds no runs: looked for run directories \('store'\); Weights & Biases"
        with pytest.raises(FileNotFoundError, match=said):
            Runs.read(tmp_path)

    def test_no_rows(self, tmp_path):
        write_csv(tmp_path / "a" / "metrics.csv", "step,loss\n")
        with pytest.raises(ValueError, match="no run has a row yet, among 'a'"):
            Runs.read(tmp_path)
        write_csv(tmp_path / "b" / "metrics.csv")
        runs = Runs.read(tmp_path)
        assert runs.names == ("b",)
        assert runs.source.left_out == ("left out: runs without a row ('a')",)


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("trainer_state.json", "", "huggingface"),
            ("metrics.csv", "epoch,loss,step\n", "lightning"),
            ("metrics.csv", "run,loss,step\n", "tidy"),
            ("metrics.csv", "loss,iter\n", "tidy"),
            ("other.csv", "epoch,loss,step\n", "tidy"),
            ("events.out.tfevents.1.host", "", "tensorboard"),
            ("run-abc.wandb", "", "wandb"),
            ("history.csv", "_step,_timestamp,loss\n", "wandb"),
            ("history.jsonl", '{"_step": 0, "_timestamp": 1.0}\n', "wandb"),
            ("log.jsonl", '{"_step": 0}\n', "tidy"),
            ("runs.parquet", "", "tidy"),
        ],
    )
    def test_each_is_recognised(self, tmp_path, name, content, expected):
        (tmp_path / name).write_text(content)
        assert sources.recognised(tmp_path / name) == expected


class TestNamesAndNotes:
    def test_runs_are_named_by_their_paths_numbers_in_order(self, tmp_path):
        for n in (10, 9):
            write_csv(tmp_path / "logs" / f"seed-{n}" / "metrics.csv")
        assert Runs.read(tmp_path).names == ("logs/seed-9", "logs/seed-10")
        assert Runs.read(tmp_path / "logs" / "seed-9").names == ("seed-9",)

    def test_several_runs_of_one_file_of_a_folder(self, tmp_path):
        write_csv(tmp_path / "old.csv", "run,step,loss\na,0,1\na,1,2\nb,0,1\nb,1,3\n")
        write_csv(tmp_path / "new.csv")
        assert Runs.read(tmp_path).names == ("new", "old/a", "old/b")

    def test_a_run_that_has_another_name_keeps_it_as_an_attribute(self, tmp_path):
        write_csv(tmp_path / "old.csv", "run,step,loss\na,0,1\na,1,2\n")
        runs = Runs.read(tmp_path)
        assert runs.names == ("old",)
        assert list(runs.attributes["name"]) == ["a"]

    def test_what_is_true_of_all_runs_is_said_once(self, tmp_path):
        write_csv(tmp_path / "a.csv", "iter,loss\n0,1\n1,2\n")
        write_csv(tmp_path / "b.csv", "iter,loss\n0,1\n1,2\n")
        (said,) = Runs.read(tmp_path).source.left_out
        assert said == "left out: the name 'iter' of the column that is taken as the step"
        write_csv(tmp_path / "c.csv")
        (said,) = Runs.read(tmp_path).source.left_out
        assert said.startswith("left out: 'a', 'b': the name 'iter'")

    def test_what_changed_the_rows_is_one_warning(self, tmp_path):
        for name in "ab":
            write_csv(tmp_path / f"{name}.csv", "step,loss\n0,1\n5,2\n5,3\n6,4\n")
        write_csv(tmp_path / "c.csv", "epoch,loss\n0,1\n5,2\n")
        with pytest.warns(UserWarning, match="were logged again") as caught:
            runs = Runs.read(tmp_path)
        (warning,) = caught
        assert warning.filename == __file__
        text = str(warning.message)
        assert text.startswith(f"plain .csv, .jsonl or .parquet files, {tmp_path}:\n")
        assert "'a', 'b': values were logged again" in text
        assert "'c': there is no step but the epoch" in text
        assert len(runs.source.left_out) == 2

    def test_many_caveats_are_shortened(self, tmp_path):
        for n in range(1, 15):
            rows = "".join(f"{step},{value}\n" for value in (1, 2) for step in range(n))
            write_csv(tmp_path / f"{n}.csv", "step,loss\n" + rows)
        with pytest.warns(UserWarning, match=r"and 4 more: see runs\.source\.left_out") as caught:
            runs = Runs.read(tmp_path)
        assert len(str(caught[0].message).splitlines()) == 12
        assert len(runs.source.left_out) == 14


class TestColumns:
    def test_what_a_trainer_adds_is_for_display(self, tmp_path):
        write_state(tmp_path)
        runs = Runs.read(tmp_path)
        assert runs.metrics == ("loss",)
        assert runs.columns == ("loss", "learning_rate")

    def test_in_a_file_of_ones_own_it_is_a_metric(self, tmp_path):
        write_csv(tmp_path / "log.csv", "step,loss,lr\n0,1,3\n1,2,5\n")
        assert Runs.read(tmp_path).metrics == ("loss", "lr")

    def test_attributes_of_reader_and_rows_are_joined(self, tmp_path):
        for width in (8, 16):
            write_csv(
                tmp_path / f"w{width}/metrics.csv", f"step,loss,width\n0,1,{width}\n1,2,{width}\n"
            )
        (tmp_path / "w8/hparams.yaml").write_text("lr: 0.1\n")
        pytest.importorskip("yaml")
        runs = Runs.read(tmp_path)
        assert runs.metrics == ("loss",)
        assert list(runs.attributes["width"]) == [8, 16]
        assert_array_equal(runs.attributes["config.lr"], [0.1, np.nan])

    def test_non_finite_values_are_settled_as_asked(self, tmp_path):
        write_csv(tmp_path / "a" / "metrics.csv", "step,loss\n0,1\n1,2\n2,nan\n3,4\n")
        with pytest.raises(ValueError, match="run 'a', metric 'loss': not finite at step 2"):
            Runs.read(tmp_path)
        assert_array_equal(Runs.read(tmp_path, nonfinite="truncate").lengths, [2])
        assert_array_equal(
            Runs.read(tmp_path, nonfinite="missing").column("loss"), [[1, 2, np.nan, 4]]
        )

    def test_what_cannot_be_arranged_names_the_place(self, tmp_path):
        write_csv(tmp_path / "a.csv", "run,step,loss\na,0,1\na,0,2\n")
        with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path))}: run 'a' has two rows"):
            Runs.read(tmp_path)


class TestAudit:
    def test_a_foreign_log(self, tmp_path):
        rows = [f"{step},{np.sin(step)}\n" for step in range(40)]
        rows[30] = "30,nan\n"
        for n in range(2):
            write_csv(tmp_path / f"version_{n}/metrics.csv", "step,loss\n" + "".join(rows[n:]))
        found = bh.audit(tmp_path)
        assert {"diverged", "duplicate_runs"} <= set(found["finding"])

    def test_a_log_of_one_run(self, tmp_path):
        write_csv(tmp_path / "log.csv", "iter,loss\n" + "".join(f"{n},{n**2}\n" for n in range(9)))
        assert bh.audit(tmp_path / "log.csv").empty


def test_the_libraries_of_others_are_asked_for(tmp_path, monkeypatch):
    write_events(tmp_path / "tb")
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing", None)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    with pytest.raises(ImportError, match=r"pip install 'bayeshmm\[readers\]'"):
        Runs.read(tmp_path)


def test_parquet_asks_for_its_library(tmp_path, monkeypatch):
    (tmp_path / "runs.parquet").write_text("?")

    def missing(path):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", missing)
    with pytest.raises(ImportError, match=r"pip install 'bayeshmm\[readers\]'"):
        Runs.read(tmp_path / "runs.parquet")
