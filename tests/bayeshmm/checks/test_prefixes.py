"""What is said of a row as it comes is never taken back: filters, and phases never entered."""

import numpy as np
import pytest
from synthetic_runs import change_rows, moving_runs

import bayeshmm as bh

ROWS = [1, 2, 12, 40, 69]
EXACT = 1e-10


def first_rows(runs, rows):
    frame = runs.to_dataframe()
    early = frame.groupby("run").cumcount() < rows
    return bh.Runs.from_dataframe(frame[early], metrics=runs.metrics)


@pytest.fixture(scope="module")
def stuck():
    """Runs of the kind of `posterior` that never leave its second phase."""
    return moving_runs(change_rows(2, 9, [(20, 32), (200, 201)]), [76, 70], seed=8, prefix="stuck")


@pytest.mark.parametrize("rows", ROWS)
def test_the_filter_of_a_beginning_is_that_of_the_whole_run(posterior, unseen, rows):
    whole = posterior.filter(unseen)
    early = posterior.filter(first_rows(unseen, rows))
    np.testing.assert_allclose(early, whole[:, :rows], rtol=0, atol=EXACT)


def test_missing_values_and_one_run_alone_change_nothing_of_that(posterior, unseen):
    frame = unseen.to_dataframe()
    gaps = np.random.default_rng(0).random((len(frame), 3)) < 0.2
    frame[list(unseen.metrics)] = frame[list(unseen.metrics)].mask(gaps)
    gappy = bh.Runs.from_dataframe(frame)
    whole = posterior.filter(gappy)
    early = posterior.filter(first_rows(gappy, 30))
    np.testing.assert_allclose(early, whole[:, :30], rtol=0, atol=EXACT)
    alone = posterior.filter(gappy.subset([gappy.names[1]]))
    rows = int(gappy.lengths[1])
    np.testing.assert_allclose(alone[0], whole[1, :rows], rtol=0, atol=EXACT)


def test_smoothing_looks_ahead_and_filtering_does_not(posterior, unseen):
    filtered, smoothed = posterior.filter(unseen), posterior.smooth(unseen)
    assert float(abs(filtered - smoothed).max()) > 0.2
    early = posterior.smooth(first_rows(unseen, 30))
    assert float(abs(early - smoothed[:, :30]).max()) > 0.05


def test_a_beginning_of_a_fitted_run_is_a_new_run(posterior):
    """Of a fitted run the parameters, its run effects above all, know the rows to come."""
    runs = posterior.runs
    whole = posterior.filter(runs.subset([runs.names[0]]))
    beginning = first_rows(runs, 60).subset([runs.names[0]])
    early = posterior.filter(beginning)
    assert float(abs(early - whole[:, :60]).max()) > 10 * EXACT
    frame = runs.subset([runs.names[0]]).to_dataframe().assign(run="as new")
    new = posterior.filter(bh.Runs.from_dataframe(frame))
    np.testing.assert_allclose(early[0], new[0, :60], rtol=0, atol=EXACT)


def test_a_phase_that_is_never_entered_has_no_entry_time(posterior, stuck):
    table = posterior.entry_times(runs=stuck).set_index(["run", "state"])
    probability = table["probability"].unstack()
    assert (probability["phase 1"] == 1.0).all()
    assert (probability["phase 2"] < 0.02).all()
    assert (probability["phase 2"] == 0.0).any()
    empty = table[["median", "lower", "upper"]].isna()
    np.testing.assert_array_equal(empty.all(axis=1), table["probability"] == 0.0)
    changes = posterior.transition_times(runs=stuck)
    assert set(changes.loc[changes["probability"] > 0.5, "target"]) == {"phase 1"}


def test_a_run_that_ends_in_its_first_phase_enters_no_other(posterior, unseen):
    """But for the last rows, whose noise may be the beginning of another."""
    table = posterior.entry_times(runs=first_rows(unseen, 12)).set_index(["state"])
    assert (table.loc["phase 0", "probability"] == 1.0).all()
    assert (table.loc["phase 1", "probability"] < 0.15).all()
    assert (table.loc["phase 2", "probability"] == 0.0).all()
    assert table.loc["phase 2", ["median", "lower", "upper"]].isna().all(axis=None)
