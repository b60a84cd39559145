"""Which steps get a row."""

import itertools
import math

import pytest
import torch

from training import LogSpaced, MetricHook, store
from training.cadence import cadence


def due(paced, steps):
    return [step for step in range(steps) if paced.due(step)]


@pytest.mark.parametrize("paced", [cadence(7, None), cadence(1, [2, 9]), LogSpaced(60, rows=9)])
def test_the_step_after_another_is_the_next_that_is_due(paced):
    steps = due(paced, 100)
    last = math.inf if max(steps) < 80 else 105
    for step in range(100):
        assert paced.after(step) == next((later for later in steps if later > step), last)


def test_every_so_many_steps():
    assert due(cadence(7, None), 30) == [0, 7, 14, 21, 28]
    assert cadence(7, None).describe() == {"every": 7}


def test_the_steps_of_a_list():
    paced = cadence(10, [5, 3, 3, 20])
    assert due(paced, 30) == [3, 5, 20]
    assert paced.describe() == {"at": [3, 5, 20]}
    assert due(cadence(10, range(0, 30, 9)), 30) == [0, 9, 18, 27]


def test_log_spaced():
    paced = LogSpaced(max_steps=10_000, rows=50)
    steps = due(paced, 20_000)
    assert steps[:4] == [0, 1, 2, 3]
    assert steps[-1] == 10_000
    assert 40 < len(steps) <= 51
    assert paced.describe() == {"log_spaced": {"max_steps": 10_000, "rows": 50}}
    ratios = [b / a for a, b in itertools.pairwise(steps) if a > 100]
    assert max(ratios) / min(ratios) < 1.03
    assert cadence(10, paced) is paced
    assert due(LogSpaced(max_steps=3), 9) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("every", "at", "message"),
    [
        (0, None, "every=0: rows must be at least one step apart"),
        (10, [], "at= must hold at least one step"),
        (10, [-1, 3], "none that is negative"),
    ],
)
def test_steps_that_cannot_be(every, at, message):
    with pytest.raises(ValueError, match=message):
        cadence(every, at)


@pytest.mark.parametrize(("max_steps", "rows"), [(0, 300), (100, 1)])
def test_log_spaced_needs_steps_and_rows(max_steps, rows):
    with pytest.raises(ValueError, match=r"LogSpaced\(.*give at least one step and two rows"):
        LogSpaced(max_steps, rows)


@pytest.mark.parametrize("at", [[0, 1, 2, 4, 8], LogSpaced(max_steps=8, rows=4)])
def test_a_hook_logs_at_its_steps(tmp_path, at):
    parameter = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(parameter.parameters(), lr=0.1)
    with MetricHook(parameter, optimizer, tmp_path, at=at):
        for _ in range(10):
            optimizer.step()
    assert store.read(tmp_path).rows["step"].tolist() == [0, 1, 2, 4, 8]
