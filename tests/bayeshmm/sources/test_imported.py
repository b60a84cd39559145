"""What readers share: merging the rows of a run, columns of trainers, settings."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bayeshmm.sources.imported import is_of_the_trainer, last_written, replaced, settings

NAN = np.nan


class TestLastWritten:
    def test_rows_of_one_step_are_merged(self):
        logged = pd.DataFrame(
            {"step": [4, 9, 9], "train": [1, 2, NAN], "val": [NAN, NAN, 3], "epoch": [0, 0, 0.0]}
        )
        rows, caveats = last_written(logged)
        assert_frame_equal(
            rows, pd.DataFrame({"step": [4, 9], "train": [1.0, 2], "val": [NAN, 3], "epoch": 0.0})
        )
        assert caveats == ()

    def test_a_restart_takes_the_place_of_what_it_repeats_and_of_what_lay_beyond(self):
        logged = pd.DataFrame(
            {
                "step": [0, 10, 15, 20, 30, 10, 20],
                "loss": [0.0, 1, NAN, 2, 3, 11, 2],
                "val": [NAN, NAN, 5, NAN, NAN, NAN, NAN],
            }
        )
        rows, caveats = last_written(logged)
        assert_frame_equal(
            rows,
            pd.DataFrame(
                {"step": [0, 10, 15, 20], "loss": [0, 11, NAN, 2.0], "val": [NAN, NAN, 5, NAN]}
            ),
        )
        (said,) = caveats  # of the three values that no longer count, 2 was logged as it was
        assert said.startswith("values were logged again, or lie beyond")
        assert said.endswith("(2 of 'loss')")

    def test_of_several_values_the_last_counts(self):
        rows, caveats = last_written(pd.DataFrame({"step": [1, 1, 1], "loss": [3, np.inf, NAN]}))
        assert rows["loss"].tolist() == [np.inf]
        assert len(caveats) == 1

    @pytest.mark.parametrize("name", ["epoch", "time", "eval_runtime"])
    def test_nothing_is_said_of_columns_of_the_trainer(self, name):
        rows, caveats = last_written(pd.DataFrame({"step": [1, 1], name: [0.1, 0.2]}))
        assert rows[name].tolist() == [0.2]
        assert caveats == ()

    def test_text_stays(self):
        logged = pd.DataFrame({"step": [0, 1, 1], "optimizer": ["adam", "adam", None]})
        assert last_written(logged)[0]["optimizer"].tolist() == ["adam", "adam"]

    def test_no_rows(self):
        rows, caveats = last_written(pd.DataFrame({"step": [], "loss": []}))
        assert rows.empty
        assert list(rows) == ["step", "loss"]
        assert caveats == ()


def test_the_caveat_names_the_most_frequent():
    (said,) = replaced(Counter(a=1, b=5, c=2, d=3))
    assert said.endswith("(5 of 'b', 3 of 'd', 2 of 'c')")
    assert replaced(Counter(a=0)) == ()


@pytest.mark.parametrize(
    "name",
    [
        "epoch",
        "train/epoch",
        "learning_rate",
        "train/learning_rate",
        "lr-AdamW",
        "lr-AdamW/pg1",
        "lr",
        "eval_runtime",
        "eval_samples_per_second",
        "eval/steps_per_second",
        "train/global_step",
        "num_input_tokens_seen",
        "train/total_flos",
        "eval_model_preparation_time",
        "DeviceStatsMonitor.on_train_batch_start/memory",
        "time",
        "opt/lr",
    ],
)
def test_columns_of_trainers(name):
    assert is_of_the_trainer(name)


@pytest.mark.parametrize(
    "name", ["loss", "grad_norm", "lru", "train/loss", "alr", "times", "eval_lr2"]
)
def test_metrics(name):
    assert not is_of_the_trainer(name)


def test_settings():
    given = {"lr": 0.1, "model": {"width": 8, "layers": [1, 2]}, "name": None, "when": {1}}
    assert settings(given) == {
        "config.lr": 0.1,
        "config.model.width": 8,
        "config.model.layers": "[1, 2]",
        "config.name": None,
        "config.when": '"{1}"',
    }
