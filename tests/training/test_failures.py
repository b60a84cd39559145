"""Whatever fails while logging, training goes on, one warning says what, and all is counted."""

import contextlib
import math
import os
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from run_files import end_of, written_rows

from training import MetricHook, store

resource = pytest.importorskip("resource")

CORE = {
    "weight/_all/log_l2",
    "weight/_all/l1_l2",
    "weight/_all/mean",
    "weight/_all/std",
    "grad/_all/log_l2",
    "update/_all/log_ratio",
}


def regression():
    model = torch.nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -1.0, 2.0, 0.25], [1.5, 0.0, -0.75, 0.5]]))
        model.bias.fill_(0.1)
    return model, torch.optim.SGD(model.parameters(), lr=0.05)


def train(model, optimizer, steps, hook=None):
    for step in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        loss = (model(inputs) - 1).square().mean()
        loss.backward()
        optimizer.step()
        if hook is not None:
            hook.log(train_loss=loss)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def untouched(steps):
    return train(*regression(), steps)


@contextlib.contextmanager
def told(*patterns):
    """Expect these warnings, in this order, and no others."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == len(patterns), messages
    for pattern, message in zip(patterns, messages, strict=True):
        assert re.search(pattern, message)


class Breaking:
    """A metric that goes wrong from its fourth value on."""

    def __init__(self, kind):
        self.__name__ = "breaking"
        self.kind, self.calls = kind, 0

    def __call__(self, model):
        self.calls += 1
        if self.calls <= 3:
            return model.weight.sum()
        if self.kind == "raises":
            raise ZeroDivisionError("by the user's own code")
        if self.kind == "another shape":
            return model.weight[0]
        return {"empty": torch.zeros(0), "no number": "high"}[self.kind]


@pytest.mark.parametrize("kind", ["raises", "another shape", "empty", "no number"])
def test_a_metric_that_breaks(tmp_path, kind):
    model, optimizer = regression()
    hook = MetricHook(model, optimizer, tmp_path / "run", every=1, metrics=["core", Breaking(kind)])
    with told("breaking"):
        weights = train(model, optimizer, 6, hook)
        hook.close()
    assert torch.equal(weights, untouched(6))
    rows = written_rows(tmp_path / "run")
    assert list(rows) == list(range(7))
    assert [step for step, row in rows.items() if "breaking" in row] == [0, 1, 2]
    assert all(row.keys() >= CORE | {"train_loss"} for step, row in rows.items() if step > 0)
    assert end_of(tmp_path / "run")["errors"] == 4
    assert end_of(tmp_path / "run")["last_step"] == 6


def test_two_things_that_fail_are_both_told(tmp_path):
    first, second = Breaking("raises"), Breaking("another shape")
    first.__name__ = "first"
    model, optimizer = regression()
    hook = MetricHook(model, optimizer, tmp_path / "run", every=1, metrics=[first, second])
    with told("first", "breaking"):
        train(model, optimizer, 6, hook)
        hook.close()
    assert end_of(tmp_path / "run")["errors"] == 8


def test_a_loss_with_a_shape(tmp_path):
    model, optimizer = regression()
    with MetricHook(model, optimizer, tmp_path / "run", every=1) as hook:
        with told("losses.*0-d"):
            for _ in range(3):
                train(model, optimizer, 1)
                hook.log(losses=torch.ones(2), epoch=1)
        train(model, optimizer, 1)
        hook.log(losses=0.5)
    rows = written_rows(tmp_path / "run")
    assert [row.get("losses") for row in rows.values()] == [None, None, None, None, 0.5]
    assert [row.get("epoch") for row in rows.values()] == [None, 1, 1, 1, None]
    assert end_of(tmp_path / "run")["errors"] == 3


def test_what_is_not_a_number_is_no_failure(tmp_path):
    model, optimizer = regression()
    metrics = ["core", "spectral", "hu2023"]
    with MetricHook(model, optimizer, tmp_path / "run", every=1, metrics=metrics) as hook:
        train(model, optimizer, 2, hook)
        with torch.no_grad():
            model.weight[0, 0] = math.nan
        train(model, optimizer, 1, hook)
        with torch.no_grad():
            model.weight.fill_(math.inf)
        hook.log(force=True, after=1.0)
        train(model, optimizer, 1, hook)
    runs = store.read(tmp_path / "run")
    assert runs.rows.step.tolist() == [0, 1, 2, 3, 4]
    assert runs.attributes["errors"].item() == 0
    found = {(step, metric) for _, step, metric, _ in runs.nonfinite.itertuples(index=False)}
    assert {(3, key) for key in CORE | {"train_loss"}} <= found
    assert {(4, "weight/_all/log_l2"), (4, "train_loss")} <= found
    assert not {step for step, _ in found} & {0, 1, 2}


@contextlib.contextmanager
def full_device(path):
    """Make every write to an open file fail as on a full disk."""
    links = {int(fd.name): fd for fd in Path("/proc/self/fd").iterdir()}
    held = [fd for fd, link in links.items() if os.path.realpath(link) == str(path.resolve())]
    assert held
    saved = {fd: os.dup(fd) for fd in held}
    full = os.open("/dev/full", os.O_WRONLY)
    for fd in held:
        os.dup2(full, fd)
    try:
        yield
    finally:
        os.close(full)
        for fd, copy in saved.items():
            os.dup2(copy, fd)
            os.close(copy)


@contextlib.contextmanager
def no_room_after(size):
    """Let no file grow beyond a size: the last write is cut short, later ones fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


