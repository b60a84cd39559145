"""States that a Hugging Face Trainer wrote, read back value for value."""

import math

import pytest
import torch
from plain_loop import BATCH, held_out, loss_of, network, pairs
from torch import nn

from bayeshmm import Runs
from bayeshmm.sources import trainer_state

pytestmark = pytest.mark.integration

transformers = pytest.importorskip("transformers")

STEPS = 20


class Regression(nn.Module):
    """A network whose loss is NaN at one of its calls."""

    def __init__(self, broken=None):
        super().__init__()
        self.net, self.calls, self.broken = network(), 0, broken

    def forward(self, inputs, labels):
        loss = loss_of(self.net, (inputs, labels))
        if self.training:
            self.calls += 1
            if self.calls == self.broken:
                loss = loss + torch.tensor(math.nan)
        return {"loss": loss, "logits": self.net(inputs)}


@pytest.fixture(autouse=True)
def _quiet():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def examples(inputs, labels):
    return [{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]


def train(folder, *, resume=False, broken=None, **options):
    defaults = {
        "max_steps": STEPS,
        "logging_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_steps": 8,
        "learning_rate": 0.01,
    }
    arguments = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=BATCH,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        **{**defaults, **options},
    )
    trainer = transformers.Trainer(
        Regression(broken),
        arguments,
        train_dataset=examples(*pairs()),
        eval_dataset=examples(*held_out()),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def columns_of(rows):
    table = rows.drop(columns="run").set_index("step")
    return {name: column.dropna().to_dict() for name, column in table.items()}


def expected_of(history):
    columns = {}
    for entry in history:
        for name in entry.keys() - {"step"}:
            value = math.inf if math.isnan(entry[name]) else entry[name]
            columns.setdefault(name, {})[entry["step"]] = value
    return columns


def test_value_for_value(tmp_path):
    trainer = train(tmp_path / "out")
    history = trainer.state.log_history
    assert history[-1].keys() >= {"train_runtime", "train_loss"}
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) == 3
    (path,) = trainer_state.found(tmp_path).values()
    imported = trainer_state.read(path)
    found = columns_of(imported.rows)
    # the last checkpoint is of the last step, and before the summary
    assert found == expected_of(history[:-1])
    assert list(found["loss"]) == list(range(2, STEPS + 1, 2))
    assert list(found["eval_loss"]) == list(range(4, STEPS + 1, 4))
    assert imported.left_out == ()
    (mean,) = imported.caveats
    assert mean.startswith("'loss' is the mean")

    trainer.save_state()
    again = trainer_state.read(path)
    assert columns_of(again.rows) == found
    assert again.left_out[0].startswith("the summary at the end")
    known = imported.attributes.loc["out"]
    assert known["config.max_steps"] == known["last_step"] == STEPS
    assert known["config.train_batch_size"] == BATCH


def test_as_runs(tmp_path):
    for seed in (0, 1):
        train(tmp_path / f"seed-{seed}", seed=seed)
    with pytest.warns(UserWarning, match="'loss' is the mean since the row before"):
        runs = Runs.read(tmp_path)
    assert runs.names == ("seed-0", "seed-1")
    assert set(runs.metrics) == {"loss", "grad_norm", "eval_loss"}
    assert "learning_rate" in runs.columns
    assert any("checkpoints" in note for note in runs.source.left_out)


def test_a_loss_that_is_not_finite(tmp_path):
    trainer = train(
        tmp_path, broken=11, logging_nan_inf_filter=False, logging_steps=1, eval_strategy="no"
    )
    assert math.isnan(trainer.state.log_history[10]["loss"])
    with pytest.raises(ValueError, match=r"metric 'loss': not finite at step 11"):
        Runs.read(tmp_path)
    rows = trainer_state.read(tmp_path).rows
    assert columns_of(rows) == expected_of(trainer.state.log_history[:-1])
    assert rows.set_index("step")["loss"][11] == math.inf
    assert Runs.read(tmp_path, nonfinite="truncate").lengths == [10]


def test_a_resumed_training(tmp_path):
    train(tmp_path, max_steps=16)
    trainer = train(tmp_path, resume=str(tmp_path / "checkpoint-8"), learning_rate=0.02)
    imported = trainer_state.read(tmp_path)
    assert columns_of(imported.rows) == expected_of(trainer.state.log_history[:-1])
    assert imported.rows["step"].is_monotonic_increasing
    assert len(imported.caveats) == 1  # all checkpoints after it have been written again
