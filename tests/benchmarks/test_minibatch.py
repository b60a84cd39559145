"""The benchmark of mini-batches runs, on a small problem."""

import pytest

import bayeshmm as bh
from benchmarks import minibatch


def test_runs_are_the_same_levels_whatever_the_seed():
    one, same, other = (minibatch.simulated(30, 40, seed) for seed in (1, 1, 2))
    assert (one.values == same.values).all()
    assert (one.values != other.values).any()
    assert abs(one.values.mean() - other.values.mean()) < 0.2
    assert one.values.shape == (30, 40, minibatch.METRICS)


def test_a_fit_is_timed_and_scored():
    found = minibatch.fitted(45, 20, bh.VI(batch_size=10, steps=5, guide="block"), 1, 20)
    assert found.steps == 5
    assert found.memory > 0
    assert found.updated == pytest.approx(found.averaged, abs=1.0)


def test_the_page_has_the_figures():
    mini = minibatch.Result(10.0, 1.5, -2.0, -2.001, 500, 0.5, -100.0)
    full = minibatch.Result(40.0, 3.5, -2.002, -2.003, 700, 0.4, -99.0)
    page = minibatch.report(2000, 300, 40, {"mini-batch": mini, "full batch": full})
    assert "| whole fit, seconds | 10 | 40 |" in page
    assert "Largest difference 0.0020 nats a row (0.01 allowed); 4.0 times as fast" in page
