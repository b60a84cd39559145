"""Runs that are there twice."""

import shutil

import numpy as np
import pandas as pd
from planted import named, part, synthetic

import bayeshmm as bh

COPIED = ("seed-3", "copy")


def test_a_copy_under_another_name(frame):
    copy = frame[part(frame, "seed-3")].assign(run="copy")
    found = bh.audit(pd.concat([frame, copy]))
    assert named(found) == [("duplicate_runs", COPIED, (0, 600), ())]
    assert "all rows agree" in found["detail"][0]


def test_a_copy_in_single_precision(frame):
    copy = frame[part(frame, "seed-3")].assign(run="copy")
    metrics = copy.columns.drop(["run", "step"])
    copy[metrics] = copy[metrics].astype(np.float32)
    found = bh.audit(pd.concat([frame, copy]))
    assert named(found) == [("duplicate_runs", COPIED, (0, 600), ())]


def test_a_common_part(frame):
    """As of a run that branched off another."""
    metrics = frame.columns.drop(["run", "step"])
    branch, trunk = (part(frame, run, 0, 30) for run in ("seed-5", "seed-3"))
    frame.loc[branch, metrics] = frame.loc[trunk, metrics].to_numpy()
    found = bh.audit(frame)
    assert named(found) == [("duplicate_runs", ("seed-3", "seed-5"), (0, 300), ())]
    assert "31 rows agree" in found["detail"][0]


def test_a_folder_copied_into_the_folder(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "runs")
    shutil.copytree(folder / "seed-3", tmp_path / "runs" / "seed-3-again")
    found = bh.audit(tmp_path / "runs")
    assert named(found) == [("duplicate_runs", ("seed-3", "seed-3-again"), (0, 600), ())]


def test_saturated_metrics_make_no_copies():
    runs = synthetic(4, 100, np.random.default_rng(0))
    accuracy = np.minimum(1.0, runs["step"] / 500 + runs["run"].factorize()[0] / 100)
    assert bh.audit(runs[["run", "step"]].assign(acc=accuracy)).empty
