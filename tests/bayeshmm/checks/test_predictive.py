"""Posterior predictive checks: paths by hand, replicates by their law, misfits that are known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from synthetic_runs import PLAIN, QUICK, level_runs, tidy

import bayeshmm as bh
from bayeshmm.checks.predictive import (
    UNITS,
    path_statistics,
    predictive_checks,
    replicated_paths,
)
from bayeshmm.transitions import Schedule

SETTINGS = QUICK | {"draws": 200}


@pytest.fixture(scope="module")
def offsets():
    """Eight runs in one phase, whose levels differ by three standard deviations of the noise."""
    rng = np.random.default_rng(0)
    frames = [
        tidy(f"seed-{n}", rng.standard_normal((40, 2)) + offset)
        for n, offset in enumerate(3.0 * rng.standard_normal((8, 1)) * [[1.0, 0.0]])
    ]
    return bh.Runs.from_dataframe(pd.concat(frames))


def test_path_statistics_by_hand():
    steps = np.array([[0, 10, 30, 70, 80, 100], [5, 15, 25, 35, -1, -1]])
    paths = np.array(
        [
            [[0, 0, 1, 1, 0, 0], [0, 0, 1, 1, -1, -1]],
            [[0, 1, 1, 1, 1, 1], [1, 1, 1, 0, -1, -1]],
            [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, -1, -1]],
        ]
    )
    runs = SimpleNamespace(steps=steps)
    found = path_statistics(SimpleNamespace(runs=runs, state_names=("a", "b"), states=2), paths)
    nan = np.nan
    expected = {
        ("mean dwell", "a"): [25, 10, nan],  # of 30 and 20; visits that are cut short left out
        ("mean dwell", "b"): [50, 30, nan],
        ("shortest dwell", "a"): [20, 10, nan],
        ("shortest dwell", "b"): [50, 30, nan],
        ("changes per run", ""): [1.5, 1, 0],
        ("most common route", ""): [0.5, 0.5, 1],
        ("runs that return", ""): [0.5, 0, 0],
        ("before", "a before b"): [1, 0.5, nan],
    }
    assert list(found) == list(expected)
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values, err_msg=str(key))


def test_replicates_follow_the_chain_of_their_draw(posterior):
    """False alarms: 1e-3 for the first states and for each of three phases."""
    paths = replicated_paths(posterior, torch.full((300,), 7))
    lengths = posterior.runs.lengths
    np.testing.assert_array_equal((paths >= 0).sum(2), np.broadcast_to(lengths, (300, 8)))
    chain, dwell = type(posterior.draws.chain)(*(p[7] for p in posterior.draws.chain)), 5
    flat = torch.from_numpy(paths).flatten(0, 1)
    counts = Schedule().path_counts(flat, chain.log, dwell, torch.Generator())
    pairs = [(counts.initial[0], chain.initial[0])]
    pairs += list(zip(counts.transition[0], chain.transition[0], strict=True))
    for count, law in pairs:
        count, law = count.numpy(), law.numpy()
        usual = law * count.sum() > 5  # cells that the law of the sum of squares holds for
        table = np.array([*count[usual], count[~usual].sum()])
        expected = np.array([*law[usual], law[~usual].sum()]) * count.sum()
        some = expected > 0
        square = ((table - expected)[some] ** 2 / np.maximum(expected[some], 1)).sum()
        assert stats.chi2.sf(square, max(some.sum() - 1, 1)) > 1e-3
    changes = [np.flatnonzero(np.diff(one[one >= 0])) + 1 for one in paths.reshape(-1, 80)]
    assert min(np.diff(rows, prepend=0).min() for rows in changes if len(rows)) == dwell


def test_the_table(posterior):
    table = predictive_checks(posterior, level=0.8)
    assert list(table) == [
        *("observed", "observed_lower", "observed_upper"),
        *("replicated", "replicated_lower", "replicated_upper", "p"),
    ]
    assert set(table.index.get_level_values("statistic")) == set(UNITS) == set(table.attrs["units"])
    known = table.dropna()
    for what in ("observed", "replicated"):
        assert (known[f"{what}_lower"] <= known[what]).all()
        assert (known[what] <= known[f"{what}_upper"]).all()
    assert known["p"].between(0, 1).all()
    spread = table.loc["spread between runs"]
    assert list(spread.index) == list(posterior.metrics)
    assert (spread["p"] > 0.005).all()
    assert table.loc[("mean dwell", "phase 2")].isna().all()  # no visit ends before its run
    wider = predictive_checks(posterior, level=0.95)
    assert (wider["replicated_upper"] >= table["replicated_upper"] - 1e-12).loc[known.index].all()


def test_a_level_that_is_none_is_an_error(posterior):
    with pytest.raises(ValueError, match="level=90 must lie between 0 and 1"):
        predictive_checks(posterior, level=90)


def test_dwell_times_that_are_always_the_same_are_no_constant_hazard():
    """Every visit lasts twenty rows: no run that the model makes is so regular."""
    rows = np.tile([20, 40, 60], (10, 1))
    means = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0], [6.0, 6.0]])
    runs = level_runs(rows, [80] * 10, means, np.tile(np.eye(2), (4, 1, 1)), seed=1)
    table = predictive_checks(bh.fit(runs, 4, emission=bh.Gaussian(**PLAIN), **SETTINGS))
    shortest = table.loc["shortest dwell"].dropna()
    assert len(shortest) == 3
    assert (shortest["observed"] == 200).all()
    assert (shortest["replicated_upper"] < 200).all()
    assert (shortest["p"] < 0.02).all()
    assert table.loc[("mean dwell", "phase 0"), "p"] > 0.05


class TestSpreadBetweenRuns:
    def test_without_run_effects_it_is_that_of_means_of_noise(self, levels):
        """One normal phase: replicated means of T rows have variance sigma^2 / T."""
        runs = levels[0]
        fitted = bh.fit(runs, 1, emission=bh.Gaussian(**PLAIN), **SETTINGS)
        table = predictive_checks(fitted).loc["spread between runs"]
        standard = (runs.values - np.nanmean(runs.values, (0, 1))) / np.nanstd(runs.values, (0, 1))
        observed = standard.mean(1).std(0, ddof=1)
        np.testing.assert_allclose(table["observed"], observed, rtol=1e-9)
        # of the spread of eight means, by its chi square law
        median = np.sqrt(stats.chi2.median(7) / 7 / 40)
        np.testing.assert_allclose(table["replicated"], median, rtol=0.1)

    @pytest.mark.parametrize("run_effects", [False, True])
    def test_runs_that_differ_want_run_effects(self, offsets, run_effects):
        emission = bh.Gaussian(noise="normal", run_effects=run_effects)
        table = predictive_checks(bh.fit(offsets, 1, emission=emission, **SETTINGS))
        p = table.loc[("spread between runs", "m0"), "p"]
        assert p > 0.02 if run_effects else p == 0.0
        assert table.loc[("spread between runs", "m1"), "p"] > 0.02
