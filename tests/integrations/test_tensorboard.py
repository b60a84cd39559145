"""TensorBoard event files that torch's SummaryWriter wrote, read back value for value."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("tensorboard")

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard import SummaryWriter

from bayeshmm import Runs
from bayeshmm.sources import tensorboard

pytestmark = pytest.mark.integration


def log(folder: Path, tag: str, values: dict[int, float], **options: int) -> None:
    """Write the values of one tag by step, a second apart, into a new event file."""
    with SummaryWriter(folder, **options) as writer:
        for step, value in values.items():
            writer.add_scalar(tag, value, step, walltime=1000.0 + step)


def column(folder: Path, metric: str) -> dict[int, float]:
    rows = tensorboard.read(folder).rows.set_index("step")
    return rows[metric].dropna().to_dict()


def test_more_values_than_tensorboard_keeps_are_read_value_for_value(tmp_path):
    values = np.random.default_rng(0).normal(size=12_000)
    log(tmp_path / "run", "loss", dict(enumerate(values)))
    imported = tensorboard.read(tmp_path / "run")
    expected = pd.DataFrame(
        {
            "run": "run",
            "step": np.arange(12_000),
            "loss": values.astype(np.float32).astype(float),
            "time": 1000.0 + np.arange(12_000),
        }
    )
    pd.testing.assert_frame_equal(imported.rows, expected)
    assert imported.left_out == imported.caveats == ()


def test_a_folder_of_runs_is_recognised(tmp_path):
    for seed in (10, 9):
        log(tmp_path / "logs" / f"seed-{seed}", "loss", {0: 1.0, 5: seed})
    runs = Runs.read(tmp_path)
    assert runs.names == ("logs/seed-9", "logs/seed-10")
    assert runs.source.title == tensorboard.TITLE
    assert runs.values[:, :, 0].tolist() == [[1.0, 9.0], [1.0, 10.0]]


def test_both_encodings_in_either_precision(tmp_path):
    value = 0.1 + 1e-12
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("simple", value, 3)
        writer.add_scalar("tensor", value, 3, new_style=True)
        writer.add_scalar("double", value, 3, new_style=True, double_precision=True)
    row = tensorboard.read(tmp_path).rows.iloc[0]
    assert row["simple"] == row["tensor"] == float(np.float32(value))
    assert row["double"] == value


def test_a_tensor_is_a_scalar_if_the_first_value_of_its_tag_says_so(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("loss", 1.0, 0, new_style=True)
        bare = Summary.Value(tag="loss", tensor=make_tensor_proto(2.0))
        writer.file_writer.add_summary(Summary(value=[bare]), 1)
        other = Summary.Value(tag="vector", tensor=make_tensor_proto([1.0, 2.0]))
        writer.file_writer.add_summary(Summary(value=[other]), 1)
    assert column(tmp_path, "loss") == {0: 1.0, 1: 2.0}
    assert tensorboard.read(tmp_path).left_out == ("1 values of tensor (tags 'vector')",)


def test_values_that_are_not_finite_are_infinite_and_absent_ones_missing(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for step, value in enumerate([np.nan, np.inf, -np.inf]):
            writer.add_scalar("loss", value, step)
        writer.add_scalar("accuracy", 0.5, 1, walltime=5e9)
        writer.add_scalar("norm", 0.5, 1, walltime=4e9)
    rows = tensorboard.read(tmp_path).rows
    assert rows["time"][1] == 5e9
    assert rows["loss"].tolist() == [np.inf, np.inf, -np.inf]
    assert rows["accuracy"].isna().tolist() == [True, False, True]


def test_a_restart_takes_the_place_of_what_it_logs_again_and_of_what_lies_beyond(tmp_path):
    log(tmp_path, "loss", dict.fromkeys(range(10), 1.0))
    log(tmp_path, "loss", dict.fromkeys(range(5, 8), 2.0))
    assert column(tmp_path, "loss") == {step: 1.0 + (step >= 5) for step in range(8)}
    (caveat,) = tensorboard.read(tmp_path).caveats
    assert "(5 of 'loss')" in caveat


def test_a_restart_that_says_its_step_takes_the_place_of_every_tag(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for step in range(10):
            writer.add_scalar("loss", 1.0, step)
            writer.add_scalars("accuracy", {"test": 1.0}, step)
    log(tmp_path, "loss", {5: 2.0}, purge_step=5)
    assert column(tmp_path, "loss") == {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 2}
    assert column(tmp_path, "accuracy/test") == dict.fromkeys(range(5), 1.0)
    log(tmp_path, "loss", {0: 3.0}, purge_step=0)
    assert tensorboard.read(tmp_path).rows.columns.tolist() == ["run", "step", "loss", "time"]


def test_two_writers_with_different_tags_do_not_disturb_each_other(tmp_path):
    log(tmp_path, "train/loss", dict.fromkeys(range(10), 1.0))
    log(tmp_path, "test/loss", dict.fromkeys(range(10), 2.0))
    rows = tensorboard.read(tmp_path).rows
    assert (rows[["train/loss", "test/loss"]] == [1.0, 2.0]).all(axis=None)
    assert len(rows) == 10


def test_files_count_in_the_order_in_which_they_were_begun(tmp_path):
    log(tmp_path, "loss", {0: 1.0, 1: 1.0})
    (first,) = tmp_path.iterdir()
    log(tmp_path, "loss", {0: 2.0})
    first.rename(tmp_path / "z.tfevents.renamed")
    assert column(tmp_path, "loss") == {0: 2.0}


def test_of_one_file_the_last_value_of_a_step_counts(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for step, value in [(0, 1.0), (2, 1.0), (1, 1.0), (2, 3.0)]:
            writer.add_scalar("loss", value, step)
    assert column(tmp_path, "loss") == {0: 1.0, 1: 1.0, 2: 3.0}
    (caveat,) = tensorboard.read(tmp_path).caveats
    assert "(1 of 'loss')" in caveat


def test_what_add_scalars_and_add_hparams_write_belongs_to_the_run(tmp_path):
    with SummaryWriter(tmp_path / "logs" / "a") as writer:
        writer.add_hparams({"lr": 0.1, "optimizer": "sgd"}, {"best": 0.9})
        writer.add_scalars("eval/loss", {"train": 1.0, "test_set": 2.0}, 7)
        writer.add_scalar("epoch", 1, 7)
    log(tmp_path / "logs" / "a" / "b", "loss", {0: 1.0})
    runs = tensorboard.found(tmp_path)
    assert runs == {"logs/a": tmp_path / "logs" / "a", "logs/a/b": tmp_path / "logs" / "a" / "b"}
    imported = tensorboard.read(runs["logs/a"])
    row = imported.rows.drop(columns="time").iloc[0].to_dict()
    assert row == {
        "run": "a", "step": 7, "epoch": 1.0, "eval/loss/train": 1.0, "eval/loss/test_set": 2.0
    }  # fmt: skip
    assert imported.attributes.loc["a"].to_dict() == {"config.lr": 0.1, "config.optimizer": "sgd"}
    assert imported.left_out == ("1 final metrics of add_hparams (tags 'best')",)


def test_what_is_no_scalar_is_counted(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for step in range(3):
            writer.add_scalar("loss", 1.0, step)
            writer.add_histogram("weights", np.arange(5.0), step)
            writer.add_image("sample", np.zeros((3, 2, 2)), step)
        writer.add_text("note", "hello")
        writer.add_scalar("time", 1.0, 0)
        writer.add_scalar("hp_metric", -1, 0)
    imported = tensorboard.read(tmp_path)
    assert list(imported.rows.columns) == ["run", "step", "loss", "time"]
    assert set(imported.left_out) == {
        "3 histograms (tags 'weights')",
        "3 images (tags 'sample')",
        "1 texts (tags 'note/text_summary')",
        "1 values whose tag is the name of another column (tags 'time')",
        "1 placeholders of Lightning (tags 'hp_metric')",
    }


@pytest.mark.parametrize("lost", [1, 20, 30])
def test_a_writer_that_was_killed_loses_only_the_last_record(tmp_path, lost):
    log(tmp_path, "loss", dict.fromkeys(range(100), 1.0))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-lost])
    imported = tensorboard.read(tmp_path)
    assert imported.rows["step"].tolist() == list(range(99))
    assert "no whole record" in imported.left_out[0]


def test_a_folder_that_is_called_like_a_file_is_a_folder(tmp_path):
    log(tmp_path / "tfevents of monday" / "a", "loss", {0: 1.0})
    (name,) = tensorboard.found(tmp_path)
    assert name == "tfevents of monday/a"


def test_one_file_is_read_alone(tmp_path):
    log(tmp_path / "a", "loss", {0: 1.0})
    (file,) = (tmp_path / "a").iterdir()
    log(tmp_path / "a", "loss", {1: 1.0})
    assert tensorboard.read(file).rows["step"].tolist() == [0]
    assert tensorboard.read(file).rows["run"].tolist() == ["a"]


def test_a_run_without_scalars_has_no_rows(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_text("note", "hello")
    imported = tensorboard.read(tmp_path)
    assert imported.rows.empty
    assert list(imported.rows.columns) == ["run", "step", "time"]
