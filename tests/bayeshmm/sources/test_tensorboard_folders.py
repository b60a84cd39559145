import sys

import pytest

from bayeshmm.sources import tensorboard


def event_file(folder, content=b""):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "events.out.tfevents.1700000000.host.1.0"
    path.write_bytes(content)
    return path


def test_runs_are_named_by_their_folders(tmp_path):
    event_file(tmp_path / "group" / "a")
    event_file(tmp_path / "group" / "b")
    assert list(tensorboard.found(tmp_path)) == ["group/a", "group/b"]
    assert tensorboard.found(tmp_path / "group" / "a") == {"a": tmp_path / "group" / "a"}
    assert tensorboard.found(tmp_path / "elsewhere") == {}


def test_a_folder_below_a_run_is_part_of_it_only_if_its_first_tag_says_so(tmp_path):
    event_file(tmp_path / "a")
    event_file(tmp_path / "a" / "x_loss_train", b"...\n\x06x/loss...")  # add_scalars("x/loss", ...)
    event_file(tmp_path / "a" / "1700000001.5", b"...\n\x14_hparams_/experiment...")
    event_file(tmp_path / "a" / "x_loss", b"...\n\x06x/loss...")
    event_file(tmp_path / "a" / "seed_1", b"...\n\x04loss...")
    assert list(tensorboard.found(tmp_path)) == ["a", "a/seed_1", "a/x_loss"]


def test_a_library_that_is_absent_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    path = event_file(tmp_path / "a")
    with pytest.raises(ImportError, match=r"takes tensorboard: pip install 'bayeshmm\[readers\]'"):
        tensorboard.read(path)
