"""Hugging Face trainer states, written by hand."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bayeshmm import Runs
from bayeshmm.sources import trainer_state

HISTORY = [
    {"epoch": 0.5, "grad_norm": 2.0, "learning_rate": 0.1, "loss": 3.0, "step": 5},
    {"epoch": 1.0, "grad_norm": 1.0, "learning_rate": 0.05, "loss": 2.0, "step": 10},
    {"epoch": 1.0, "eval_loss": 2.5, "eval_runtime": 0.1, "step": 10},
    {"epoch": 1.5, "grad_norm": 1.5, "learning_rate": 0.01, "loss": 1.0, "step": 15},
]
SUMMARY = {"epoch": 1.5, "step": 15, "total_flos": 0.0, "train_loss": 2.0, "train_runtime": 9.0}


def write(folder, history, step=None, **state):
    folder.mkdir(parents=True, exist_ok=True)
    state |= {"global_step": history[-1]["step"] if step is None else step, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def test_rows_are_merged_by_step(tmp_path):
    imported = trainer_state.read(write(tmp_path / "out", HISTORY))
    rows = imported.rows
    assert list(rows)[:2] == ["run", "step"]
    assert rows["run"].tolist() == ["out"] * 3
    assert rows["step"].tolist() == [5, 10, 15]
    assert_array_equal(rows["loss"], [3, 2, 1])
    assert_array_equal(rows["eval_loss"], [np.nan, 2.5, np.nan])
    assert imported.left_out == ()


def test_the_loss_is_called_the_mean_that_it_is(tmp_path):
    write(tmp_path, HISTORY)
    with pytest.warns(UserWarning, match="'loss' is the mean since the row before"):
        runs = Runs.read(tmp_path)
    assert runs.metrics == ("grad_norm", "loss", "eval_loss")
    assert "the mean since the row before" in runs.source.left_out[0]


def test_a_loss_of_every_step_is_no_mean(tmp_path):
    write(tmp_path, [{"loss": float(step), "step": step} for step in (1, 2, 3)])
    assert trainer_state.read(tmp_path).caveats == ()


def test_the_summary_is_left_out(tmp_path):
    imported = trainer_state.read(write(tmp_path, [*HISTORY, SUMMARY]))
    assert "train_loss" not in imported.rows
    (said,) = imported.left_out
    assert said.startswith("the summary at the end ('epoch', 'step', 'total_flos'")


def test_speed_in_every_entry_is_no_summary(tmp_path):
    entries = [entry | {"train_runtime": 1.0} for entry in HISTORY]
    assert len(trainer_state.read(write(tmp_path, entries)).rows) == 3


def test_what_is_not_finite_is_infinite_and_what_is_null_is_missing(tmp_path):
    entries = [
        {"loss": value, "step": step}
        for step, value in enumerate([1.0, np.nan, np.inf, -np.inf, None], start=1)
    ]
    write(tmp_path, [*entries, {"grad_norm": 1.0, "step": 5}])
    assert "NaN" in (tmp_path / "trainer_state.json").read_text()
    rows = trainer_state.read(tmp_path).rows
    assert_array_equal(rows["loss"], [1, np.inf, np.inf, -np.inf, np.nan])


def test_what_is_not_a_number_is_named(tmp_path):
    entries = [entry | {"note": "warm", "sizes": [1, 2]} for entry in HISTORY]
    imported = trainer_state.read(write(tmp_path, entries))
    assert imported.left_out == ("what is not a number ('note', 'sizes')",)
    assert "note" not in imported.rows


class TestFolders:
    def test_the_latest_checkpoint_is_read(self, tmp_path):
        write(tmp_path / "gpt" / "checkpoint-5", HISTORY[:1])
        write(tmp_path / "gpt" / "checkpoint-15", HISTORY)
        write(tmp_path / "gpt" / "checkpoint-10", HISTORY[:3])
        assert trainer_state.found(tmp_path) == {"gpt": tmp_path / "gpt"}
        imported = trainer_state.read(tmp_path / "gpt")
        assert imported.rows["step"].tolist() == [5, 10, 15]
        assert len(imported.caveats) == 1  # the mean

    def test_of_states_of_one_step_the_longer_history_is_read(self, tmp_path):
        write(tmp_path / "checkpoint-15", HISTORY[:3], step=15)
        write(tmp_path, [*HISTORY, SUMMARY], step=15)
        assert trainer_state.read(tmp_path).rows["step"].tolist() == [5, 10, 15]

    def test_another_training_in_the_same_folder_is_named(self, tmp_path):
        write(tmp_path / "checkpoint-5", [HISTORY[0] | {"loss": 9.0}])
        write(tmp_path / "checkpoint-10", HISTORY[:3])
        write(tmp_path / "checkpoint-15", HISTORY)
        *_, said = trainer_state.read(tmp_path).caveats
        assert said.startswith("'checkpoint-5' logged other values than 'checkpoint-15'")

    def test_a_checkpoint_alone(self, tmp_path):
        place = write(tmp_path / "gpt" / "checkpoint-15", HISTORY)
        assert trainer_state.found(place) == {"checkpoint-15": place}
        with pytest.warns(UserWarning, match="mean"):
            assert Runs.read(place).names == ("checkpoint-15",)
        with pytest.warns(UserWarning, match="mean"):
            assert Runs.read(place / "trainer_state.json").names == ("gpt",)

    def test_several_runs(self, tmp_path):
        for seed in (0, 1):
            write(tmp_path / "grid" / f"seed-{seed}" / "checkpoint-15", HISTORY)
        with pytest.warns(UserWarning, match="mean"):
            runs = Runs.read(tmp_path)
        assert runs.names == ("grid/seed-0", "grid/seed-1")


def test_attributes(tmp_path):
    write(
        tmp_path / "out",
        HISTORY,
        max_steps=15,
        train_batch_size=4,
        best_metric=2.5,
        best_global_step=None,
        trial_params={"lr": 0.1},
    )
    (known,) = trainer_state.read(tmp_path / "out").attributes.to_dict("index").values()
    assert known == {
        "config.max_steps": 15,
        "config.train_batch_size": 4,
        "config.lr": 0.1,
        "last_step": 15,
        "best_metric": 2.5,
    }


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"global_step": 1.5, "log_history": []}',
        '{"global_step": 1, "log_history": [{"loss": 1}]}',
        '{"global_step": 1, "log_history": [1]}',
    ],
)
def test_another_file(tmp_path, content):
    path = tmp_path / "trainer_state.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"trainer_state\.json is not the state of a Trainer"):
        Runs.read(path)


def test_no_history(tmp_path):
    write(tmp_path, [], step=0)
    with pytest.raises(ValueError, match="no run has a row yet"):
        Runs.read(tmp_path)
