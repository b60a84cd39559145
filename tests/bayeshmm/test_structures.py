"""Fits with every structure of transitions, evenly spaced rows or not, from end to end."""

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import PLAIN, change_rows, level_runs

import bayeshmm as bh

MEANS = np.array([[0.0, 5.0], [4.0, 1.0], [0.0, -3.0]])
COVARIANCES = np.tile(np.eye(2), (3, 1, 1))
LEVELS = bh.Gaussian(covariance="diagonal", **PLAIN)
CHANGES = change_rows(8, 3, [(12, 18), (28, 34)])

# a few draws do for what is asked here
pytestmark = pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")

STRUCTURES = {
    "dirichlet": (bh.Dirichlet(), 1),
    "left to right": (bh.LeftToRight(), 3),
    "no skips": (bh.LeftToRight(skips=False), 1),
    "sticky HDP": (bh.StickyHDP(max_states=3), 3),
    "grouped": (bh.Grouped(by="optimizer"), 3),
}


def with_conditions(runs):
    """The runs, every other of them of another condition."""
    names = dict(zip(runs.names, ["adam", "sgd"] * len(runs), strict=False))
    frame = runs.to_dataframe()
    return bh.Runs.from_dataframe(frame.assign(optimizer=frame["run"].map(names)))


def thinned(runs, steps):
    """The rows at some of the steps."""
    frame = runs.to_dataframe().join(runs.attributes[["optimizer"]], on="run")
    return bh.Runs.from_dataframe(frame[frame["step"].isin(steps)])


@pytest.fixture(scope="module")
def even():
    return with_conditions(level_runs(CHANGES, [45] * 8, MEANS, COVARIANCES, seed=4))


@pytest.fixture(scope="module")
def uneven(even):
    """Every row to step 120, every other to 240, every fourth beyond: gaps of 1, 2 and 4."""
    dense, half, sparse = range(0, 120, 10), range(120, 240, 20), range(240, 450, 40)
    return thinned(even, [*dense, *half, *sparse])


@pytest.fixture(scope="module", params=[*STRUCTURES, *(f"uneven {name}" for name in STRUCTURES)])
def fitted(request, even, uneven):
    structure, dwell = STRUCTURES[request.param.removeprefix("uneven ")]
    runs = uneven if request.param.startswith("uneven") else even
    return bh.fit(
        runs,
        3,
        emission=LEVELS,
        transition=structure,
        minimum_dwell=dwell,
        restarts=3,
        draws=200,
        progress=False,
    )


def test_the_phases_are_found(fitted):
    probability = fitted.smooth().fillna(0.0).to_numpy()
    steps = fitted.runs.steps
    truth = (steps[..., None] >= 10 * CHANGES[:, None, :]).sum(-1)
    right = probability.argmax(-1)[steps >= 0] == truth[steps >= 0]
    assert right.mean() > 0.97


def test_entry_times_are_recorded_steps_near_the_truth(fitted):
    table = fitted.entry_times().query("state == 'phase 1'").set_index("run")
    assert (table["probability"] > 0.95).all()
    truth = pd.Series(10 * CHANGES[:, 0], fitted.runs.names)
    # the first recorded row of the phase comes at most one gap, of 20 steps, after it begins
    late = table["median"] - truth
    assert late.between(-10, 30).all()


def test_draws_are_in_the_inference_data(fitted):
    draws = fitted.idata.posterior
    total = draws["transition"].sum("state_to")
    np.testing.assert_allclose(total, 1.0)
    grouped = isinstance(fitted.hmm.transition, bh.Grouped)
    assert ("condition" in draws["transition"].dims) == grouped
    assert {"exit_mean", "exit_concentration"} <= set(draws) or grouped
    # about 15 rows of 10 steps each; the third phase is never left
    first = draws["dwell"].median(("chain", "draw")).isel(state=slice(2))
    assert ((first > 60) & (first < 400)).all()


