"""Pseudo-residuals: exact errors, all paths listed, and the law they have under the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from synthetic_runs import PLAIN, QUICK

import bayeshmm as bh
from bayeshmm import decoding
from bayeshmm.checks.residuals import (
    autocorrelation,
    normal_scores,
    predictive_tails,
    pseudo_residuals,
    quantile_distance,
    residual_score,
)
from bayeshmm.comparison.scoring import plug_in
from bayeshmm.emissions import families
from bayeshmm.encoding import Encoded
from bayeshmm.hmm import HMM
from bayeshmm.inference_data import emission_parameters
from bayeshmm.nested import take
from bayeshmm.simulation import simulate

from ..messages.enumeration import Law as Listed

TAME = bh.Hyperpriors(
    noise_shape=3.0, scale=(5.0, 50.0), shrinkage=(5.0, 0.5), run_effects=(5.0, 0.5)
)


def some_draws(posterior, index):
    """The same posterior with these draws alone."""
    old = posterior.draws
    parts = (old.law, old.precisions, old.chain, old.hyper)
    kept = take(parts, torch.tensor(index))
    return replace(posterior, draws=type(old)(*kept, old.paths[index], 1))


def last_rows(runs, rows, name="new"):
    """The last rows of the first run, as a run of its own."""
    frame = runs.subset([runs.names[0]]).to_dataframe()[-rows:]
    return bh.Runs.from_dataframe(frame.assign(run=name), metrics=runs.metrics)


@pytest.mark.parametrize("noise", ["normal", "student-t"])
def test_with_one_phase_they_are_the_standardised_errors(levels, noise):
    emission = bh.Gaussian(noise=noise, run_effects=True)
    fitted = some_draws(bh.fit(levels[0], 1, emission=emission, **QUICK), [7])
    found = pseudo_residuals(fitted)
    assert found.dims == ("run", "time", "metric")
    parameters = emission_parameters(fitted)
    mean = parameters["mean"][0] + parameters["run_effect"][0]  # (N, 1, D)
    error = (fitted.runs.values - mean) / np.sqrt(parameters["covariance"][0, 0].diagonal())
    expected = error
    if noise == "student-t":
        expected = stats.norm.ppf(stats.t.cdf(error, parameters["degrees"][0]))
    np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dwell", [1, 3])
def test_two_phases_against_the_listing_of_all_paths(level_posterior, dwell):
    """The probability of every phase before each row, by paths, times its normal law."""
    runs = last_rows(level_posterior.runs, 7)
    hmm = replace(level_posterior.hmm, minimum_dwell=dwell)
    one = replace(some_draws(level_posterior, [100]), hmm=hmm)
    parameters, chain = emission_parameters(one), one.draws.chain
    mean, covariance = parameters["mean"][0], parameters["covariance"][0]
    rows = np.stack(
        [
            stats.multivariate_normal(m, c).logpdf(runs.values[0])
            for m, c in zip(mean, covariance, strict=True)
        ],
        -1,
    )
    steps = np.log(np.broadcast_to(chain.transition[0, 0].numpy(), (6, 2, 2)))
    listed = Listed(chain.initial[0, 0].log().numpy(), steps, rows, (dwell, dwell))
    scale = np.sqrt(covariance.diagonal(axis1=1, axis2=2))
    below = stats.norm.cdf((runs.values[0][:, None] - mean) / scale)
    expected = stats.norm.ppf((listed.predicted[..., None] * below).sum(1))
    np.testing.assert_allclose(pseudo_residuals(one, runs)[0], expected, rtol=0, atol=1e-7)


def test_distribution_functions_are_averaged_over_draws(posterior):
    both, *each = (
        pseudo_residuals(some_draws(posterior, index)) for index in ([0, 399], [0], [399])
    )
    expected = stats.norm.ppf(np.mean([stats.norm.cdf(one) for one in each], axis=0))
    np.testing.assert_allclose(both, expected, rtol=0, atol=1e-8)
    assert abs(each[0] - each[1]).max() > 0.05


@pytest.mark.parametrize(
    "family",
    [
        bh.Gaussian(hyperpriors=TAME),
        bh.Autoregressive(lags=3, coupling="full", hyperpriors=TAME),
        bh.Autoregressive(lags=2, half_lives=(4.0,), noise="normal", hyperpriors=TAME),
    ],
    ids=repr,
)
def test_under_the_model_they_are_independent_standard_normals(family):
    """False alarms: 1e-3 for each of the p-values, of which there are 3 + 3 + 1."""
    simulation = simulate(HMM(3, family, bh.Dirichlet(expected_dwell=12.0), 4), [50, 30] * 30, 3,
                          metrics=3)  # fmt: skip
    runs, parameters = simulation.runs, simulation.parameters
    design = families.design(
        family,
        runs.values,
        runs.lengths.astype(np.int64),
        np.ones(3),
        np.zeros(3),
        np.ones((3, len(family.features))),
    )
    data = Encoded(design, None, torch.zeros(len(runs), dtype=torch.float64))
    z = normal_scores(predictive_tails(data, parameters.law, parameters.chain, 4), design)
    assert np.isnan(z[:, 0]).all() == family.dynamic
    each = z.reshape(-1, 3)
    each = each[~np.isnan(each).any(1)]
    assert len(each) == runs.lengths.sum() - family.dynamic * len(runs)
    assert min(stats.kstest(column, "norm").pvalue for column in each.T) > 1e-3
    limit = stats.norm.isf(0.5e-3)
    lagged = (z[:, 1:] * z[:, :-1]).reshape(-1, 3)
    lagged = lagged[~np.isnan(lagged).any(1)]
    assert (np.abs(lagged.mean(0)) * np.sqrt(len(lagged)) < limit).all()
    assert quantile_distance(z).max() < 4 / np.sqrt(len(each))


def test_missing_values_and_first_rows_have_none(gappy):
    fitted = bh.fit(gappy, 2, **QUICK)
    found = pseudo_residuals(fitted).to_numpy()
    seen = ~np.isnan(gappy.values)
    first = seen & (seen.cumsum(1) == 1)
    np.testing.assert_array_equal(np.isnan(found), ~seen | first)
    assert np.abs(found[~np.isnan(found)]).max() < 6


def test_metrics_are_in_the_order_of_the_user(short):
    one, other = (
        pseudo_residuals(bh.fit(short, 1, metrics=names, **QUICK))
        for names in (["m0", "m1"], ["m1", "m0"])
    )
    assert list(other["metric"]) == ["m1", "m0"]
    np.testing.assert_allclose(one, other.sel(metric=["m0", "m1"]), atol=1e-6)


@pytest.mark.parametrize("noise", ["normal", "student-t"])
def test_far_values_have_large_and_finite_residuals_on_both_sides(levels, noise):
    emission = bh.Gaussian(noise=noise, run_effects=False)
    fitted = some_draws(bh.fit(levels[0], 1, emission=emission, **QUICK), [0])
    parameters = emission_parameters(fitted)
    mean, sd = parameters["mean"][0, 0], np.sqrt(parameters["covariance"][0, 0].diagonal())
    far = np.array([-1e4, -30.0, -8.0, 8.0, 30.0, 1e4])
    frame = last_rows(levels[0], 6).to_dataframe()
    frame[list(levels[0].metrics)] = mean + far[:, None] * sd
    found = pseudo_residuals(fitted, bh.Runs.from_dataframe(frame))[0].to_numpy()
    np.testing.assert_allclose(found, -found[::-1], rtol=1e-9)
    assert (np.diff(found, axis=0) > 0).all()
    assert np.abs(found).max() < 37.1
    if noise == "normal":
        np.testing.assert_allclose(found[1:-1], far[1:-1, None].repeat(2, 1), rtol=1e-9)


def test_what_comes_later_changes_no_residual(posterior, unseen):
    whole = pseudo_residuals(posterior, unseen)
    frame = unseen.to_dataframe()
    early = bh.Runs.from_dataframe(frame[frame["step"] < 300])
    np.testing.assert_allclose(pseudo_residuals(posterior, early), whole[:, :30], atol=1e-10)
    assert np.abs(whole).max() < 7


def test_an_emission_of_a_users_own_is_refused(posterior, monkeypatch):
    monkeypatch.setattr(decoding, "parameters", lambda *_, **__: (None, {}, None))
    with pytest.raises(ValueError, match="residuals need an emission of this package"):
        pseudo_residuals(posterior)


class TestMeasures:
    def test_autocorrelation_is_pooled_about_the_means_of_runs(self):
        rng = np.random.default_rng(0)
        z = rng.standard_normal((40, 100, 2))
        for t in range(1, 100):
            z[:, t, 1] = 0.6 * z[:, t - 1, 1] + 0.8 * z[:, t, 1]
        z += 5.0 * rng.standard_normal((40, 1, 1))
        found = autocorrelation(z)
        assert abs(found[0]) < 0.06  # four standard errors
        assert found[1] == pytest.approx(0.6, abs=0.06)
        assert autocorrelation(z, lag=2)[1] == pytest.approx(0.36, abs=0.09)

    def test_both_rows_of_a_pair_must_count(self):
        z = np.array([[[1.0], [1.0], [-2.0], [np.nan], [1.0], [-1.0]]])  # of mean 0
        assert autocorrelation(z)[0] == pytest.approx(-2 / np.sqrt(6 * 3))
        rows = np.array([[True, True, False, True, True, True]])
        assert autocorrelation(z, rows=rows)[0] == 0.0
        assert autocorrelation(z, lag=3, rows=rows)[0] == pytest.approx(1.0)
        assert autocorrelation(z, rows=rows & False)[0] == 0.0

    def test_quantile_distance_of_a_shift_and_of_a_scale(self):
        z = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)[:, None]
        z = np.concatenate([z, z + 0.3, 2.0 * z, np.full_like(z, np.nan)], -1)
        expected = [0, 0.3, np.sqrt(2 / np.pi), 0]
        np.testing.assert_allclose(quantile_distance(z), expected, atol=2e-3)


class TestScore:
    def score(self, mode, data):
        chain = mode.parameters.chain.mean
        return residual_score(data, plug_in(mode), chain, mode.prior.minimum_dwell)

    def test_levels_slice_a_trend_and_laws_of_motion_do_not(self, moving, posterior):
        sliced = bh.fit(moving, 3, emission=bh.Gaussian(), **QUICK)
        found = self.score(sliced.variational, sliced.encoding.encode(moving))
        right = self.score(posterior.variational, posterior.encoding.encode(moving))
        assert found.autocorrelation > 0.8
        assert abs(right.autocorrelation) < 0.25
        assert right.normality < 0.1

    def test_it_is_that_of_one_draw_with_the_same_values(self, levels):
        fitted = bh.fit(levels[0], 2, emission=bh.Gaussian(**PLAIN), **QUICK)
        mode = fitted.variational
        law = plug_in(mode)
        drawn = replace(
            some_draws(fitted, [0]).draws,
            law=law._replace(coefficients=law.coefficients[None], precision=law.precision[None],
                             log_variance=law.log_variance[None]),
            chain=take(mode.parameters.chain.mean, None),
        )  # fmt: skip
        z = pseudo_residuals(replace(fitted, draws=drawn)).to_numpy()
        found = self.score(mode, fitted.encoding.encode(fitted.runs))
        assert found.normality == pytest.approx(quantile_distance(z).mean())
        assert abs(found.autocorrelation) == pytest.approx(np.abs(autocorrelation(z)).max())
