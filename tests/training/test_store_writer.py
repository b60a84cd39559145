"""What a disk does not take waits until it does; nothing is written twice or by halves."""

import errno
import math
import os
import resource
from io import FileIO
from pathlib import Path

import numpy as np
import pytest

from training import store
from training.store import writer as writing

LINE = len('{"step":0,"loss":0.5}\n')


def losses(directory):
    rows = store.read(directory).rows
    return dict(zip(rows["step"], rows.get("loss", []), strict=True))


class Disk:
    """Files on a disk with room for so many bytes more."""

    def __init__(self):
        self.room = math.inf
        self.undoing = True

    def open(self, path, mode):
        disk = self

        class File(FileIO):
            def write(self, data):
                taken = min(len(data), disk.room)
                if data and not taken:
                    raise OSError(errno.ENOSPC, "No space left on device")
                disk.room -= taken
                return super().write(data[:taken])

            def truncate(self, size):
                if not disk.undoing:
                    raise OSError(errno.EIO, "Input/output error")
                disk.room += self.tell() - size
                return super().truncate(size)

        return File(path, mode)


@pytest.fixture
def disk(monkeypatch):
    """The disk that is written to."""
    disk = Disk()
    monkeypatch.setattr(writing, "FileIO", disk.open)
    return disk


@pytest.mark.parametrize("room", [0, 1, 10, 21, 22, 23, 50])
def test_rows_wait_for_room(tmp_path, disk, room):
    writer = store.RunWriter(tmp_path, {})
    disk.room = room
    failed = 0
    for step in range(10):
        if step == 6:
            disk.room = math.inf
        try:
            writer.write({"step": step, "loss": step / 2})
        except OSError:
            failed += 1
        assert losses(tmp_path) == {s: s / 2 for s in range(len(losses(tmp_path)))}
    assert failed == 6 - room // LINE
    writer.close()
    assert losses(tmp_path) == {s: s / 2 for s in range(10)}
    assert len(store.logged_rows(tmp_path)) == 10
    assert "lost" not in store.read_end(tmp_path)


def test_half_a_line_that_cannot_be_undone_is_undone_before_the_next(tmp_path, disk):
    writer = store.RunWriter(tmp_path, {})
    disk.room, disk.undoing = 10, False
    for step in (0, 1):
        with pytest.raises(OSError, match="Input/output error"):
            writer.write({"step": step, "loss": 0.5})
        assert store.read(tmp_path).rows.empty
    disk.room, disk.undoing = math.inf, True
    writer.write({"step": 2, "loss": 0.5})
    writer.close()
    assert losses(tmp_path) == {0: 0.5, 1: 0.5, 2: 0.5}


def test_what_waits_is_written_at_the_end(tmp_path, disk):
    writer = store.RunWriter(tmp_path, {})
    disk.room = 0
    for step in range(3):
        with pytest.raises(OSError, match=f"wait to be written: {step + 1}"):
            writer.write({"step": step, "loss": 0.5})
    disk.room = math.inf
    writer.close(status="finished")
    assert losses(tmp_path) == {0: 0.5, 1: 0.5, 2: 0.5}
    assert store.read_end(tmp_path)["status"] == "finished"


def test_what_is_lost_is_said(tmp_path, disk):
    writer = store.RunWriter(tmp_path, {})
    disk.room = 30
    for step in range(0, 300, 10):
        try:
            writer.write({"step": step, "loss": 0.5})
        except OSError:
            assert step > 0
    steps = "10, 20, 30, 40, 50, 60, 70, 80, ..., 290"
    with pytest.raises(OSError, match=f"not be written and are lost: 29, of steps {steps}"):
        writer.close(status="finished", last_step=290)
    end = store.read_end(tmp_path)
    assert end["lost"] == list(range(10, 300, 10))
    assert end["last_step"] == 290
    assert losses(tmp_path) == {0: 0.5}


