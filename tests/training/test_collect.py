"""The collected file repeats the run directories: what is read from it is what they hold."""

import json
import math
import os
import shutil
import sys
import threading

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from training import store
from training.store import collecting, parquet


def write(directory, rows, *, resume_step=None, **description):
    writer = store.RunWriter(directory, description, resume_step=resume_step)
    for row in rows:
        writer.write(row)
    writer.close(status="finished", last_step=rows[-1]["step"] if rows else 0, errors=0)


def assert_same(one, other):
    for frame, expected in zip(one, other, strict=True):
        pd.testing.assert_frame_equal(frame, expected, check_exact=True)


def assert_collected_is_what_is_there(root, metrics=None):
    """Reading with the collected file and without it gives the same; the file stays."""
    collected = store.read(root, metrics)
    (root / "trajectories.parquet").rename(root / "elsewhere")
    assert_same(collected, store.read(root, metrics))
    (root / "elsewhere").rename(root / "trajectories.parquet")


@pytest.fixture
def parsed(monkeypatch):
    """The names of the runs whose JSON is parsed, by reading or collecting, as it happens."""
    names = []

    def parse(path):
        names.append(path.name)
        return original(path)

    original = collecting.parse
    monkeypatch.setattr("training.store.collecting.parse", parse)
    monkeypatch.setattr("training.store.reader.parse", parse)
    return names


@pytest.fixture
def root(tmp_path):
    """Runs with other metrics each, values that are not finite, a restart, and one without rows."""
    config = {"lr": math.inf, "betas": [0.9, 0.98], "deep": {"er": None}}
    write(tmp_path / "seed-9", [{"step": s, "loss": s / 3} for s in range(5)], config=config)
    rows = [{"step": s, "late": s, "a.b": math.nan, "a": 1.0} for s in range(3)]
    write(tmp_path / "seed-10", rows, seed=10, cadence={"every": 1})
    write(tmp_path / "seed-10", [{"step": 2, "a": -math.inf}], resume_step=1, cadence={"every": 1})
    write(tmp_path / "none", [])
    write(tmp_path / "deep/größe", [{"step": 2**40, "loss": math.nan, "größe": 1e-300}])
    return tmp_path


def test_reading_is_the_same_with_the_collected_file(root, parsed):
    before = store.read(root)
    assert store.collect(root, progress=False) == root / "trajectories.parquet"
    parsed.clear()
    assert_same(store.read(root), before)
    assert parsed == []
    for metrics in ([], ["a"], ["a.b", "loss"], "größe"):
        assert_collected_is_what_is_there(root, metrics)
    with pytest.raises(ValueError, match="no run has a metric 'losses': there are loss"):
        store.read(root, metrics=["losses"])


def test_the_file_is_what_it_says(root):
    table = pq.read_table(store.collect(root, progress=False))
    assert table.column_names == ["run", "step", "loss", "größe", "late", "a.b", "a"]
    df = table.to_pandas()
    assert df["run"].tolist() == ["deep/größe"] + ["seed-9"] * 5 + ["seed-10"] * 3
    assert df["step"].tolist() == [2**40, 0, 1, 2, 3, 4, 0, 1, 2]
    assert table["loss"].to_pylist()[1:] == [0, 1 / 3, 2 / 3, 1, 4 / 3, None, None, None]
    assert math.isnan(table["loss"][0].as_py())
    assert table["a"].to_pylist()[-3:] == [1.0, 1.0, -math.inf]
    assert table["a.b"].null_count == 7
    metadata = pq.read_metadata(root / "trajectories.parquet")
    assert metadata.num_row_groups == 1
    assert metadata.row_group(0).column(2).compression == "ZSTD"


def test_nothing_is_written_while_nothing_changes(root, parsed):
    path = store.collect(root, progress=False)
    before = path.stat()
    parsed.clear()
    store.collect(root, progress=False)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert parsed == []
    assert sorted(p.name for p in root.iterdir()) == [
        "deep",
        "none",
        "seed-10",
        "seed-9",
        "trajectories.parquet",
    ]


