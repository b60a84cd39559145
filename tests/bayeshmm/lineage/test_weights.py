"""Rows whose weights are those of an earlier row."""

import numpy as np
import pandas as pd
import pytest
from planted import EVERY, named, part, train

import bayeshmm as bh


def test_an_undeclared_restart(tmp_path):
    """The steps count on, while the weights are those of 30 rows before, and trained on."""
    found = bh.audit(train(tmp_path / "run", {50: 20}))
    assert named(found) == [("weights_return", ("run",), (51 * EVERY,), ())]
    assert "almost" in found["detail"][0]


def test_several_restarts(tmp_path):
    found = bh.audit(train(tmp_path / "run", {40: 15, 65: 20}))
    assert named(found) == [("weights_return", ("run",), (41 * EVERY, 66 * EVERY), ())]


def test_a_declared_restart_is_no_fault(tmp_path):
    assert bh.audit(train(tmp_path / "run", {50: 20}, declared=True)).empty


def test_a_run_that_was_never_restored(tmp_path):
    assert bh.audit(train(tmp_path / "run", {})).empty


def test_a_stale_row(frame):
    """One row was measured on old weights; the next is where training is."""
    weights = [name for name in frame if name.startswith(("weight/", "log/fingerprint/"))]
    stale, old = part(frame, "seed-3", 40, 40), part(frame, "seed-3", 10, 10)
    frame.loc[stale, weights] = frame.loc[old, weights].to_numpy()
    found = bh.audit(frame)
    assert named(found) == [("weights_return", ("seed-3",), (400,), ())]
    assert "are those at step 100, 30 rows before" in found["detail"][0]


@pytest.mark.parametrize("fingerprints", [True, False])
def test_training_that_repeats_itself(frame, fingerprints):
    """A restart with the same batches; foreign logs have no fingerprints."""
    metrics = frame.columns.drop(["run", "step"])
    late, early = part(frame, "seed-3", 40, 60), part(frame, "seed-3", 20, 40)
    frame.loc[late, metrics] = frame.loc[early, metrics].to_numpy()
    if not fingerprints:
        frame = frame.drop(columns=[name for name in frame if name.startswith("log/")])
    assert named(bh.audit(frame)) == [("weights_return", ("seed-3",), (400,), ())]


def test_weights_that_stand_still(frame):
    weights = [name for name in frame if name.startswith(("weight/", "log/fingerprint/"))]
    still = part(frame, "seed-3", 40)
    frame.loc[still, weights] = frame.loc[still, weights].iloc[0].to_numpy()
    assert bh.audit(frame).empty


def test_a_spike_that_comes_back(frame):
    sketch = [name for name in frame if name.startswith("log/fingerprint/")]
    spike = part(frame, "seed-3", 40, 41)
    frame.loc[spike, sketch] += 50.0
    assert bh.audit(frame).empty


@pytest.mark.calibration
def test_false_alarms_of_random_walks():
    """Weights that walk at random, with heavy tails, as around a minimum: none in 60 000 rows."""
    rng = np.random.default_rng(0)
    size = np.sqrt(5.0 / rng.chisquare(5, (200, 300, 1)))
    walks = (size * rng.standard_normal((200, 300, 8))).cumsum(axis=1)
    names = [f"{prefix}{i}" for prefix in ("log/fingerprint/", "weight/") for i in range(4)]
    df = pd.DataFrame(walks.reshape(-1, 8), columns=names)
    df.insert(0, "run", np.repeat(np.arange(200), 300))
    df.insert(1, "step", np.tile(np.arange(300), 200))
    assert bh.audit(df).empty
