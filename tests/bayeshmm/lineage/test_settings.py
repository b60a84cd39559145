"""Settings in which runs differ that are meant to be alike."""

import json

import numpy as np
from planted import named, rewrite

import bayeshmm as bh

NAMES = tuple(f"seed-{n}" for n in range(10))


def test_one_run_with_another_learning_rate(frame):
    found = bh.audit(frame.assign(lr=np.where(frame["run"] == "seed-3", 0.2, 0.1)))
    assert named(found) == [("settings_differ", ("seed-3",), (), ("lr",))]
    assert found["severity"][0] == "error"
    assert "0.2 in run 'seed-3'" in found["detail"][0]


def test_in_a_folder(folder, tmp_path):
    planted = rewrite(folder, tmp_path / "runs", "seed-3", lambda rows: rows)
    record = planted / "seed-3" / "run.json"
    content = json.loads(record.read_text())
    content["config"] |= {"lr": 0.3, "batch": 7}
    record.write_text(json.dumps(content))
    found = bh.audit(planted)
    assert named(found) == [("settings_differ", ("seed-3",), (), ("config.lr", "config.batch"))]


def test_a_balanced_design_is_worth_a_look(frame):
    even = frame["run"].str[-1].astype(int) % 2 == 0
    found = bh.audit(frame.assign(optimizer=np.where(even, "adam", "sgd")))
    [(name, runs, _, settings)] = named(found)
    assert (name, set(runs), settings) == ("settings_differ", set(NAMES), ("optimizer",))
    assert found["severity"][0] == "warning"
    assert "bh.Grouped(by='optimizer')" in found["mend"][0]


def test_conditions_in_folders_or_groups_of_their_own_are_no_fault(frame):
    even = frame["run"].str[-1].astype(int) % 2 == 0
    frame["lr"] = np.where(even, 0.1, 0.2)
    assert bh.audit(frame.assign(group=np.where(even, "low", "high"))).empty
    folders = np.where(even, "low/", "high/") + frame["run"]
    assert bh.audit(frame.assign(run=folders)).empty


def test_a_search_has_no_repeats(frame):
    found = bh.audit(frame.assign(lr=0.01 * (1 + frame["run"].str[-1].astype(int))))
    assert named(found) == [("settings_differ", NAMES, (), ("lr",))]
    assert "not repeats of one setting" in found["mend"][0]


def test_seeds_names_and_settings_that_all_share_are_no_fault(frame):
    number = frame["run"].str[-1].astype(int)
    assert bh.audit(frame.assign(seed=number, data_seed=number, path="/data/" + frame["run"])).empty
    assert bh.audit(frame.assign(optimizer="adam", config="large")).empty
