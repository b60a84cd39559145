"""What a check finds: the misfit that was built in, with its mend, and little else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import PLAIN, QUICK, changed, level_runs, moving_runs, tidy

import bayeshmm as bh
from bayeshmm.checks.checking import check
from bayeshmm.checks.measures import THRESHOLDS

MEANS = np.array([[0.0, 5.0], [3.0, 1.0]])
COVARIANCES = np.array([[[1.0, 0.6], [0.6, 0.8]], [[0.5, -0.3], [-0.3, 1.5]]])


def one(checked, measure):
    """The only finding of this measure."""
    (found,) = (finding for finding in checked.findings if finding.measure == measure)
    return found


def measures(checked):
    return [finding.measure for finding in checked.findings]


def noise_runs(noise, seed=0, lengths=(60,) * 8):
    """Runs in one phase, whose two metrics have no more than noise."""
    rng = np.random.default_rng(seed)
    frames = [tidy(f"seed-{n}", noise(rng, (rows, 2))) for n, rows in enumerate(lengths)]
    return bh.Runs.from_dataframe(pd.concat(frames))


@pytest.fixture(scope="module")
def right(posterior):
    return check(posterior)


@pytest.fixture(scope="module")
def sliced(moving):
    """Levels that slice the trends of `moving`."""
    return bh.fit(moving, 3, emission=bh.Gaussian(), **QUICK | {"draws": 100})


def test_nothing_is_found_where_the_model_is_right(right):
    assert right.findings == ()
    assert not right.table["found"].any()
    assert repr(right).startswith("Posterior of 3 phases (phase 0, phase 1, phase 2) in 8 runs, ")
    assert "nothing was found, none of " in repr(right)
    assert f"none of {len(right.table)} measures" in right._repr_html_()


def test_the_table_lists_all_that_was_measured(right, posterior):
    table = right.table
    assert list(table) == ["measure", "subject", "phase", "value", "threshold", "found"]
    assert set(table["measure"]) <= set(THRESHOLDS)
    sizes = table.groupby("measure").size()
    assert sizes["autocorrelation"] == sizes["tails"] == 3 * 4  # each phase, and all rows
    assert sizes["normality"] == 3
    assert sizes["run"] == 8
    assert sizes["chains"] == 1
    cell = table.query("measure == 'tails' and subject == 'm1' and phase == 'phase 2'")
    assert len(cell) == 1
    assert table.query("measure == 'run'")["subject"].tolist() == list(posterior.runs.names)


def test_levels_that_slice_a_trend_are_told_from_laws_of_motion(sliced):
    checked = check(sliced)
    found = one(checked, "autocorrelation")
    assert 'try emission="autoregressive"' in found.mend
    assert "are autocorrelated: 0.9" in found.what
    assert "at lag 1" in found.what
    assert found.what.count("m0") + found.what.count("; also") == 2  # the worst, and others
    text, page = repr(checked), checked._repr_html_()
    assert f"{len(checked.findings)} finding" in text
    assert f"{found.what}.\n   {found.mend}." in text
    assert "emission=&quot;autoregressive&quot;" in page
    assert page.count("<li>") == len(checked.findings)


def test_heavy_tails_want_student_t_noise():
    runs = noise_runs(lambda rng, shape: rng.standard_t(2.5, shape))
    normal, heavy = (
        check(bh.fit(runs, 1, emission=bh.Gaussian(noise=noise, run_effects=False), **QUICK))
        for noise in ("normal", "student-t")
    )
    found = one(normal, "tails")
    assert 'try noise="student-t"' in found.mend
    assert "are beyond 3 standard deviations, where 0.3% are expected" in found.what
    assert "tails" not in measures(heavy)
    assert "normality" not in measures(heavy)


def test_a_memory_that_a_law_of_motion_lacks():
    """Increments that follow the increment before, which one lag cannot tell."""

    def trend(rng, shape):
        steps = rng.standard_normal(shape)
        for t in range(1, len(steps)):
            steps[t] += 0.6 * steps[t - 1]
        return np.cumsum(steps, axis=0)

    emission = bh.Autoregressive(lags=1, **PLAIN)
    found = one(check(bh.fit(noise_runs(trend), 1, emission=emission, **QUICK)), "autocorrelation")
    assert "half_lives=(3, 10, 30)" in found.mend


def test_runs_that_differ_want_run_effects():
    def offset(rng, shape):
        return rng.standard_normal(shape) + rng.standard_normal() * np.array([2.0, 0.0])

    fitted = bh.fit(noise_runs(offset), 1, emission=bh.Gaussian(**PLAIN), **QUICK | {"draws": 200})
    found = one(check(fitted), "spread between runs")
    assert "try run_effects=True" in found.mend
    assert found.what.startswith("runs differ in m0: ")
    assert "m1" not in found.what


def test_the_run_that_is_predicted_worst(levels):
    """One run is three times as noisy as the others."""
    runs, _ = levels
    noise = np.random.default_rng(0).standard_normal((40, 2))
    frame = runs.to_dataframe()
    frame.loc[frame["run"] == "seed-5", ["m0", "m1"]] += 3.0 * noise
    fitted = bh.fit(bh.Runs.from_dataframe(frame), 2, emission=bh.Gaussian(**PLAIN), **QUICK)
    found = one(check(fitted), "run")
    assert found.what.startswith("seed-5 is predicted worst: its squared residuals are ")
    assert "run='seed-5'" in found.mend
    assert "also" not in found.what


def test_a_metric_that_stands_still_is_named_and_not_judged(levels):
    step = np.where(np.arange(40) % 8 == 7, 1.0, 0.0)
    runs = changed(levels[0], accuracy=lambda frame: np.tile(step, 8).cumsum())
    with pytest.warns(bh.MetricWarning, match="stand still"):
        fitted = bh.fit(runs, 1, **QUICK)
    checked = check(fitted)
    assert one(checked, "stands still").what.startswith("accuracy stands still in 8")
    of_residuals = checked.table.query("measure in ('autocorrelation', 'tails', 'normality')")
    assert set(of_residuals["subject"]) == {"m0", "m1"}


def test_starts_and_chains_that_disagree(posterior):
    restarts = posterior.restarts.iloc[[0, 0, 0]].reset_index(drop=True)
    restarts["start"], restarts["agreement"] = [4, 7, 9], [1.0, 0.6, 0.6]
    restarts["objective"] = restarts["objective"].max() - [0.0, 1.5, 80.0]
    diagnostics = posterior.diagnostics.copy()
    diagnostics["r_hat"], diagnostics["worst"] = 1.31, "stay of phase 1"
    checked = check(replace(posterior, restarts=restarts, diagnostics=diagnostics))
    assert measures(checked) == ["chains", "restarts"]
    chains, starts = checked.findings
    assert chains.what == "chains disagree: R-hat 1.31 at the stay of phase 1"
    assert starts.what.startswith("start 7 is 1.5 nats behind the best, with other phases: ")
    assert "they agree on 60% of rows" in starts.what
    assert "start 9" not in starts.what


def test_without_a_conjugate_fit_paths_and_chains_are_checked(posterior):
    """As of an emission of a user's own, whose distribution functions are not known."""
    table = check(replace(posterior, mode=None)).table
    assert not set(table["measure"]) & {"autocorrelation", "tails", "normality", "run"}
    assert {"chains", "mean dwell", "changes per run"} <= set(table["measure"])


