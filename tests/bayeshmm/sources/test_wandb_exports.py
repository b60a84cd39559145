import json
import sys

import numpy as np
import pandas as pd
import pytest

from bayeshmm.sources import wandb

# as run.scan_history() gives them: what is not finite is a text, what was not logged is None
HISTORY = [
    {"_step": 0, "_timestamp": 100.5, "_runtime": 0.5, "loss": 0.1, "norm": {"first": 1}},
    {"_step": 2, "_timestamp": 101.5, "_runtime": 1.5, "loss": "NaN", "test": None},
    {"_step": 4, "_timestamp": 102.5, "_runtime": 2.5, "loss": "-Infinity", "test": 1 / 3},
]


def written(folder, suffix, history):
    path = folder / f"history{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in history))
        return path
    df = pd.json_normalize(history)
    if suffix == ".csv":
        df.to_csv(path)  # with the index, as by default
    else:
        df.astype({"loss": str}).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_exported_history_is_read_value_for_value(tmp_path, suffix):
    path = written(tmp_path, suffix, HISTORY)
    assert wandb.found(tmp_path) == {"history": path}
    imported = wandb.read(path)
    expected = pd.DataFrame(
        {
            "run": "history",
            "step": [0, 2, 4],
            "loss": [0.1, np.inf, -np.inf],
            "norm.first": [1.0, np.nan, np.nan],
            "test": [np.nan, np.nan, 1 / 3],
            "time": [100.5, 101.5, 102.5],
        }
    )
    pd.testing.assert_frame_equal(imported.rows, expected)
    assert imported.attributes.index.tolist() == ["history"]
    assert imported.left_out == imported.caveats == ()


def test_a_column_tells_several_runs_apart(tmp_path):
    rows = [{**row, "run": run} for run in ("a", "b") for row in HISTORY]
    imported = wandb.read(written(tmp_path, ".csv", rows))
    assert imported.rows["run"].tolist() == ["a"] * 3 + ["b"] * 3
    assert imported.attributes.index.tolist() == ["a", "b"]


def test_five_hundred_rows_look_sampled(tmp_path):
    rows = [{"_step": 3 * step, "_timestamp": step, "loss": step} for step in range(501)]
    assert wandb.read(written(tmp_path, ".jsonl", rows)).caveats == ()
    (caveat,) = wandb.read(written(tmp_path, ".jsonl", rows[:500])).caveats
    assert "'history' may be sampled" in caveat


def test_other_files_are_no_histories(tmp_path):
    (tmp_path / "plain.csv").write_text("run,step,loss,my_step,unix_timestamp\na,0,1.0,0,0\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "list.jsonl").write_text("[1, 2]\n")
    pd.DataFrame({"step": [0], "global_step": [0]}).to_parquet(tmp_path / "plain.parquet")
    assert wandb.found(tmp_path) == {}


def test_rows_that_are_no_history_are_refused(tmp_path):
    path = written(tmp_path, ".jsonl", [{"loss": 1.0}])
    with pytest.raises(ValueError, match="no `_step` in every row"):
        wandb.read(path)
    path.write_text('{"_step": 0}\n{"_step"')
    with pytest.raises(ValueError, match=r"history.jsonl, line 2: not a JSON object"):
        wandb.read(path)


def test_histories_of_one_name_are_two_runs(tmp_path):
    written(tmp_path, ".csv", HISTORY)
    written(tmp_path, ".jsonl", HISTORY)
    assert list(wandb.found(tmp_path)) == ["history", "history.jsonl"]


def test_runs_are_named_by_place_and_id(tmp_path):
    for folder in ("a/wandb/offline-run-20260101_000000-x", "a/wandb/run-20260102_000000-x",
                   "b/wandb/offline-run-20260101_000000-y"):  # fmt: skip
        path = tmp_path / folder / f"run-{folder[-1]}.wandb"
        path.parent.mkdir(parents=True)
        path.touch()
    found = wandb.found(tmp_path)
    assert sorted(found) == ["a/x", "b/y"]
    assert found["a/x"].parent.name == "run-20260102_000000-x"
    assert list(wandb.found(tmp_path / "b" / "wandb")) == ["y"]
    assert list(wandb.found(path.parent)) == ["y"]


@pytest.mark.parametrize("library", ["wandb", "pyarrow"])
def test_a_library_that_is_absent_is_named(tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    path = tmp_path / ("run-x.wandb" if library == "wandb" else "history.parquet")
    with pytest.raises(ImportError, match=rf"takes {library}: pip install 'bayeshmm\[readers\]'"):
        wandb.read(path)
