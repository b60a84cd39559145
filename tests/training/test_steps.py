"""Steps are counted, and rows opened and closed, whatever a gradient scaler decides."""

import pytest
import torch

from training.cadence import Every
from training.steps import Steps

CARRIED_OUT, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)


class Loop:
    """Makes steps of one optimizer and notes which rows were closed, with what was logged."""

    def __init__(self, every=2, start=0):
        self.closed = []
        self.steps = Steps(Every(every), start, self._close)

    def _close(self, row):
        self.closed.append((row.step, row.numbers(), row.skipped))

    def step(self, found_inf=None):
        row = self.steps.begin(found_inf, last=True)
        self.steps.end()
        return row

    def log(self, value, *, force=False):
        row = self.steps.receiving(force=force)
        if row is not None:
            row.add({"value": value})
        return row


def test_a_row_is_open_from_its_step_to_the_next():
    loop = Loop()
    for number in range(1, 6):
        loop.step()
        assert loop.steps.latest == number
        assert (loop.log(number) is not None) == (number % 2 == 0)
    assert loop.closed == [(2, {"value": 2}, 0), (4, {"value": 4}, 0)]


def test_a_skipped_step_leaves_its_values_to_the_row_before_and_is_counted_in_the_next():
    loop = Loop(every=1)
    loop.step(CARRIED_OUT)
    loop.log(1)
    for value in (2, 3):
        loop.step(SKIPPED)
        loop.log(value)
    assert loop.closed == []
    loop.step(CARRIED_OUT)
    loop.log(torch.tensor(4.0))
    loop.steps.settle()
    assert loop.steps.latest == 2
    assert loop.closed == [(1, {"value": 3}, 0)]
    loop.steps.finish()
    assert loop.closed[1:] == [(2, {"value": 4.0}, 2)]


def test_skipped_steps_count_for_the_next_row_that_is_due():
    loop = Loop(every=3)
    for found in (SKIPPED, CARRIED_OUT, SKIPPED, CARRIED_OUT, CARRIED_OUT, CARRIED_OUT):
        loop.step(found)
    loop.steps.settle()
    loop.steps.finish()
    assert loop.closed == [(3, {}, 2)]


def test_values_of_a_step_that_may_have_been_skipped():
    loop = Loop(every=2)
    loop.step(CARRIED_OUT)
    assert loop.log(1) is None  # of step 1, which is not due whatever happened
    loop.step(SKIPPED)
    loop.log(2)  # of step 2, if it had been made
    loop.step(CARRIED_OUT)
    loop.log(3)
    loop.steps.settle()
    loop.steps.finish()
    assert loop.closed == [(2, {"value": 3}, 1)]


def test_forcing_waits_for_the_answer():
    loop = Loop(every=10)
    loop.step(CARRIED_OUT)
    loop.step(SKIPPED)
    assert loop.log(1, force=True).step == 1
    loop.log(2)
    loop.step(CARRIED_OUT)
    loop.steps.settle()
    assert loop.closed == [(1, {"value": 2}, 0)]


def test_during_a_step_values_are_of_that_step():
    loop = Loop(every=2)
    loop.step()
    loop.steps.begin(None, last=True)
    loop.log(1)
    loop.steps.end()
    loop.log(torch.tensor(2))
    loop.steps.begin(None, last=True)
    assert loop.log(3) is None
    assert loop.log(3, force=True).step == 3
    loop.steps.end()
    loop.steps.finish()
    assert loop.closed == [(2, {"value": 2.0}, 0), (3, {"value": 3}, 0)]


def test_a_step_that_was_not_ended_goes_on():
    loop = Loop(every=1)
    loop.steps.begin(None, last=True)  # and raised
    loop.step()
    assert loop.steps.latest == 1


def test_of_several_optimizers_the_last_makes_the_step():
    loop = Loop(every=1)
    for _ in range(2):
        first = loop.steps.begin(None, last=False)
        assert loop.steps.begin(None, last=False) is first
        loop.log(first.step)
        loop.step()
    loop.steps.finish()
    assert loop.closed == [(1, {"value": 1}, 0), (2, {"value": 2}, 0)]


@pytest.mark.parametrize("found_inf", [None, CARRIED_OUT])
def test_going_back_drops_what_is_open(found_inf):
    loop = Loop(every=1, start=5)
    loop.step(found_inf)
    loop.steps.settle()
    loop.steps.go_back(3)
    loop.step(found_inf)
    loop.steps.settle()
    loop.steps.finish()
    assert loop.steps.latest == 4
    assert [step for step, *_ in loop.closed] == [4]


def test_most_steps_are_only_counted():
    loop = Loop(every=4)
    rested = []
    for _ in range(12):
        rested.append(loop.steps.resting)
        if loop.steps.resting:
            loop.steps.pass_by()
        else:
            loop.step()
        loop.log(loop.steps.latest)
    loop.steps.finish()
    assert loop.closed == [(4, {"value": 4}, 0), (8, {"value": 8}, 0), (12, {"value": 12}, 0)]
    # steps that get a row, and those that close it, are not
    assert [step for step, passed in enumerate(rested, 1) if passed] == [2, 3, 6, 7, 10, 11]


def test_nothing_rests_while_a_row_is_open_or_a_step_may_have_been_skipped():
    loop = Loop(every=10)
    loop.step()
    assert loop.steps.resting
    loop.log(1, force=True)
    assert not loop.steps.resting
    loop.step(CARRIED_OUT)
    assert not loop.steps.resting
    loop.step()
    assert loop.steps.resting
    loop.steps.go_back(9)
    assert not loop.steps.resting
    loop.step()
    loop.steps.finish()
    assert loop.closed == [(1, {"value": 1}, 0), (10, {}, 0)]