def test_only_what_changed_is_parsed(root, parsed):
    store.collect(root, progress=False)
    write(root / "seed-9", [{"step": 7, "loss": 1.0, "fresh": 2.0}], resume_step=4)  # grew
    write(root / "seed-11", [{"step": 0, "loss": 0.0}])  # new
    shutil.rmtree(root / "seed-10")  # gone
    parsed.clear()
    assert_collected_is_what_is_there(root)
    parsed.clear()
    store.collect(root, progress=False)
    assert parsed == ["seed-9", "seed-11"]
    parsed.clear()
    runs = store.read(root)
    assert parsed == []
    assert runs.attributes["run"].tolist() == ["deep/größe", "none", "seed-9", "seed-11"]
    assert list(runs.rows) == ["run", "step", "loss", "größe", "fresh"]
    assert_collected_is_what_is_there(root)
    shutil.rmtree(root / "seed-9")
    table = pq.read_table(store.collect(root, progress=False))
    assert set(table["run"].to_pylist()) == {"deep/größe", "seed-11"}
    assert table.column_names == ["run", "step", "loss", "größe"]


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("name", ["run.json", "end.json", "metrics.0000.jsonl"])
def test_any_file_of_a_run_that_changes_makes_it_another(root, parsed, name, sized):
    store.collect(root, progress=False)
    file = root / "seed-9" / name
    before = file.stat()
    if sized:
        with file.open("a", encoding="utf-8") as end:
            end.write('{"step' if name.endswith("l") else "\n")  # a row that is being written
    os.utime(file, ns=(0, before.st_mtime_ns + (not sized)))
    parsed.clear()
    store.read(root)
    store.collect(root, progress=False)
    store.read(root)
    assert parsed == ["seed-9", "seed-9"]


def test_a_run_that_goes_on_loses_its_end(root):
    store.collect(root, progress=False)
    writer = store.RunWriter(root / "seed-9", {}, resume_step=4)
    status = store.read(root).attributes.set_index("run")["status"]
    assert status["seed-9"] == "unfinished"
    store.collect(root, progress=False)
    writer.write({"step": 5, "loss": 0.0})
    assert len(store.read(root, metrics="loss").rows) == 10
    writer.close()


def test_row_groups_gather_runs(tmp_path, monkeypatch, parsed):
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 100)
    for run in range(50):  # the metrics of later runs are not those of the first ones
        rows = [{"step": s, f"m{run // 10}": run + s / 7, "x": math.nan} for s in range(13)]
        write(tmp_path / f"{run}", rows)
    before = store.read(tmp_path)
    path = store.collect(tmp_path, progress=False)
    groups = pq.read_metadata(path)
    sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert sizes == [104] * 6 + [26]
    assert_same(store.read(tmp_path), before)
    shutil.rmtree(tmp_path / "3")
    write(tmp_path / "17", [{"step": 13, "x": 1.0}], resume_step=12)
    write(tmp_path / "44", [{"step": s, "long": s} for s in range(13, 500)], resume_step=12)
    assert_collected_is_what_is_there(tmp_path)
    store.collect(tmp_path, progress=False)
    parsed.clear()
    assert_collected_is_what_is_there(tmp_path, ["m4", "long"])
    assert len(parsed) == 49  # all of them without the file, and none with it


def test_many_metrics_make_smaller_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_GROUP_VALUES", 1000)
    for run in range(6):
        write(
            tmp_path / f"{run}", [{"step": s} | {f"m{i}": i for i in range(50)} for s in range(8)]
        )
    metadata = pq.read_metadata(store.collect(tmp_path, progress=False))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [24, 24]
    assert_collected_is_what_is_there(tmp_path)


def test_a_run_directory_is_a_folder_of_one(root):
    store.collect(root / "seed-10", progress=False)
    assert_collected_is_what_is_there(root / "seed-10")
    assert store.read(root / "seed-10").rows["run"].tolist() == ["seed-10"] * 3


def test_no_rows_at_all(tmp_path):
    write(tmp_path / "a", [])
    before = store.read(tmp_path)
    store.collect(tmp_path, progress=False)
    assert_same(store.read(tmp_path), before)


def test_random_runs(tmp_path, parsed):
    random = np.random.default_rng(0)
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324]
    for _ in range(12):
        directory = tmp_path / f"run-{random.integers(6)}"
        steps = np.cumsum(random.integers(1, 4, random.integers(0, 30)))
        resume = int(random.integers(0, 40)) if directory.exists() else None
        rows = []
        for step in steps + (resume or 0):
            names = random.choice(8, random.integers(0, 8), replace=False)
            values = random.normal(size=len(names)).tolist()
            values = [x if random.random() < 0.8 else random.choice(special) for x in values]
            rows.append(
                {"step": int(step)} | {f"m{n}": x for n, x in zip(names, values, strict=True)}
            )
        write(directory, rows, resume_step=resume)
        if (tmp_path / "trajectories.parquet").exists():
            assert_collected_is_what_is_there(tmp_path)
        store.collect(tmp_path, progress=False)
        parsed.clear()
        store.read(tmp_path)
        assert parsed == []
        assert_collected_is_what_is_there(tmp_path)


