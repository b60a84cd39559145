"""The benchmark of the hook's cost runs, on a training of a moment."""

import numpy as np
import pytest
import torch

from benchmarks import hook_overhead
from benchmarks.hook_overhead import trainings
from benchmarks.hook_overhead.trainings import Task, Training


def tiny(device):
    model = torch.nn.Linear(3, 2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Training(model, optimizer, [(torch.ones(4, 3), torch.zeros(4, dtype=torch.long))])


@pytest.mark.parametrize("make", [trainings.transformer, trainings.network_of_convolutions])
def test_the_trainings_learn(make):
    training = make("cpu", batch=4)
    training.batches = training.batches[:1]
    losses = [training.step().item() for _ in range(8)]
    assert losses[-1] < losses[0] - 0.5


def test_the_networks_have_the_sizes_that_the_table_says():
    def size(model):
        return sum(parameter.numel() for parameter in model.parameters())

    assert size(trainings.Transformer()) == 227_328
    assert size(trainings.residual()) == 701_466


def test_the_overhead_is_the_median_of_paired_ratios():
    found, low, high = hook_overhead.overhead(np.array([1.0, 1.02, 1.04, 1.02, 9.0]))
    assert found == pytest.approx(0.02)
    assert low == pytest.approx(0.0)
    assert 0.02 < high <= 8.0


@pytest.mark.parametrize(("limit", "status"), [(1e9, 0), (-1.0, 1)])
def test_the_table(monkeypatch, tmp_path, capsys, limit, status):
    monkeypatch.setattr(hook_overhead, "TASKS", (Task("tiny", tiny, 3, {"core": limit}),))
    threads = torch.get_num_threads()
    assert hook_overhead.main(["--quick", "--out", str(tmp_path / "table.md")]) == status
    assert torch.get_num_threads() == threads
    lines = (tmp_path / "table.md").read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| tiny")]
    assert [row[2] for row in rows] == ["core", "spectral", "hu2023", "per tensor"]
    assert all(float(row[5]) > 0 for row in rows[:3])
    assert "| tiny" in capsys.readouterr().out
