"""Runs that share their noise."""

import numpy as np
import pandas as pd
import pytest
from planted import named, part, synthetic, train

import bayeshmm as bh


def names(runs):
    return tuple(f"seed-{n}" for n in runs)


@pytest.mark.parametrize("shared", [0.6, 0.95])
def test_all_runs_with_the_same_batches(shared):
    """One finding for all of them, not one per pair."""
    found = bh.audit(synthetic(20, 300, np.random.default_rng(0), shared))
    assert named(found) == [("shared_batches", names(range(20)), (), ("train/loss",))]
    assert "all 20" in found["detail"][0]


def test_two_clusters():
    rng = np.random.default_rng(1)
    first, second = (synthetic(5, 300, rng, shared=0.8) for _ in range(2))
    alone = synthetic(5, 300, rng)
    groups = {"a-": first, "b-": second, "c-": alone}
    found = bh.audit(pd.concat([df.assign(run=key + df["run"]) for key, df in groups.items()]))
    assert [row[1] for row in named(found)] == [
        tuple(key + name for name in names(range(5))) for key in ("a-", "b-")
    ]


def test_in_real_logs(frame):
    """A noise that all runs have is added to a loss, of the size of its own."""
    rng = np.random.default_rng(2)
    common = rng.standard_normal(61)
    for name in names(range(10)):
        rows = part(frame, name)
        loss = frame.loc[rows, "train/loss"]
        size = loss.diff(2).abs().rolling(15, min_periods=1).mean().bfill()
        frame.loc[rows, "train/loss"] = loss + 2.0 * size * common
    assert named(bh.audit(frame)) == [("shared_batches", names(range(10)), (), ("train/loss",))]


@pytest.mark.parametrize("shared", [True, False])
def test_networks_that_are_trained_on_the_same_batches(tmp_path, shared):
    """Their initial weights differ in either case."""
    for seed in range(6):
        train(tmp_path / f"seed-{seed}", weights=seed, batches=0 if shared else seed)
    found = bh.audit(tmp_path)
    if shared:
        [(name, runs, _, metrics)] = named(found)
        assert (name, runs) == ("shared_batches", names(range(6)))
        assert "train/loss" in metrics
    else:
        assert found.empty


def test_the_mend_is_code_that_mends():
    runs = synthetic(6, 300, np.random.default_rng(0), shared=0.9)
    space, mend = {"df": runs}, bh.audit(runs)["mend"][0]
    exec(mend[mend.index("df = ") :], space)
    assert bh.audit(space["df"]).empty


def test_schedules_and_smooth_curves_are_no_noise():
    """What all runs do at the same steps is not all noise: decay, a cyclic rate, a drop of it."""
    runs = synthetic(20, 300, np.random.default_rng(3))
    row = runs["step"] / 10
    cycle = 0.3 * (1 + np.cos(2 * np.pi * row / 50))
    runs["train/loss"] += cycle - 0.3 * (row > 200)
    pace = 1 + 0.01 * runs["run"].factorize()[0]
    runs["grad/norm"] = np.exp(-row / 100 / pace) * (1 + cycle)
    assert bh.audit(runs).empty


def test_a_copy_is_reported_as_a_copy(clean):
    copy = clean[part(clean, "seed-3")].assign(run="copy")
    assert set(bh.audit(pd.concat([clean, copy]))["finding"]) == {"duplicate_runs"}


@pytest.mark.calibration
def test_false_alarms():
    """Stated: one set of runs in a thousand. Noise is heavy-tailed, and correlated over rows."""
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        runs = synthetic(12, 200, rng)
        noise = rng.standard_t(4, (12, 200))
        noise[:, 1:] += 0.7 * noise[:, :-1]
        runs["train/loss"] += 0.02 * noise.ravel()
        alarms += len(bh.audit(runs))
    assert alarms <= 2