def test_collecting_while_others_train_and_collect(tmp_path):
    write(tmp_path / "done", [{"step": s, "loss": s / 2} for s in range(300)])
    writer = store.RunWriter(tmp_path / "growing", {})
    done = threading.Event()
    failures = []

    def train():
        for step in range(2000):
            writer.write({"step": step, "loss": step / 2})
        done.set()

    def gather():
        try:
            while not done.is_set():
                store.collect(tmp_path, progress=False)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=f) for f in (train, gather, gather)]
    for thread in threads:
        thread.start()
    lengths = []
    while not done.is_set():
        rows = store.read(tmp_path).rows
        growing = rows.loc[rows["run"] == "growing", "step"]
        assert growing.tolist() == list(range(len(growing)))
        lengths.append(len(growing))
    for thread in threads:
        thread.join()
    writer.close()
    assert failures == []
    assert lengths == sorted(lengths)
    store.collect(tmp_path, progress=False)
    assert_collected_is_what_is_there(tmp_path)
    assert len(store.read(tmp_path).rows) == 2300
    assert sorted(p.name for p in tmp_path.iterdir()) == ["done", "growing", "trajectories.parquet"]


def test_a_file_that_collect_did_not_make_is_left_alone(root):
    expected = store.read(root)
    foreign = root / "trajectories.parquet"
    pd.DataFrame({"run": ["a"], "step": [0], "loss": [1.0]}).to_parquet(foreign)
    before = foreign.read_bytes()
    with pytest.raises(FileExistsError, match="is not a file that collect made: move it elsewhere"):
        store.collect(root, progress=False)
    assert foreign.read_bytes() == before
    assert_same(store.read(root), expected)


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.99])
def test_a_corrupt_file_is_an_error_that_says_what_to_do(root, place):
    rows = [{"step": s} | {f"m{i}": math.sin(i * s) for i in range(30)} for s in range(100)]
    write(root / "more", rows)
    expected = store.read(root)
    file = store.collect(root, progress=False)
    data = bytearray(file.read_bytes())
    cut = int(place * pq.read_metadata(file).row_group(0).total_byte_size)
    data = data[:cut] if place in {0.0, 0.99} else data[:cut] + bytes(8) + data[cut + 8 :]
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"trajectories.parquet is corrupt .*: remove it"):
        store.read(root)
    file.unlink()
    assert_same(store.read(root), expected)


def test_a_file_of_another_version_is_made_anew(root, monkeypatch, parsed):
    monkeypatch.setattr(parquet, "_VERSION", 999)
    store.collect(root, progress=False)
    monkeypatch.undo()
    expected = store.read(root)
    store.collect(root, progress=False)
    assert_same(store.read(root), expected)
    manifest = pq.read_metadata(root / "trajectories.parquet").metadata[b"bayeshmm.runs"]
    assert json.loads(manifest)["version"] == 1


def test_a_run_that_cannot_be_read_leaves_the_file_as_it_was(root):
    file = store.collect(root, progress=False)
    before = file.read_bytes()
    with (root / "seed-9" / "metrics.0000.jsonl").open("a") as segment:
        segment.write("no row\n")
    with pytest.raises(ValueError, match=r"seed-9/metrics.0000.jsonl:7: corrupt line"):
        store.collect(root, progress=False)
    assert file.read_bytes() == before
    assert not [path for path in root.iterdir() if path.name.startswith(".")]


def test_without_pyarrow(root, monkeypatch):
    expected = store.read(root)
    store.collect(root, progress=False)
    monkeypatch.delitem(sys.modules, "training.store.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'bayeshmm\[parquet\]'"):
        store.collect(root, progress=False)
    assert_same(store.read(root), expected)


def test_progress_is_shown(root, capsys):
    store.collect(root)
    assert "collecting" in capsys.readouterr().err
    write(root / "more", [])
    store.collect(root, progress=False)
    assert capsys.readouterr().err == ""


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="is empty"):
        store.collect(tmp_path)
