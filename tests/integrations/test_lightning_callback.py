"""`MetricCallback` in a Lightning `Trainer`: the rows of a plain loop, restarts included."""

import logging

import pandas as pd
import pytest
import torch
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
from torch.utils.data import DataLoader, TensorDataset

from training import MetricHook

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

lightning = pytest.importorskip("lightning.pytorch")
callbacks = pytest.importorskip("lightning.pytorch.callbacks")

from training.integrations.lightning import MetricCallback  # noqa: E402


class Regression(lightning.LightningModule):
    def __init__(self, **how):
        super().__init__()
        self.net, self.how = network(), how

    def configure_optimizers(self):
        return adam(self.net)

    def training_step(self, batch, index):
        loss = loss_of(self.net, batch)
        self.log("train/loss", loss, **self.how)
        return loss

    def validation_step(self, batch, index):
        self.log("eval/loss", loss_of(self.net, batch))


class Stop(lightning.Callback):
    """Has the training fail after a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise ZeroDivisionError("out of luck")


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def trainer(*more, **options):
    defaults = {"max_epochs": EPOCHS, "num_sanity_val_steps": 2}
    return lightning.Trainer(
        accelerator="cpu",
        callbacks=list(more),
        logger=False,
        enable_checkpointing=any(isinstance(c, callbacks.Checkpoint) for c in more),
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"accumulate_grad_batches": ACCUMULATE, "gradient_clip_val": CLIP, **defaults, **options},
    )


def loaders():
    return (
        DataLoader(TensorDataset(*pairs()), batch_size=BATCH),
        DataLoader(TensorDataset(*held_out()), batch_size=16),
    )


def checkpoints(folder):
    return callbacks.ModelCheckpoint(folder, "{step}", save_top_k=-1)


def test_the_rows_of_a_plain_loop(tmp_path):
    expected = train_plainly(tmp_path / "plain", metrics=["core", "spectral"])
    callback = MetricCallback(
        tmp_path / "run", seed=3, config={"lr": 0.02}, every=EVERY, metrics=["core", "spectral"]
    )
    trainer(callback).fit(Regression(), *loaders())
    rows, attributes = rows_of(tmp_path / "run"), attributes_of(tmp_path / "run")
    assert expected.index.tolist() == [0, 5, 6, 10, 12, 15, 18, 20, 24]
    pd.testing.assert_frame_equal(rows, expected, rtol=1e-6, check_like=True)
    assert (attributes["status"], attributes["last_step"]) == ("finished", STEPS)
    assert (attributes["seed"], attributes["config.lr"]) == (3, 0.02)
    assert attributes["errors"] == attributes["restarts"] == 0


def test_a_training_that_failed_goes_on_from_a_checkpoint(tmp_path):
    expected = train_plainly(tmp_path / "plain")
    first = MetricCallback(tmp_path / "run", every=EVERY)
    with pytest.raises(ZeroDivisionError):
        trainer(first, checkpoints(tmp_path / "saved"), Stop(16)).fit(Regression(), *loaders())
    assert attributes_of(tmp_path / "run")["status"] == "failed"
    assert rows_of(tmp_path / "run").index.tolist() == [0, 5, 6, 10, 12, 15]
    second = MetricCallback(tmp_path / "run", every=EVERY)
    trainer(second).fit(Regression(), *loaders(), ckpt_path=tmp_path / "saved" / "step=12.ckpt")
    pd.testing.assert_frame_equal(rows_of(tmp_path / "run"), expected, rtol=1e-6, check_like=True)
    attributes = attributes_of(tmp_path / "run")
    assert (attributes["status"], attributes["restarts"]) == ("finished", 1)
    again = trainer(MetricCallback(tmp_path / "run", every=EVERY))
    with pytest.raises(FileExistsError, match="already holds a run"):
        again.fit(Regression(), *loaders())


def test_a_checkpoint_without_the_callback_gives_its_step(tmp_path):
    expected = train_plainly(tmp_path / "plain")
    trainer(checkpoints(tmp_path / "saved"), max_epochs=2).fit(Regression(), *loaders())
    callback = MetricCallback(tmp_path / "run", every=EVERY)
    trainer(callback).fit(Regression(), *loaders(), ckpt_path=tmp_path / "saved" / "step=12.ckpt")
    rows = rows_of(tmp_path / "run")
    pd.testing.assert_frame_equal(rows, expected.loc[13:], rtol=1e-6, check_like=True)


def test_fitting_more_epochs_goes_on_with_the_run(tmp_path):
    expected = train_plainly(tmp_path / "plain")
    fit, model = trainer(MetricCallback(tmp_path / "run", every=EVERY), max_epochs=2), Regression()
    fit.fit(model, *loaders())
    fit.fit_loop.max_epochs = EPOCHS
    fit.fit(model, *loaders())  # with a new optimizer, Lightning's own
    rows = rows_of(tmp_path / "run")
    assert rows.index.tolist() == expected.index.tolist()
    pd.testing.assert_frame_equal(rows.loc[:12], expected.loc[:12], rtol=1e-6, check_like=True)
    assert rows["weight/_all/log_l2"][24] != pytest.approx(expected["weight/_all/log_l2"][24])


def test_a_callback_that_is_used_again_starts_anew(tmp_path):
    callback = MetricCallback(tmp_path / "run", every=EVERY)
    trainer(callback, max_epochs=1).fit(Regression(), *loaders())
    with pytest.raises(FileExistsError, match="already holds a run"):
        trainer(callback, max_epochs=1).fit(Regression(), *loaders())


def test_values_of_epochs_are_in_the_row_of_the_last_step(tmp_path):
    class Epochs(Regression):
        def on_train_batch_end(self, outputs, batch, index):
            self.log_dict({"late": float(self.global_step), "step": 17.0})

        def on_train_epoch_end(self):
            self.log("epochs", float(self.current_epoch + 1))

    run = trainer(MetricCallback(tmp_path / "run", every=4), limit_val_batches=0, max_epochs=3)
    run.fit(Epochs(on_step=True, on_epoch=True), *loaders())
    rows = rows_of(tmp_path / "run")
    assert rows.index.tolist() == [0, 4, 6, 8, 12, 16, 18]
    ends = [6, 12, 18]
    assert rows["epochs"].dropna().to_dict() == {step: step / 6 for step in ends}
    assert rows["train/loss_epoch"].dropna().index.tolist() == ends
    steps = [4, 8, 12, 16]
    assert rows["train/loss_step"].dropna().index.tolist() == steps
    assert rows["late"].dropna().to_dict() == {step: step for step in sorted({*steps, *ends})}
    plain = train_plainly(tmp_path / "plain", every=4)
    assert rows["train/loss_step"][steps].tolist() == pytest.approx(
        plain["train/loss"][steps].tolist(), rel=1e-6
    )


def test_a_validation_between_accumulated_batches_takes_no_loss_of_them(tmp_path):
    run = trainer(MetricCallback(tmp_path / "run", every=1), val_check_interval=3, max_epochs=1)
    run.fit(Regression(), *loaders())
    rows, plain = rows_of(tmp_path / "run"), train_plainly(tmp_path / "plain", every=1)
    assert rows["train/loss"].tolist()[1:] == pytest.approx(plain["train/loss"].tolist()[1:7])
    assert rows["eval/loss"].dropna().index.tolist() == [1, 3, 4, 6]


def test_what_is_not_logged_again_is_not_repeated(tmp_path):
    class Seldom(Regression):
        def training_step(self, batch, index):
            if index == 0:
                self.log("first", 1.0)
            return super().training_step(batch, index)

    run = trainer(MetricCallback(tmp_path / "run", every=1), accumulate_grad_batches=1)
    run.fit(Seldom(), *loaders())
    assert rows_of(tmp_path / "run")["first"].dropna().index.tolist() == [1, 13, 25, 37]


class Alternating(lightning.LightningModule):
    """Two optimizers, stepped by hand."""

    def __init__(self):
        super().__init__()
        self.net, self.automatic_optimization = network(), False

    def configure_optimizers(self):
        return parts(self.net)

    def training_step(self, batch, index):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(loss_of(self.net, batch))
            optimizer.step()


def parts(net):
    return [torch.optim.SGD(net[0].parameters(), lr=0.1), adam(net[2])]


@pytest.mark.parametrize("interrupted", [False, True])
def test_several_optimizers(tmp_path, interrupted):
    net = network()
    both = parts(net)
    with MetricHook(net, both, tmp_path / "plain", every=3):
        for _ in range(2):
            for batch in loaders()[0]:
                for optimizer in both:
                    optimizer.zero_grad()
                    loss_of(net, batch).backward()
                    optimizer.step()
    options = {"accumulate_grad_batches": 1, "gradient_clip_val": None, "max_epochs": 2}
    resume = {}
    if interrupted:
        first = trainer(
            MetricCallback(tmp_path / "run", every=3),
            checkpoints(tmp_path / "saved"),
            Stop(36),
            **options,
        )
        with pytest.raises(ZeroDivisionError):
            first.fit(Alternating(), loaders()[0])
        resume = {
            "ckpt_path": tmp_path / "saved" / "step=24.ckpt"
        }  # two steps a batch, says Lightning
    run = trainer(MetricCallback(tmp_path / "run", every=3), **options)
    run.fit(Alternating(), loaders()[0], **resume)
    pd.testing.assert_frame_equal(rows_of(tmp_path / "run"), rows_of(tmp_path / "plain"), rtol=1e-6)
    assert attributes_of(tmp_path / "run")["restarts"] == interrupted


def test_a_fast_dev_run_leaves_nothing(tmp_path):
    callback = MetricCallback(tmp_path / "run")
    trainer(callback, fast_dev_run=True).fit(Regression(), *loaders())
    assert not (tmp_path / "run").exists()


def test_what_the_hook_refuses_is_refused(tmp_path):
    with pytest.raises(TypeError, match="evry"):
        MetricCallback(tmp_path / "run", evry=3)
    with pytest.raises(ValueError, match="unknown metrics 'cor'"):
        trainer(MetricCallback(tmp_path / "run", metrics="cor")).fit(Regression(), *loaders())
    assert not (tmp_path / "run").exists()