def test_visits_that_are_too_regular():
    rows = np.tile([20, 40, 60], (10, 1))
    means = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0], [6.0, 6.0]])
    runs = level_runs(rows, [80] * 10, means, np.tile(np.eye(2), (4, 1, 1)), seed=1)
    fitted = bh.fit(runs, 4, emission=bh.Gaussian(**PLAIN), **QUICK | {"draws": 200})
    found = one(check(fitted), "shortest dwell")
    assert ": 200 is observed, and the model makes " in found.what
    assert "a longer minimum_dwell= is nearer" in found.mend


@pytest.mark.calibration
def test_findings_are_rare_where_the_model_is_right():
    """Twenty sets of runs from a law of motion and from levels, visits with a constant hazard.

    Each set has about 60 measures; of 30 sets none had a finding. Were the probability of any in
    a set 0.05, more than five of twenty would have one with a probability of 3e-4.
    """

    def geometric(rng, visits, mean):
        return (4 + rng.geometric(1.0 / (mean - 4), (10, visits))).cumsum(1)

    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        if seed % 2:
            runs = moving_runs(geometric(rng, 2, 25), [80] * 10, seed=seed)
            states, emission = 3, bh.Autoregressive(lags=1, **PLAIN)
        else:
            runs = level_runs(geometric(rng, 1, 30), [60] * 10, MEANS, COVARIANCES, seed)
            states, emission = 2, bh.Gaussian(**PLAIN)
        fitted = bh.fit(
            runs, states, emission=emission, minimum_dwell=5, restarts=4, progress=False
        )
        found.append(len(check(fitted).findings) > 0)
    assert sum(found) <= 5
