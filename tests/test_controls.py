"""Runs of which it is known what happens when: nothing, or a change at a given step."""

import pandas as pd
import pytest

import bayeshmm as bh
import training
from training.sweep import configure

# the accuracies judge phases; the standard deviation is a function of norm and mean, and the update
# of plain gradient descent of the gradient and the weights
UNSEEN = {"train/acc", "test/acc", "weight/_all/std", "update/_all/log_ratio"}


def runs_of(experiment: str, out, seeds: int) -> tuple[bh.Runs, list[str]]:
    """What a user would let a model see of an experiment, and the losses, which take a log."""
    training.sweep(experiment, seeds=seeds, out=out, progress=False)
    runs = bh.Runs.read(out)
    runs = runs.select([metric for metric in runs.metrics if metric not in UNSEEN])
    return runs, [metric for metric in runs.metrics if metric.endswith("loss")]


def confirmed(posterior: bh.Posterior) -> pd.DataFrame:
    """Changes more probable than not, into visits that have lasted their minimum dwell."""
    changes = posterior.transition_times()
    return changes[changes["confirmed"] > 0.5]


def rows_from_the_switch(posterior: bh.Posterior) -> pd.Series:
    """How far the nearest change of each run is from the first row of the second stage, in rows."""
    config = configure("two_stage")
    changes = confirmed(posterior)
    distance = (changes["median"] - config.switch - config.every).abs() / config.every
    return distance.groupby(changes["run"]).min().reindex(posterior.runs.names)


@pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")  # of the noise of a phase
def test_two_phases_are_the_two_stages(tmp_path):
    runs, losses = runs_of("two_stage", tmp_path, 3)
    posterior = bh.fit(runs, 2, log=losses, restarts=4, draws=200, progress=False)
    assert len(confirmed(posterior)) == 3
    assert (rows_from_the_switch(posterior) <= 2).all()


# how many phases there are besides is not what is asked, nor where two of those meet
@pytest.mark.filterwarnings("ignore::bayeshmm.ComparisonWarning")
@pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
@pytest.mark.calibration
def test_the_switch_is_found_in_twenty_runs(tmp_path):
    runs, losses = runs_of("two_stage", tmp_path, 20)
    posterior = bh.compare(runs, range(1, 7), log=losses, progress=False).best
    assert (rows_from_the_switch(posterior) <= 2).all()


@pytest.mark.calibration
def test_digits_do_not_change_after_their_first_tenth(tmp_path):
    runs, losses = runs_of("digits", tmp_path, 20)
    posterior = bh.compare(runs, range(1, 6), log=losses, progress=False).best
    changes = confirmed(posterior)
    late = changes.loc[changes["median"] > 0.1 * configure("digits").steps, "run"]
    assert late.nunique() <= 2
