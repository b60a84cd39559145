"""Fits that several test modules look at: made once, and never changed."""

import matplotlib as mpl
import numpy as np
import pyro
import pytest
from synthetic_runs import PLAIN, change_rows, level_runs, moving_runs

import bayeshmm as bh

mpl.use("Agg")


@pytest.fixture(scope="session")
def changes():
    """Rows at which the phases of `moving` change, (runs, 2)."""
    return change_rows(8, 1, [(20, 32), (46, 58)])


@pytest.fixture(scope="session")
def moving(changes):
    """Eight runs of 72 to 80 rows and three metrics, through three laws of motion."""
    return moving_runs(changes, [80, 78, 76, 80, 74, 80, 72, 80], seed=1)


@pytest.fixture(scope="session")
def posterior(moving):
    """Three autoregressive phases of `moving`."""
    return bh.fit(moving, 3, minimum_dwell=5, restarts=4, draws=400, progress=False)


@pytest.fixture(scope="session")
def unseen():
    """Two runs of the same kind that `posterior` has not seen."""
    return moving_runs(change_rows(2, 5, [(20, 32), (46, 58)]), [76, 70], seed=6, prefix="unseen")


@pytest.fixture(scope="session")
def short():
    """Six runs of 40 rows and two metrics, through two laws of motion: fits take a moment."""
    laws = np.array(
        [
            [(-0.3, 0.0, 0.10), (0.0, 0.3, 0.3)],
            [(0.0, 0.0, 0.05), (0.5, 0.0, 0.2)],
        ]
    )
    return moving_runs(
        change_rows(6, 0, [(15, 25)]), [40, 40, 38, 40, 36, 40], laws, np.array([10.0, 0.0]), 2
    )


@pytest.fixture(scope="session")
def gappy(short):
    """Runs of unequal length in which a tenth of the values are missing."""
    frame = short.to_dataframe()
    gaps = np.random.default_rng(0).random((len(frame), 2)) < 0.1
    frame[["m0", "m1"]] = frame[["m0", "m1"]].mask(gaps)
    return bh.Runs.from_dataframe(frame)


@pytest.fixture(scope="session")
def comparison(short):
    """One to three states, two families."""
    return bh.compare(
        short,
        range(1, 4),
        ["autoregressive", bh.Gaussian(covariance="diagonal", **PLAIN)],
        minimum_dwell=4,
        restarts=3,
        draws=200,
        progress=False,
    )


MEANS = np.array([[0.0, 5.0], [8.0, 1.0]])
COVARIANCES = np.array([[[1.0, 0.6], [0.6, 0.8]], [[0.5, -0.3], [-0.3, 1.5]]])


@pytest.fixture(scope="session")
def levels():
    """Eight runs of 40 rows whose two phases are far apart levels, and the rows of the change."""
    rows = change_rows(8, 3, [(15, 25)])
    return level_runs(rows, [40] * 8, MEANS, COVARIANCES, seed=4), rows


@pytest.fixture(scope="session")
def level_posterior(levels):
    """Two Gaussian phases of `levels`."""
    emission = bh.Gaussian(**PLAIN)
    return bh.fit(levels[0], 2, emission=emission, restarts=3, draws=400, progress=False)


@pytest.fixture
def pyro_scope():
    """Pyro's parameters and random numbers are as they were afterwards."""
    state = pyro.util.get_rng_state()
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(0)
        yield
    pyro.util.set_rng_state(state)
