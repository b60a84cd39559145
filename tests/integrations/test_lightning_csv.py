"""Logs that Lightning's CSVLogger wrote, read back value for value."""

import logging
import math

import numpy as np
import pytest
from plain_loop import BATCH, adam, held_out, loss_of, network, pairs
from torch.utils.data import DataLoader, TensorDataset

from bayeshmm import Runs
from bayeshmm.sources import lightning_csv

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

lightning = pytest.importorskip("lightning.pytorch")
loggers = pytest.importorskip("lightning.pytorch.loggers")
monitors = pytest.importorskip("lightning.pytorch.callbacks")


class Recorder(loggers.logger.DummyLogger):
    """Keeps what it is given, as the CSVLogger is."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def column(self, name):
        """The values of a metric by step, where a step that goes back starts anew from there."""
        values = {}
        for step, metrics in self.rows:
            if name in metrics:
                values = {at: value for at, value in values.items() if at < step}
                values[step] = math.inf if math.isnan(metrics[name]) else float(metrics[name])
        return values


class Regression(lightning.LightningModule):
    def __init__(self, width=8, sizes=(1, 2)):
        super().__init__()
        self.save_hyperparameters()
        self.net = network()

    def configure_optimizers(self):
        return adam(self.net)

    def training_step(self, batch, index):
        loss = loss_of(self.net, batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        odd = {3: math.nan, 5: math.inf}
        self.log("odd", odd.get(self.global_step, 1 / (1 + self.global_step)))
        return loss

    def validation_step(self, batch, index):
        self.log("eval/loss", loss_of(self.net, batch))


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def fit(logger, recorder, epochs=2, callbacks=(), **options):
    lightning.Trainer(
        accelerator="cpu",
        logger=[logger, recorder],
        max_epochs=epochs,
        log_every_n_steps=1,
        callbacks=[monitors.LearningRateMonitor(), *callbacks],
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(
        Regression(),
        DataLoader(TensorDataset(*pairs()), batch_size=BATCH),
        DataLoader(TensorDataset(*held_out()), batch_size=16),
        **options,
    )


def columns_of(rows):
    table = rows.drop(columns="run").set_index("step")
    return {name: column.dropna().to_dict() for name, column in table.items()}


def expected_of(recorder):
    names = {name for _, metrics in recorder.rows for name in metrics}
    return {name: recorder.column(name) for name in names}


def test_value_for_value(tmp_path):
    recorder = Recorder()
    fit(loggers.CSVLogger(tmp_path), recorder)
    (path,) = lightning_csv.found(tmp_path).values()
    imported = lightning_csv.read(path)
    found = columns_of(imported.rows)
    assert found == expected_of(recorder)
    assert set(found) == {
        "epoch",
        "odd",
        "train/loss_step",
        "train/loss_epoch",
        "eval/loss",
        "lr-Adam",
    }
    assert {found["odd"][3], found["odd"][5]} == {np.inf}
    assert imported.rows["step"].is_unique  # training and validation share the last of an epoch
    assert imported.caveats == (
        "means over an epoch, not values at their steps: 'train/loss_epoch'",
    )
    known = imported.attributes.loc["version_0"]
    assert (known["config.width"], known["config.sizes"]) == (8, "[1, 2]")
    assert imported.left_out == ()


def test_a_second_fit_into_the_same_file(tmp_path):
    logger, recorder = loggers.CSVLogger(tmp_path), Recorder()
    fit(logger, recorder, epochs=2)
    fit(logger, recorder, epochs=1)
    (path,) = lightning_csv.found(tmp_path).values()
    imported = lightning_csv.read(path)
    found = columns_of(imported.rows)
    assert found == expected_of(recorder)
    assert len(recorder.rows) > 2 * len(imported.rows)
    assert "values were logged again" in imported.caveats[0]
    assert "train/loss_step" in imported.caveats[0]


def test_a_resumed_training_is_a_version_of_its_own(tmp_path):
    keep = monitors.ModelCheckpoint(tmp_path / "saved", "{epoch}", save_top_k=-1)
    logs = tmp_path / "logs"
    fit(loggers.CSVLogger(logs, name=None), Recorder(), epochs=2, callbacks=[keep])
    recorder = Recorder()
    options = {"ckpt_path": tmp_path / "saved" / "epoch=1.ckpt", "weights_only": False}
    fit(loggers.CSVLogger(logs, name=None), recorder, epochs=3, callbacks=[keep], **options)
    with pytest.warns(UserWarning, match="'version_1': it begins at step 24, version_0 at step 0"):
        runs = Runs.read(logs, nonfinite="missing")
    assert runs.names == ("version_0", "version_1")
    assert runs.source.title == "Lightning CSV logs"
    values = dict(zip(runs.steps[1], runs.column("train/loss_step")[1], strict=True))
    assert {step: values[step] for step in recorder.column("train/loss_step")} == (
        recorder.column("train/loss_step")
    )
    assert runs.metrics[0] == "eval/loss"
    assert "lr-Adam" not in runs.metrics