FULL = {
    "nothing can be written": lambda path: full_device(path),
    "half a row can be written": lambda path: no_room_after(path.stat().st_size + 40),
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("full", FULL)
def test_a_full_disk(tmp_path, full):
    """Rows that found no room are written when there is some again."""
    model, optimizer = regression()
    hook = MetricHook(model, optimizer, tmp_path / "run", every=1)
    train(model, optimizer, 2, hook)
    file = tmp_path / "run" / "metrics.0000.jsonl"
    with told(str(tmp_path)), FULL[full](file):
        train(model, optimizer, 3, hook)
        assert list(written_rows(tmp_path / "run")) == [0, 1]
    train(model, optimizer, 2, hook)
    assert list(written_rows(tmp_path / "run")) == list(range(7))
    hook.close()
    rows = written_rows(tmp_path / "run")
    assert list(rows) == list(range(8))
    assert len(file.read_text().splitlines()) == 9
    assert all(row.keys() >= CORE | {"train_loss"} for step, row in rows.items() if step > 0)
    assert end_of(tmp_path / "run")["errors"] == 3


def test_a_disk_that_stays_full(tmp_path):
    model, optimizer = regression()
    hook = MetricHook(model, optimizer, tmp_path / "run", every=1)
    train(model, optimizer, 2, hook)
    with told("writing", "ending"), no_room_after(40):
        weights = train(model, optimizer, 2, hook)
        hook.close()
    assert np.isfinite(weights.numpy()).all()
    runs = store.read(tmp_path / "run")
    assert runs.rows.step.tolist() == [0, 1]
    assert runs.attributes["status"].item() == "unfinished"


def below_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "run"


def refused(tmp_path, monkeypatch):
    """As for a user who may not write there; root may, so the system is made to say so."""
    make = os.mkdir

    def mkdir(path, *arguments, **options):
        if Path(path).is_relative_to(tmp_path / "theirs"):
            raise PermissionError(13, "Permission denied", str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    return tmp_path / "theirs" / "run"


def read_only(tmp_path, monkeypatch):
    """A folder that is there, and takes no files."""
    if not Path("/sys/kernel").exists():
        pytest.skip("needs /sys")
    return Path("/sys/kernel")


@pytest.mark.parametrize("place", [below_a_file, refused, read_only])
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, place):
    directory = place(tmp_path, monkeypatch)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    model, optimizer = regression()
    with told(str(directory)) as caught:
        hook = MetricHook(model, optimizer, directory, seed=3, every=1)
    assert str(hook.directory) in str(caught[0].message)
    assert Path(hook.directory).is_relative_to(temporary)
    with hook:
        weights = train(model, optimizer, 3, hook)
    assert torch.equal(weights, untouched(3))
    runs = store.read(hook.directory)
    assert runs.rows.step.tolist() == [0, 1, 2, 3]
    assert runs.attributes["seed"].item() == 3
    assert runs.attributes["status"].item() == "finished"
