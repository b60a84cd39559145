"""`MetricTracker` in a loop with Accelerate: the rows of a plain loop, restarts included."""

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

pytestmark = pytest.mark.integration

accelerate = pytest.importorskip("accelerate")
state = pytest.importorskip("accelerate.state")

from training.integrations.accelerate import MetricTracker  # noqa: E402

FORCED = {"metrics": {"force": True}}
EPOCH = STEPS // EPOCHS


@pytest.fixture(autouse=True)
def _alone():
    yield
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.GradientState._reset_state()


class Loop:
    """A script that is written with Accelerate."""

    def __init__(self, tracker):
        self.accelerator = accelerate.Accelerator(
            cpu=True, gradient_accumulation_steps=ACCUMULATE, log_with=tracker
        )
        model = network()
        loader = DataLoader(TensorDataset(*pairs()), batch_size=BATCH)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            model, adam(model), loader
        )
        self.accelerator.init_trackers("plain", config={"lr": 0.02})
        self.accelerator.register_for_checkpointing(tracker)
        self.tracker, self.steps = tracker, 0

    def start(self, checkpoint=None):
        if checkpoint is not None:
            self.accelerator.load_state(checkpoint)
            self.steps = int(checkpoint.name)
        self.tracker.attach(self.model, self.optimizer)
        return self

    def train(self, until=STEPS, save_at=None, folder=None):
        while self.steps < until:
            done = self.steps % EPOCH * ACCUMULATE
            for batch in self.accelerator.skip_first_batches(self.loader, done):
                with self.accelerator.accumulate(self.model):
                    loss = loss_of(self.model, batch)
                    self.accelerator.backward(loss)
                    if self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), CLIP)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                if self.accelerator.sync_gradients:
                    self.steps += 1
                    self.accelerator.log({"train/loss": loss}, step=self.steps)
                    if self.steps == save_at:
                        self.accelerator.save_state(folder / str(save_at))
                    if self.steps == until:
                        break
            if self.steps % EPOCH == 0:
                with torch.no_grad():
                    loss = loss_of(self.model, held_out())
                self.accelerator.log({"eval/loss": loss}, log_kwargs=FORCED)


def test_the_rows_of_a_plain_loop(tmp_path):
    expected = train_plainly(tmp_path / "plain")
    loop = Loop(MetricTracker(tmp_path / "run", seed=3, config={"data": "toy"}, every=EVERY))
    loop.start().train()
    assert loop.accelerator.get_tracker("metrics", unwrap=True).step == STEPS
    loop.accelerator.end_training()
    assert expected.index.tolist() == [0, 5, 6, 10, 12, 15, 18, 20, 24]
    pd.testing.assert_frame_equal(rows_of(tmp_path / "run"), expected, rtol=1e-6, check_like=True)
    attributes = attributes_of(tmp_path / "run")
    assert (attributes["status"], attributes["last_step"]) == ("finished", STEPS)
    assert (attributes["seed"], attributes["config.lr"]) == (3, 0.02)
    assert attributes["config.data"] == "toy"
    assert attributes["errors"] == attributes["restarts"] == 0


def test_a_script_that_died_goes_on_from_a_checkpoint(tmp_path):
    expected = train_plainly(tmp_path / "plain")
    left = Loop(MetricTracker(tmp_path / "run", every=EVERY))
    left.start().train(until=14, save_at=8, folder=tmp_path)
    assert attributes_of(tmp_path / "run")["status"] == "unfinished"
    assert rows_of(tmp_path / "run").index.tolist() == [0, 5, 6, 10, 12]
    with pytest.raises(FileExistsError, match="already holds a run"):
        Loop(MetricTracker(tmp_path / "run", every=EVERY)).start()
    again = Loop(MetricTracker(tmp_path / "run", every=EVERY)).start(tmp_path / "8")
    again.train()
    again.accelerator.end_training()
    pd.testing.assert_frame_equal(rows_of(tmp_path / "run"), expected, rtol=1e-6, check_like=True)
    attributes = attributes_of(tmp_path / "run")
    assert (attributes["status"], attributes["restarts"]) == ("finished", 1)
    left.tracker.finish()  # let go of the file


def test_a_loop_goes_back_to_a_checkpoint(tmp_path):
    expected = train_plainly(tmp_path / "plain")
    loop = Loop(MetricTracker(tmp_path / "run", every=EVERY)).start()
    loop.train(until=14, save_at=8, folder=tmp_path)
    loop.accelerator.load_state(tmp_path / "8")
    loop.steps = 8
    loop.train()
    loop.accelerator.end_training()
    pd.testing.assert_frame_equal(rows_of(tmp_path / "run"), expected, rtol=1e-6, check_like=True)
    assert attributes_of(tmp_path / "run")["restarts"] == 1


def test_the_configuration_comes_before_the_record(tmp_path):
    loop = Loop(MetricTracker(tmp_path / "run")).start()
    with pytest.raises(RuntimeError, match="init_trackers, then attach"):
        loop.tracker.store_init_configuration({"lr": 0.1})
    loop.accelerator.end_training()
    loop.accelerator.log({"late": 1.0})
    assert "late" not in rows_of(tmp_path / "run")


def test_what_the_hook_refuses_is_refused(tmp_path):
    with pytest.raises(TypeError, match="evry"):
        MetricTracker(tmp_path / "run", evry=3)
    with pytest.raises(ValueError, match="unknown metrics 'cor'"):
        Loop(MetricTracker(tmp_path / "run", metrics="cor")).start()
    assert not (tmp_path / "run").exists()