def test_what_was_saved_is_loaded(fitted, tmp_path):
    path = tmp_path / "posterior.nc"
    fitted.save(path)
    again = bh.load(path)
    assert again.hmm == fitted.hmm
    assert again.encoding.calendar == fitted.encoding.calendar
    assert set(again.draws.hyper) == set(fitted.draws.hyper)
    pd.testing.assert_frame_equal(again.entry_times(), fitted.entry_times())
    np.testing.assert_array_equal(again.log_density(fitted.runs), fitted.log_density(fitted.runs))


def test_new_runs_are_read_as_well(fitted, even):
    changes = change_rows(3, 9, [(12, 18), (28, 34)])
    new = with_conditions(level_runs(changes, [45] * 3, MEANS, COVARIANCES, seed=8))
    if fitted.runs.step_gap is None:
        new = thinned(new, fitted.runs.steps[0])
    names = [f"new-{n}" for n in range(3)]
    frame = new.to_dataframe().join(new.attributes[["optimizer"]], on="run")
    frame["run"] = frame["run"].map(dict(zip(new.names, names, strict=True)))
    new = bh.Runs.from_dataframe(frame)
    truth = (new.steps[..., None] >= 10 * changes[:, None, :]).sum(-1)
    for probability in (fitted.smooth(new), fitted.filter(new)):
        np.testing.assert_allclose(probability.sum("state"), 1.0)
        assert (probability.argmax("state") == truth).mean() > 0.9
    density = fitted.log_density(new)
    assert np.isfinite(density).all()
    # as dense as the runs that were fitted, whose own share is taken out, to within their spread
    own = fitted.log_density(fitted.runs)
    assert abs(float(density.mean() - own.mean())) < 5 * float(own.std())


def test_left_to_right_keeps_its_order(even):
    fitted = bh.fit(
        even, 3, emission=LEVELS, transition=bh.LeftToRight(), minimum_dwell=2,
        restarts=3, draws=100, progress=False,
    )  # fmt: skip
    assert (np.diff(fitted.paths, axis=-1) >= 0).all()
    assert (fitted.paths[..., 0] == 0).all()


def test_the_number_of_states_may_be_left_to_the_hdp(even):
    fitted = bh.fit(
        even, emission=LEVELS, transition=bh.StickyHDP(max_states=4), minimum_dwell=3,
        restarts=3, draws=100, progress=False,
    )  # fmt: skip
    assert fitted.states == 4
    with pytest.raises(ValueError, match=r"give the number of phases, or transition=StickyHDP"):
        bh.fit(even, emission=LEVELS)


def test_a_new_run_of_an_unknown_condition_is_an_error(even):
    fitted = bh.fit(
        even, 2, emission=LEVELS, transition=bh.Grouped(by="optimizer"), minimum_dwell=3,
        restarts=2, draws=20, progress=False,
    )  # fmt: skip
    frame = even.to_dataframe().assign(optimizer="lion")
    with pytest.raises(ValueError, match=r"seed-0.*lion"):
        fitted.log_density(bh.Runs.from_dataframe(frame))


def test_a_comparison_of_grouped_models(even):
    table = bh.compare(
        even, [1, 2], emission=LEVELS, transition=bh.Grouped(by="optimizer"), minimum_dwell=3,
        restarts=2, folds=4, progress=False,
    ).table  # fmt: skip
    assert table["elpd"].notna().all()
    assert table["elpd"].iloc[1] > table["elpd"].iloc[0]


def test_conditions_are_not_simulated():
    with pytest.raises(ValueError, match="simulated runs have no conditions"):
        bh.HMM(2, LEVELS, bh.Grouped()).simulate([20, 20], 0)


def test_a_structure_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="transition must be Dirichlet"):
        bh.HMM(2, transition="sticky")
    with pytest.raises(ValueError, match="transition must be Dirichlet"):
        bh.HMM(2, transition=bh.LeftToRight)
