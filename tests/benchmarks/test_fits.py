"""The benchmark of sweeps and fits runs, on a small problem and with every clock stopped."""

import time

import pytest

from benchmarks import fits
from benchmarks.speed.problem import problem
from benchmarks.speed.sizes import SMALL


def test_the_shortest_call_counts():
    assert fits.quickest(lambda: time.sleep(0.002), seconds=0.0) >= 2.0


@pytest.mark.parametrize("name", ["levels, normal", "last value and 4 lags, the default"])
def test_every_sweep_is_timed(monkeypatch, name):
    called = []
    monkeypatch.setattr(fits, "quickest", lambda run: called.append(run()) or float(len(called)))
    found = fits.sweeps(problem(SMALL), fits.FAMILIES[name])
    assert (found.one, found.sixteen, found.chain, found.four) == (1.0, 2.0, 3.0, 4.0)
    assert [part.shape for part in called[:2]] == [(1,), (16,)]
    assert [len(state.paths) for state in called[2:]] == [1, 4]


def test_the_search_covers_all_numbers_of_states(monkeypatch):
    monkeypatch.setattr(fits, "STATES", range(1, 3))
    monkeypatch.setattr(fits, "STARTS", 2)
    seconds, likelihoods = fits.our_search(problem(SMALL))
    assert seconds > 0
    assert likelihoods[1] > likelihoods[0] + 100
