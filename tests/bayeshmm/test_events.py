"""Events: reading them, finding their rows, and which phase goes with them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import EVERY, changed

import bayeshmm as bh
from bayeshmm.events import Event, containing_phase, halves, lags, leading_boundary


class TestParsing:
    @pytest.mark.parametrize(
        ("text", "event"),
        [
            ("test/acc > 0.9", Event("test/acc", ">", 0.9)),
            ("loss<1e-3", Event("loss", "<", 1e-3)),
            ("  weight/_all/l2 >= -2 ", Event("weight/_all/l2", ">=", -2.0)),
            ("a<=5", Event("a", "<=", 5.0)),
        ],
    )
    def test_a_metric_a_comparison_and_a_number(self, text, event):
        assert Event.parse(text) == event
        assert Event.parse(str(event)) == event

    @pytest.mark.parametrize("text", ["acc 0.9", "acc > ", "> 0.9", "acc == 1", "acc > high", ""])
    def test_anything_else_is_refused(self, text):
        with pytest.raises(ValueError, match="is not an event: write METRIC > NUMBER"):
            Event.parse(text)


def make_runs(columns, lengths=None):
    """Runs from rows of one display column; the model would see ``m0``."""
    frames = [
        pd.DataFrame({"run": f"r{n}", "step": EVERY * np.arange(len(x)), "acc": x, "m0": 0.0})
        for n, x in enumerate(columns)
    ]
    return bh.Runs.from_dataframe(pd.concat(frames), metrics=["m0"])


class TestRows:
    def test_the_first_row_that_passes(self):
        runs = make_runs(
            [[0.1, 0.5, 0.9, 0.2], [0.9, 0.1, 0.1, 0.1], [0.1, 0.2], [np.nan, 0.6, 0.7]]
        )
        assert Event("acc", ">", 0.5).rows(runs).tolist() == [2, 0, -1, 1]
        assert Event("acc", ">=", 0.5).rows(runs).tolist() == [1, 0, -1, 1]
        assert Event("acc", "<", 0.2).rows(runs).tolist() == [0, 1, 0, -1]  # padding never passes
        assert Event("acc", "<=", 0.05).rows(runs).tolist() == [-1] * 4

    def test_unknown_metric_is_named(self):
        with pytest.raises(ValueError, match="unknown column 'accuracy'"):
            Event("accuracy", ">", 0.5).rows(make_runs([[0.1, 0.9]]))

    def test_halves_share_no_run_and_leave_out_those_without_the_event(self):
        first, second = halves(make_runs([[0.0, 1.0]] * 5), np.array([1, -1, 1, 0, 1]))
        assert first.tolist() == [0, 3]
        assert second.tolist() == [2, 4]


def path_posterior(runs, entries, states=2, draws=10):
    """A posterior whose runs enter phase k at ``entries[n][k - 1]`` in every draw."""
    paths = np.full((draws, *runs.steps.shape), -1, dtype=np.int8)
    for n, rows in enumerate(entries):
        length = runs.lengths[n]
        paths[:, n, :length] = np.searchsorted(rows, np.arange(length), side="right")
    return SimpleNamespace(
        runs=runs,
        paths=paths,
        states=states,
        state_names=tuple(f"phase {k}" for k in range(states)),
    )


def stepping(rows, length=20):
    """Runs whose accuracy rises above one half at these rows; None: never."""
    time = np.arange(length)
    return make_runs([0.01 * time + (time >= (length if row is None else row)) for row in rows])


EVENT = Event("acc", ">", 0.5)


class TestContainingPhase:
    def test_chosen_on_one_half_and_checked_on_the_other(self):
        """Phase 1 is entered 1, 1, 1 and 3 rows before the event."""
        posterior = path_posterior(stepping([5, 8, 12, 9]), [[4], [7], [11], [6]])
        table = containing_phase(posterior, EVENT)
        assert list(table) == ["state", "checked", "contained", "lag", "lag_sd"]
        assert table["state"].tolist() == ["phase 1", "phase 1"]
        assert table["checked"].tolist() == [2, 2]
        assert table["contained"].tolist() == [2, 2]
        assert table["lag"].tolist() == [-20, -10]  # runs 1 and 3, then runs 0 and 2
        np.testing.assert_allclose(table["lag_sd"], [10 * np.sqrt(2), 0])

    def test_runs_without_the_event_do_not_count(self):
        posterior = path_posterior(stepping([5, None, 12]), [[4], [7], [11]])
        assert containing_phase(posterior, EVENT)["checked"].tolist() == [1, 1]

    def test_disagreement_shows(self):
        """In the second half of the runs the event falls into phase 0."""
        posterior = path_posterior(stepping([5, 5, 12, 12]), [[4], [9], [11], [15]])
        table = containing_phase(posterior, EVENT)
        assert table["state"].tolist() == ["phase 1", "phase 0"]
        assert table["contained"].tolist() == [0, 0]

    @pytest.mark.parametrize("rows", [[None, None, None], [None, 5, None]])
    def test_too_few_events_give_no_rows(self, rows):
        posterior = path_posterior(stepping(rows), [[4], [7], [11]])
        table = containing_phase(posterior, EVENT)
        assert table.empty
        assert "contained" in table

    def test_a_phase_that_is_entered_later_has_no_lag(self):
        """The runs to check never enter the phase of those that chose it."""
        posterior = path_posterior(stepping([5, 5]), [[4], [30]])
        table = containing_phase(posterior, EVENT)
        assert table["state"].tolist() == ["phase 1", "phase 0"]
        assert np.isnan(table["lag"].iloc[0])
        assert table["lag"].iloc[1] == -50


class TestLeadingBoundary:
    def test_the_entry_that_goes_with_the_event(self):
        """Phase 2 follows the event by two rows, phase 1 comes at any time before."""
        rows = [6, 9, 7, 12, 10, 8, 13, 11]
        early = [2, 3, 1, 2, 4, 3, 2, 5]
        posterior = path_posterior(
            stepping(rows), [[a, b + 2] for a, b in zip(early, rows, strict=True)], states=3
        )
        table = leading_boundary(posterior, EVENT)
        assert list(table) == ["state", "checked", "correlation", "lag", "lag_sd"]
        assert table["state"].tolist() == ["phase 2", "phase 2"]
        assert table["checked"].tolist() == [4, 4]
        np.testing.assert_allclose(table["correlation"], 1.0)
        np.testing.assert_allclose(table["lag"], 2 * EVERY)
        np.testing.assert_allclose(table["lag_sd"], 0, atol=1e-9)

    def test_three_runs_are_needed_to_correlate(self):
        posterior = path_posterior(stepping([6, 9, 7, 12]), [[7], [10], [8], [13]])
        assert leading_boundary(posterior, EVENT).empty

    def test_lags_of_runs_without_entry_or_event_are_missing(self):
        posterior = path_posterior(stepping([6, None, 7]), [[7], [10], [30]])
        rows = EVENT.rows(posterior.runs)
        np.testing.assert_array_equal(lags(posterior, rows, 1), [EVERY, np.nan, np.nan])


def test_an_event_that_the_model_never_saw(posterior, moving, changes):
    """Accuracy that rises five rows after the last change falls into the last phase."""
    row = moving.to_dataframe()["step"] // EVERY
    last = np.repeat(changes[:, 1], moving.lengths)
    runs = changed(moving, acc=1 / (1 + np.exp(last + 5.5 - row))).select(moving.metrics)
    shown = SimpleNamespace(
        runs=runs,
        paths=posterior.paths,
        states=3,
        state_names=posterior.state_names,
    )
    table = containing_phase(shown, Event("acc", ">", 0.5))
    assert table["state"].tolist() == ["phase 2", "phase 2"]
    assert table["contained"].tolist() == [4, 4]
    np.testing.assert_allclose(table["lag"], -6 * EVERY, atol=EVERY)
    table = leading_boundary(shown, Event("acc", ">", 0.5))
    assert (table["correlation"] > 0.99).all()
