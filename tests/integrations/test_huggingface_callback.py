"""`MetricCallback` in a Hugging Face `Trainer`: the rows of a plain loop, restarts included."""

import pandas as pd
import pytest
from plain_loop import (
    ACCUMULATE,
    BATCH,
    CLIP,
    EPOCHS,
    EVERY,
    STEPS,
    adam,
    attributes_of,
    held_out,
    loss_of,
    network,
    pairs,
    rows_of,
    train_plainly,
)
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

pytestmark = pytest.mark.integration

transformers = pytest.importorskip("transformers")

from training.integrations.huggingface import MetricCallback  # noqa: E402

OWN = ["epoch", "opt/lr", "opt/grad_norm_preclip"]
"""What the trainer logs and the plain loop does not."""


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, inputs, labels):
        return {"loss": loss_of(self.net, (inputs, labels)), "logits": self.net(inputs)}


class Stop(transformers.TrainerCallback):
    """Has the training fail after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise ZeroDivisionError("out of luck")


@pytest.fixture(autouse=True)
def _quiet():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def examples(inputs, labels):
    return [{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]


def trainer(folder, *callbacks, kind=transformers.Trainer, **options):
    defaults = {
        "num_train_epochs": EPOCHS,
        "eval_strategy": "epoch",
        "logging_steps": 1,
        "save_strategy": "no",
    }
    arguments = transformers.TrainingArguments(
        str(folder / "output"),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=16,
        gradient_accumulation_steps=ACCUMULATE,
        max_grad_norm=CLIP,
        train_sampling_strategy="sequential",
        seed=3,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        **{**defaults, **options},
    )
    model = Regression()
    optimizer = adam(model)
    made = kind(
        model,
        arguments,
        train_dataset=examples(*pairs()),
        eval_dataset=examples(*held_out()),
        optimizers=(optimizer, LambdaLR(optimizer, lambda _: 1.0)),
        callbacks=list(callbacks),
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


@pytest.fixture
def plain(tmp_path):
    return train_plainly(tmp_path / "plain", mean_loss=True)


def assert_rows(directory, expected):
    rows = rows_of(directory)
    pd.testing.assert_frame_equal(rows.drop(columns=OWN), expected, rtol=1e-6, check_like=True)
    return rows


def test_the_rows_of_a_plain_loop(tmp_path, plain):
    callback = MetricCallback(tmp_path / "run", config={"lr": 0.02}, every=EVERY)
    made = trainer(tmp_path, callback)
    made.train()
    made.evaluate()  # after the end of the run
    assert plain.index.tolist() == [0, 5, 6, 10, 12, 15, 18, 20, 24]
    rows, attributes = assert_rows(tmp_path / "run", plain), attributes_of(tmp_path / "run")
    assert rows["opt/lr"].dropna().to_dict() == dict.fromkeys([5, 10, 15, 20], 0.02)
    assert rows["epoch"][[5, 6, 24]].tolist() == pytest.approx([5 / 6, 1, 4])
    assert rows["opt/grad_norm_preclip"].max() > CLIP  # as it was before clipping
    assert (attributes["status"], attributes["last_step"]) == ("finished", STEPS)
    assert (attributes["seed"], attributes["config.lr"]) == (3, 0.02)
    assert attributes["errors"] == attributes["restarts"] == 0


def test_a_training_that_failed_goes_on_from_a_checkpoint(tmp_path, plain):
    saved = {"save_strategy": "steps", "save_steps": 8}  # within an epoch
    left = MetricCallback(tmp_path / "run", every=EVERY)
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, left, Stop(14), **saved).train()
    assert attributes_of(tmp_path / "run")["status"] == "unfinished"
    assert rows_of(tmp_path / "run").index.tolist() == [0, 5, 6, 10, 12]
    second = trainer(tmp_path, MetricCallback(tmp_path / "run", every=EVERY), **saved)
    second.train(resume_from_checkpoint=str(tmp_path / "output" / "checkpoint-8"))
    assert_rows(tmp_path / "run", plain)
    attributes = attributes_of(tmp_path / "run")
    assert (attributes["status"], attributes["restarts"]) == ("finished", 1)
    left.on_train_end(None, None, None)  # let go of the file


def test_the_same_trainer_goes_on_after_an_exception(tmp_path, plain):
    saved = {"save_strategy": "steps", "save_steps": 8}
    stop = Stop(16)
    made = trainer(tmp_path, MetricCallback(tmp_path / "run", every=EVERY), stop, **saved)
    with pytest.raises(ZeroDivisionError):
        made.train()
    stop.step = None
    made.train(resume_from_checkpoint=True)
    assert_rows(tmp_path / "run", plain)
    assert not made.optimizer.optimizer._optimizer_step_post_hooks
    with pytest.raises(FileExistsError, match="already holds a run"):
        made.train()


def test_a_loss_that_is_a_mean_is_called_one(tmp_path, plain):
    trainer(tmp_path, MetricCallback(tmp_path / "run", every=6), logging_steps=3).train()
    each = train_plainly(tmp_path / "each", mean_loss=True, every=1)["train/loss"]
    rows = rows_of(tmp_path / "run")
    assert rows.index.tolist() == [0, 6, 12, 18, 24]
    assert "train/loss" not in rows
    means = [each.loc[step - 2 : step].mean() for step in (6, 12, 18, 24)]
    assert rows["train/loss_mean"].tolist()[1:] == pytest.approx(means, rel=1e-6)


def test_what_else_a_trainer_logs(tmp_path):
    class Chatty(transformers.Trainer):
        def log(self, logs, *args):
            more = {"rewards/chosen": 1.5, "test_loss": 2.5, "train_tokens_per_second": 9.0}
            super().log(logs | more, *args)

    trainer(
        tmp_path,
        MetricCallback(tmp_path / "run", metrics=["weight/_all/log_l2"], every=6),
        kind=Chatty,
        num_train_epochs=1,
        include_num_input_tokens_seen="all",
    ).train()
    names = set(rows_of(tmp_path / "run"))
    assert {name for name in names if "fingerprint" not in name} == {
        "weight/_all/log_l2",
        *OWN,
        "train/loss",
        "eval/loss",
        "train/rewards/chosen",
        "test/loss",
        "log/num_input_tokens_seen",
    }
    assert attributes_of(tmp_path / "run")["errors"] == 0


def test_what_the_hook_refuses_is_refused(tmp_path):
    with pytest.raises(TypeError, match="evry"):
        MetricCallback(tmp_path / "run", evry=3)
    with pytest.raises(ValueError, match="unknown metrics 'cor'"):
        trainer(tmp_path, MetricCallback(tmp_path / "run", metrics="cor")).train()
    assert not (tmp_path / "run").exists()