def test_what_waits_is_bounded(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(writing, "WAITING_BYTES", 4 * LINE)
    writer = store.RunWriter(tmp_path, {})
    disk.room = 0
    for step in range(7):
        with pytest.raises(OSError, match="wait to be written") as caught:
            writer.write({"step": step, "loss": 0.5})
        assert ("lost: 1" in str(caught.value)) == (step == 4)
    disk.room = math.inf
    with pytest.raises(OSError, match="not be written and are lost: 3, of steps 4, 5, 6"):
        writer.close()
    assert losses(tmp_path) == {0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device(tmp_path, monkeypatch):
    writer = store.RunWriter(tmp_path / "a", {})
    writer.write({"step": 0, "loss": 0.5})
    monkeypatch.setattr(writing, "FileIO", lambda path, mode: FileIO("/dev/full", "wb"))
    with pytest.raises(OSError, match="No space left on device"):
        writer.resume(0)
    with pytest.raises(OSError, match="No space left on device; rows that wait to be written: 1"):
        writer.write({"step": 1, "loss": 0.5})
    with pytest.raises(OSError, match="not be written and are lost: 1, of steps 1"):
        writer.close(status="failed")
    assert losses(tmp_path / "a") == {0: 0.5}
    assert store.read_end(tmp_path / "a")["lost"] == [1]

    with pytest.raises(OSError, match="No space left on device"):
        store.RunWriter(tmp_path / "b", {})
    monkeypatch.undo()
    store.RunWriter(tmp_path / "b", {}).close()
    assert store.read(tmp_path / "b").rows.empty


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits")
def test_a_file_that_may_not_grow(tmp_path):
    writer = store.RunWriter(tmp_path, {})
    size = (tmp_path / "metrics.0000.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, hard))
    try:
        writer.write({"step": 0, "loss": 0.5})
        for step in (1, 2):
            with pytest.raises(OSError, match=f"wait to be written: {step}"):
                writer.write({"step": step, "loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "metrics.0000.jsonl").stat().st_size == size + LINE
    writer.close()
    assert losses(tmp_path) == {0: 0.5, 1: 0.5, 2: 0.5}


def test_rows_that_wait_go_on_with_a_restart(tmp_path, disk):
    writer = store.RunWriter(tmp_path, {})
    writer.write({"step": 0, "loss": 0.0})
    disk.room = 0
    for step in range(1, 5):
        with pytest.raises(OSError, match="wait to be written"):
            writer.write({"step": step, "loss": 0.0})
    disk.room = math.inf
    writer.resume(3)
    writer.write({"step": 4, "loss": 1.0})
    writer.close()
    assert losses(tmp_path) == {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0, 4: 1.0}


def test_a_restart_that_could_not_be_recorded_is_part_of_the_next(tmp_path, disk):
    writer = store.RunWriter(tmp_path, {})
    for step in range(8):
        writer.write({"step": step, "loss": 0.0})
    disk.room = 0
    with pytest.raises(OSError, match="No space left"):
        writer.resume(2)
    for step in (3, 5):
        with pytest.raises(OSError, match="wait to be written"):
            writer.write({"step": step, "loss": 1.0})
    with pytest.raises(OSError, match="No space left"):
        writer.resume(4)
    disk.room = math.inf
    writer.write({"step": 5, "loss": 2.0})
    writer.close()
    assert losses(tmp_path) == {0: 0.0, 1: 0.0, 2: 0.0, 3: 1.0, 5: 2.0}
    assert store.restarts(tmp_path)["resumed_from"].tolist() == [2]


def test_nothing_follows_the_end(tmp_path):
    writer = store.RunWriter(tmp_path, {})
    writer.close()
    with pytest.raises(ValueError, match="closed file"):
        writer.write({"step": 0, "loss": 0.5})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "end.json",
        "metrics.0000.jsonl",
        "run.json",
    ]


def test_a_segment_that_cannot_be_synced_still_ends(tmp_path, monkeypatch):
    writer = store.RunWriter(tmp_path, {})
    writer.write({"step": 0, "loss": 0.5})
    monkeypatch.setattr(writer, "_sync", lambda: os.fsync(10**6))
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.close(status="finished")
    assert store.read_end(tmp_path)["status"] == "finished"


def test_numbers_of_any_kind(tmp_path):
    row = {"f": np.float32(0.5), "b": True, "big": 2**70, "n": np.float64("nan"), "i": np.int64(-3)}
    writer = store.RunWriter(tmp_path, {})
    writer.write({"step": np.int64(3)} | row)
    with pytest.raises(ValueError, match="could not convert"):
        writer.write({"step": 4, "loss": "low"})
    writer.write({"step": 5, "f": -np.inf})
    writer.close()
    rows = store.read(tmp_path).rows
    assert rows.iloc[0, 1:].tolist()[:4] == [3, 0.5, 1.0, 2.0**70]
    assert rows["i"].iloc[0] == -3
    assert rows["step"].tolist() == [3, 5]
    assert store.read(tmp_path).nonfinite["value"].isna().tolist() == [True, False]


def test_what_is_no_json_is_recorded_as_text(tmp_path):
    config = {"lr": math.inf, "path": Path("data"), "none": None}
    store.RunWriter(tmp_path, {"config": config}).close()
    attributes = store.read(tmp_path).attributes
    assert attributes["config.lr"].item() == math.inf
    assert attributes["config.path"].item() == "data"
