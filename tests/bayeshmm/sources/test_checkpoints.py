"""Checkpoints in the place of a log."""

import pytest
import torch

from bayeshmm import Runs


@pytest.fixture
def folder(tmp_path):
    """Two runs of a layer whose weights grow by one at every checkpoint, and what is none."""
    for seed in (0, 1):
        place = tmp_path / f"seed-{seed}"
        place.mkdir()
        for n in range(3):
            weight = torch.full((2, 3), float(1 + n + seed))
            torch.save({"layer.weight": weight}, place / f"step_{10 * n}.pt")
        torch.save({"layer.weight": weight}, place / "model_best.pt")
    return tmp_path


def test_they_are_measured(folder):
    runs = Runs.read(folder)
    assert runs.names == ("seed-0", "seed-1")
    assert runs.steps.tolist() == [[0, 10, 20]] * 2
    assert runs.column("weight/_all/mean").tolist() == [[1, 2, 3], [2, 3, 4]]
    runs.select("weight/_all/mean").check_modelled()


def test_what_they_do_not_tell_is_left_out(folder):
    runs = Runs.read(folder)
    assert runs.source.title == "checkpoints"
    gradients, *files = runs.source.left_out
    assert gradients.startswith("left out: metrics of gradients")
    assert [note.split(" (")[0] for note in files] == [
        "left out: 'seed-0': model_best.pt",
        "left out: 'seed-1': model_best.pt",
    ]
    assert "config.left_out" not in runs.attributes
