"""Files that wandb itself wrote offline, read back value for value."""

import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

wandb = pytest.importorskip("wandb")

from wandb.proto.wandb_internal_pb2 import Record  # noqa: E402

from bayeshmm import Runs  # noqa: E402
from bayeshmm.sources import wandb as reader  # noqa: E402
from bayeshmm.sources.imported import Imported  # noqa: E402

pytestmark = pytest.mark.integration


def log(folder: Path, rows: Iterable[dict[str, Any]], **options: Any) -> None:
    """Log each row by one call in a run of its own."""
    log_at(folder, ((None, row) for row in rows), **options)


def log_at(folder: Path, rows: Iterable[tuple[int | None, dict[str, Any]]], **options: Any) -> None:
    """Log each row by one call, at the step given."""
    quiet = wandb.Settings(silent=True, console="off")
    with wandb.init(mode="offline", dir=folder, settings=quiet, **options) as run:
        for step, row in rows:
            run.log(row, step=step)
    wandb.teardown()  # waits until the file is written


def read_one(folder: Path) -> Imported:
    (path,) = reader.found(folder).values()
    return reader.read(path)


def test_two_runs_are_read_value_for_value(tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 300))
    for number, losses in enumerate(values):
        config = {"lr": 0.1 * number, "model": {"width": 3}, "milestones": [1, 2]}
        rows = [
            {"train/loss": loss, "norms": {"first": loss * 3, "last": {"bias": 1 - loss}}}
            for loss in losses
        ]
        log(tmp_path, rows, id=f"id{number}", name="same name", group="g", config=config)
    found = reader.found(tmp_path)
    assert list(found) == ["id0", "id1"]
    for number, path in enumerate(found.values()):
        imported = reader.read(path)
        expected = pd.DataFrame(
            {
                "run": "same name",
                "step": np.arange(300),
                "norms.first": values[number] * 3,
                "norms.last.bias": 1 - values[number],
                "train/loss": values[number],
            }
        )
        pd.testing.assert_frame_equal(imported.rows.drop(columns="time"), expected)
        assert abs(imported.rows["time"] - time.time()).max() < 600
        assert imported.attributes.loc["same name"].to_dict() == {
            "run_id": f"id{number}",
            "group": "g",
            "status": "finished",
            "config.lr": 0.1 * number,
            "config.model.width": 3,
            "config.milestones": "[1, 2]",
        }


def test_a_folder_of_runs_is_recognised(tmp_path):
    for run in ("b", "a"):
        log_at(tmp_path, [(0, {"loss": 1.0}), (5, {"loss": ord(run)})], id=run, name=f"run {run}")
    runs = Runs.read(tmp_path)
    assert runs.names == ("a", "b")
    assert runs.source.title == reader.TITLE
    assert runs.values[:, :, 0].tolist() == [[1.0, 97.0], [1.0, 98.0]]
    assert runs.attributes["name"].tolist() == ["run a", "run b"]


def test_values_that_are_not_finite_are_infinite_and_absent_ones_missing(tmp_path):
    log(tmp_path, [{"a": float("nan")}, {"a": -np.inf, "b": 1.0}, {"a": 1.0, "b": None}])
    rows = read_one(tmp_path).rows
    assert rows["a"].tolist() == [np.inf, -np.inf, 1.0]
    assert rows["b"].isna().tolist() == [True, False, True]


def test_a_step_that_was_given_is_the_step(tmp_path):
    rows = [{"loss": 1.0}, {"accuracy": 0.5}]
    log_at(tmp_path, [(step, row) for step in (0, 10, 30) for row in rows])
    imported = read_one(tmp_path)
    assert imported.rows["step"].tolist() == [0, 10, 30]
    assert not imported.rows.isna().any(axis=None)
    assert imported.caveats == ()


def test_calls_that_are_counted_are_said_not_to_be_steps(tmp_path):
    log(tmp_path, [{"loss": 1.0}] * 3)
    (caveat,) = read_one(tmp_path).caveats
    assert "`_step`, which counts calls" in caveat


def test_the_step_of_the_trainer_is_preferred_and_its_rows_are_merged(tmp_path):
    rows = [
        {"train/loss": 3.0, "train/global_step": 10},
        {"eval/loss": 4.0, "train/global_step": 10},
        {"train/loss": 2.0, "train/global_step": 20},
    ]
    log(tmp_path, rows)
    imported = read_one(tmp_path)
    assert imported.rows[["step", "train/loss"]].to_numpy().tolist() == [[10, 3.0], [20, 2.0]]
    assert imported.rows["eval/loss"].dropna().tolist() == [4.0]
    assert "train/global_step" not in imported.rows
    assert imported.caveats == ()


@pytest.mark.parametrize(
    "rows",
    [
        [{"loss": 1.0, "step": step} for step in (0, 1, 2, 0, 1, 2)],
        [{"loss": 1.0, "step": 0}, {"loss": 1.0}],
    ],
    ids=["goes back", "lacks"],
)
def test_a_counter_that_is_no_step_is_not_taken_for_it(tmp_path, rows):
    log(tmp_path, rows)
    imported = read_one(tmp_path)
    assert imported.rows["step"].tolist() == list(range(len(rows)))
    assert "'step' as the step: a row lacks it, or it goes back" in imported.left_out


