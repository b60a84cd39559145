"""Gibbs sampling, NUTS and variational inference on one model of every structure.

The model is small and its phases overlap. Means of the chain's and the levels' parameters are
compared in Monte-Carlo errors of the two fits (ArviZ, from effective sample sizes), each against
the Bonferroni limit of a false alarm in 1 % of all comparisons of a structure. Gibbs has the
hyper-parameters of the chain on a grid and NUTS has not: what that moves is far below the errors.
"""

import numpy as np
import pytest
from scipy.stats import norm
from synthetic_runs import PLAIN, change_rows, level_runs

import bayeshmm as bh
from bayeshmm._arviz import az

SHARP = bh.Hyperpriors(shrinkage=(5.0, 5.0), scale=(5.0, 5.0), noise_shape=3.0)
"""Hyper-priors without heavy tails, of which few draws would tell little."""

LEVELS = bh.Gaussian(covariance="diagonal", hyperpriors=SHARP, **PLAIN)

STRUCTURES = {
    "dirichlet": bh.Dirichlet(),
    "left to right": bh.LeftToRight(),
    "sticky HDP": bh.StickyHDP(max_states=3),
    "grouped": bh.Grouped(by="optimizer"),
    "uneven": bh.Dirichlet(),
}
NAMES = ("initial", "transition", "mean", "covariance")


@pytest.fixture(scope="module")
def runs():
    """Eight runs through three levels; every other run is of another condition."""
    means = np.array([[0.0], [2.5], [-2.5]])
    rows = change_rows(8, 3, [(8, 12), (18, 22)])
    every = level_runs(rows, [30] * 8, means, np.ones((3, 1, 1)), seed=4)
    conditions = dict(zip(every.names, ["adam", "sgd"] * 4, strict=True))
    frame = every.to_dataframe()
    return bh.Runs.from_dataframe(frame.assign(optimizer=frame["run"].map(conditions)))


@pytest.fixture(scope="module")
def uneven(runs):
    frame = runs.to_dataframe()
    return bh.Runs.from_dataframe(frame[(frame["step"] < 150) | (frame["step"] % 20 == 0)])


def fitted(runs, structure, inference, draws):
    dwell = 1 if runs.step_gap is None else 2
    return bh.fit(
        runs, 3, emission=LEVELS, transition=structure, minimum_dwell=dwell,
        inference=inference, draws=draws, restarts=4, progress=False,
    )  # fmt: skip


def moments(posterior):
    """Means, their Monte-Carlo errors and standard deviations of what varies, in one vector."""
    draws = posterior.idata.posterior
    values = [draws[name].to_numpy().reshape(*draws[name].shape[:2], -1) for name in NAMES]
    series = np.moveaxis(np.concatenate(values, -1), -1, 0)
    deviation = series.std((1, 2))
    varies = deviation > 1e-12
    size = np.array([float(az.ess(one)) if some else 1.0 for one, some in zip(series, varies, strict=True)])
    return series.mean((1, 2)), deviation / np.sqrt(size), deviation, varies


def limit(comparisons):
    return norm.isf(0.005 / comparisons)


@pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::bayeshmm.ApproximationWarning")
@pytest.mark.calibration
@pytest.mark.parametrize("structure", STRUCTURES)
def test_engines_agree(structure, runs, uneven):
    data = uneven if structure == "uneven" else runs
    exact = fitted(data, STRUCTURES[structure], bh.Gibbs(warmup=500, thin=4), 4000)
    nuts = fitted(data, STRUCTURES[structure], bh.NUTS(chains=2, warmup=200), 800)
    mean, error, deviation, varies = moments(exact)
    other, other_error, other_deviation, _ = moments(nuts)
    z = (other - mean)[varies] / np.hypot(error, other_error)[varies]
    print(structure, "nuts", np.abs(z).max(), np.median(other_deviation[varies] / deviation[varies]))
    variational = fitted(data, STRUCTURES[structure], bh.VI(guide="full-rank"), 1000)
    found = variational.diagnostics
    other, _, other_deviation, _ = moments(variational)
    size = found["effective_draws"] if found["k_hat"] <= 0.7 else np.nan
    zv = (other - mean)[varies] / np.hypot(error, deviation / np.sqrt(size))[varies]
    print(structure, "vi", found["k_hat"], size, np.abs(zv).max(), np.abs((other - mean)[varies] / deviation[varies]).max(), np.median(other_deviation[varies] / deviation[varies]))
    assert np.abs(z).max() < limit(len(z))
    if found["k_hat"] <= 0.7:
        assert np.abs(zv).max() < limit(len(zv))
