"""The number of phases that a comparison chooses: found where there are some, not where none is."""

import pytest

import bayeshmm as bh
from benchmarks.state_counts.worlds import (
    DRIFTS,
    FAMILIES,
    WORLDS,
    true_phases,
    with_phases,
    without_phases,
)


def compared(runs, families, states, restarts):
    emissions = [FAMILIES[name] for name in families]
    return bh.compare(runs, states, emissions, restarts=restarts, progress=False)


def chosen(*settings):
    return compared(*settings).best_key[1]


def test_three_levels_are_counted():
    assert chosen(with_phases("levels", 1), ["levels"], range(1, 5), 3) == 3


def test_a_decay_is_no_row_of_phases():
    runs = without_phases(DRIFTS.index("exponential, noise 10%"), 8)
    comparison = compared(runs, ["levels", "averages"], range(1, 4), 1)
    assert comparison.best_key[0] == repr(FAMILIES["averages"])
    assert comparison.best_key[1] <= 2
    levels = comparison.table["elpd"].xs(repr(FAMILIES["levels"]))
    assert levels[3] - levels[2] > comparison.tolerance  # they slice it


@pytest.mark.calibration
def test_the_right_family_has_the_true_number_of_phases():
    """In 18 of 20 sets at least: a false alarm in 0.7 % if a set goes wrong in 2 %."""
    right = 0
    for number in range(20, 24):  # not those on which the tolerance was chosen
        for name, world in WORLDS.items():
            if world.exact:
                states = chosen(with_phases(name, number), [world.right], range(1, 7), 8)
                right += states == true_phases(number)
    assert right >= 18


@pytest.mark.calibration
def test_drift_makes_two_phases_at_most():
    """In 5 of 7 sets at least: a false alarm in 2.6 % if a set goes wrong in 10 %."""
    flat = 0
    for number in range(21, 21 + len(DRIFTS)):  # one of each kind
        flat += chosen(without_phases(number, 8), FAMILIES, range(1, 5), 4) <= 2
    assert flat >= 5