def test_what_is_no_number_is_named(tmp_path):
    rows = [
        {"loss": 1.0, "note": "good"},
        {"weights": wandb.Histogram([1, 2, 3])},
        {"table": wandb.Table(columns=["a"], data=[[1]])},
        {"loss": 2.0, "time": 3.0, "flag": True},
    ]
    log(tmp_path, rows)
    imported = read_one(tmp_path)
    assert imported.rows["step"].tolist() == [0, 3]
    assert imported.rows["flag"].dropna().tolist() == [1.0]
    assert "3 values that are not numbers (keys 'note', 'table', 'weights')" in imported.left_out
    assert "keys that are the names of other columns ('time')" in imported.left_out


def test_a_run_that_was_resumed_is_one_run(tmp_path):
    log(tmp_path, [{"loss": 1.0, "global_step": step} for step in range(10)], id="a")
    time.sleep(1.1)  # a run's folder is named by the second
    log(tmp_path, [{"loss": 2.0, "global_step": step} for step in range(5, 8)], id="a")
    imported = read_one(tmp_path)
    assert imported.rows["step"].tolist() == list(range(8))
    assert imported.rows["loss"].tolist() == [1.0] * 5 + [2.0] * 3
    assert "(5 of 'loss')" in imported.caveats[0]


def test_a_run_is_itself_by_any_path(tmp_path):
    log(tmp_path, [{"loss": 1.0}] * 3, id="a")
    (path,) = reader.found(tmp_path).values()
    alone = tmp_path / path.name
    alone.write_bytes(path.read_bytes())
    for same in (path, alone, tmp_path / "wandb" / "latest-run" / path.name):
        imported = reader.read(same)
        assert imported.rows["step"].tolist() == [0, 1, 2]
        assert len(imported.caveats) == 1


def record_of(length: int) -> bytes:
    """Return a message of this length that holds no row."""
    text = "x" * (length - 20)
    while len(message := Record(output_raw={"line": text}).SerializeToString()) < length:
        text += "x"
    return message


def framed(message: bytes, kind: int) -> bytes:
    checksum = zlib.crc32(bytes([kind]) + message)
    return struct.pack("<IHB", checksum, len(message), kind) + message


@pytest.mark.parametrize("room", range(12))
def test_a_message_that_begins_near_the_end_of_a_block(tmp_path, room):
    row = Record()
    for key in ("_step", "loss"):
        row.history.item.add(nested_key=[key], value_json="3")
    message = row.SerializeToString()
    data = b":W&B\xe1\xbe\x00" + framed(record_of(32768 - 7 - 7 - room), 1)
    if room < 7:
        data += bytes(room) + framed(message, 1)
    else:
        data += framed(message[: room - 7], 2) + framed(message[room - 7 :], 4)
    path = tmp_path / "run-a.wandb"
    path.write_bytes(data)
    imported = reader.read(path)
    assert imported.rows[["step", "loss"]].to_numpy().tolist() == [[3, 3]]
    assert not any("no whole record" in text for text in imported.left_out)
    path.write_bytes(data[:-3] + b"?" + data[-2:])
    assert reader.read(path).rows.empty


def test_a_row_of_many_records_and_a_torn_tail(tmp_path):
    wide = {f"norm/{layer}": layer / 7 for layer in range(3000)}
    log(tmp_path, [wide, wide, {"loss": 1.0}])
    (path,) = reader.found(tmp_path).values()
    row = reader.read(path).rows.iloc[1]
    assert {name: row[name] for name in wide} == wide
    data = path.read_bytes()
    path.write_bytes(data[: 2 * len(data) // 3])
    imported = reader.read(path)
    assert imported.rows["step"].tolist() == [0]
    assert any("no whole record" in text for text in imported.left_out)
    assert imported.attributes["status"].tolist() == ["unfinished"]


KILLED = """
import os, sys, time, wandb
run = wandb.init(mode="offline", dir=sys.argv[1])
for step in range(500):
    run.log({"loss": step / 7})
time.sleep(2)
os.killpg(0, 9)
"""


def test_a_job_that_was_killed_keeps_what_was_written(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    environment = os.environ | {"WANDB_SILENT": "true"}
    subprocess.run(command, env=environment, check=False, start_new_session=True)
    imported = read_one(tmp_path)
    losses = imported.rows["loss"].tolist()
    assert losses == [step / 7 for step in range(len(losses))]
    assert len(losses) > 200  # wandb writes by the block of 32 KiB, which are 110 such rows
    assert imported.attributes["status"].tolist() == ["unfinished"]


def test_a_run_without_a_row(tmp_path):
    log(tmp_path, [])
    imported = read_one(tmp_path)
    assert imported.rows.empty
    assert imported.attributes["status"].tolist() == ["finished"]
