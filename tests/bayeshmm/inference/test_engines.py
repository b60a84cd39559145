"""Variational and NUTS fits as users ask for them."""

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from synthetic_runs import PLAIN, change_rows, level_runs, tidy

import bayeshmm as bh
from bayeshmm.diagnostics import warn_of_draws
from bayeshmm.inference.guides import full_rank
from bayeshmm.inference.search import search
from bayeshmm.inference.targets import ConjugateTarget

FITS = {"restarts": 2, "draws": 200, "progress": False}
SHARP = bh.Hyperpriors(shrinkage=(20.0, 20.0), scale=(20.0, 20.0), noise_shape=5.0)
"""Hyper-priors that leave no heavy tails, so that only the guide decides how well it fits."""


@pytest.fixture(scope="module")
def levels():
    """Six runs of 30 rows, two levels."""
    means, covariances = [[0.0], [4.0]], [np.eye(1), np.eye(1)]
    return level_runs(change_rows(6, 0, [(10, 20)]), [30] * 6, means, covariances, seed=1)


@pytest.fixture(scope="module")
def smooth():
    """Three smooth runs, whose last few increments are nearly the same: collinear regressors."""
    rng = np.random.default_rng(0)
    frames = []
    for n in range(3):
        speed, level = np.zeros((60, 2)), np.zeros((60, 2))
        for t in range(1, 60):
            speed[t] = 0.97 * speed[t - 1] + 0.2 * rng.standard_normal(2)
            level[t] = level[t - 1] + speed[t]
        frames.append(tidy(f"seed-{n}", level))
    return bh.Runs.from_dataframe(pd.concat(frames))


COLLINEAR = bh.Autoregressive(lags=4, covariance="diagonal", hyperpriors=SHARP, **PLAIN)


class TestKHat:
    def test_it_warns_of_a_mean_field_guide_and_names_the_remedy(self, smooth):
        with pytest.warns(bh.ApproximationWarning, match=r'k-hat.*VI\(guide="full-rank"\)') as told:
            posterior = bh.fit(
                smooth, 1, emission=COLLINEAR, inference=bh.VI(guide="mean-field"), **FITS
            )
        assert [warning.filename for warning in told] == [__file__]
        assert posterior.diagnostics["k_hat"] > 0.7

    def test_the_remedy_helps(self, smooth):
        """No warning: pytest makes an error of every one."""
        posterior = bh.fit(smooth, 1, emission=COLLINEAR, inference="vi", **FITS)
        found = posterior.diagnostics
        assert found["k_hat"] < 0.6
        assert found["converged"]
        assert found["effective_draws"] > 150
        assert found["elbo"] == pytest.approx(posterior.variational.bound, abs=0.3)
        assert posterior.inference == "vi"
        assert len(posterior.losses) == found["steps"]
        assert -posterior.losses[-1] == pytest.approx(
            found["elbo"] + float(posterior.encoding.encode(smooth).log_jacobian.sum())
            - float(posterior.variational.entry.bound),
            abs=1.0,
        )  # fmt: skip

    def test_an_exact_engine_is_the_remedy_of_a_full_guide(self):
        with pytest.warns(bh.ApproximationWarning, match=r'k-hat 0.90.*"gibbs".*"nuts"'):
            warn_of_draws(pd.Series({"r_hat": np.nan, "k_hat": 0.9}), bh.VI())

    def test_a_good_one_is_passed_over(self):
        warn_of_draws(pd.Series({"r_hat": np.nan, "k_hat": 0.7, "converged": True}), bh.VI())


def test_divergences_are_told():
    with pytest.warns(bh.ConvergenceWarning, match=r"3 transitions.*target_accept="):
        warn_of_draws(pd.Series({"r_hat": 1.0, "divergences": 3}, dtype=object), bh.NUTS())
    warn_of_draws(pd.Series({"r_hat": 1.0, "divergences": 0}), bh.NUTS())


@pytest.mark.filterwarnings("ignore::bayeshmm.ApproximationWarning")
def test_steps_that_run_out_are_told(levels):
    with pytest.warns(bh.ConvergenceWarning, match=r"after 10 steps.*VI\(steps=.*convergence"):
        posterior = bh.fit(
            levels, 1, emission=bh.Gaussian(**PLAIN), inference=bh.VI(steps=10), **FITS
        )
    assert not posterior.diagnostics["converged"]


@pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::bayeshmm.ApproximationWarning")
class TestReproduction:
    @pytest.fixture(autouse=True)
    def _hasty(self, monkeypatch):
        monkeypatch.setattr("bayeshmm.inference.engines.PILOT", bh.VI(steps=30))

    @pytest.mark.parametrize("inference", [bh.VI(steps=20), bh.NUTS(chains=2, warmup=5)])
    def test_same_seed_same_draws_and_nothing_global(self, levels, inference):
        pyro.set_rng_seed(7)
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        settings = {"emission": bh.Gaussian(**PLAIN), "inference": inference} | FITS
        settings |= {"draws": 8, "restarts": 1}
        with pyro.get_param_store().scope():
            one, same, other = (bh.fit(levels, 1, **settings, seed=seed) for seed in (0, 0, 1))
            assert len(pyro.get_param_store()) == 0
        for name in ("mean", "covariance", "path"):
            values = [fit.idata.posterior[name].to_numpy() for fit in (one, same, other)]
            assert np.array_equal(values[0], values[1])
            assert name == "path" or not np.array_equal(values[0], values[2])
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == threads
        assert torch.get_default_dtype() == torch.float32

    def test_chains_are_told(self, levels):
        settings = bh.NUTS(chains=3, warmup=10)
        posterior = bh.fit(
            levels, 1, emission=bh.Gaussian(**PLAIN), inference=settings, **(FITS | {"draws": 20})
        )
        assert posterior.diagnostics["chains"] == 3
        assert len(posterior.paths) == 21
        assert posterior.idata.posterior.sizes["chain"] == 3
        assert np.isfinite(posterior.diagnostics["r_hat"])
        assert posterior.inference == "nuts"


@pytest.fixture(scope="module")
def target(levels):
    hmm = bh.HMM(2, bh.Gaussian(noise="normal"), minimum_dwell=3)
    _, data = hmm.encode(levels)
    fit, _ = search(hmm.prior(levels), data, 2, seed=0)
    return ConjugateTarget(fit, data, seed=0)


class TestStart:
    def test_it_is_the_conjugate_posterior(self, target):
        """Means and deviations of log variances, which the conjugate law knows."""
        start = target.start("mean-field")
        law = target.fit.parameters.regression
        places = target.space.places("variance")
        expected = law.rate.log() - torch.digamma(law.shape)
        torch.testing.assert_close(start.location[places], expected[0], atol=0.05, rtol=0)
        deviation = torch.polygamma(1, law.shape).sqrt()
        torch.testing.assert_close(
            start.roots[0].flatten()[places], deviation[0], atol=0, rtol=0.15
        )

    def test_guides_are_in_blocks(self, target):
        size = target.space.size
        assert [len(places) for places in target.start(None).blocks] == [1]
        assert torch.equal(target.start("full-rank").blocks[0], full_rank(size)[0])
        blocks = target.start("block").blocks
        assert sorted(torch.cat([places.flatten() for places in blocks]).tolist()) == list(
            range(size)
        )
        assert [tuple(places.shape) for places in blocks[:2]] == [(2, 2), (12, 1)]
        state = blocks[0][0]
        assert set(state.tolist()) == {
            int(target.space.places("variance")[0, 0]),
            int(target.space.places("coefficient")[0, 0, 0]),
        }

    def test_many_dimensions_are_taken_in_blocks(self, target, monkeypatch):
        monkeypatch.setattr("bayeshmm.inference.targets.FULL_RANK", 5)
        assert len(target.start(None).blocks) == 3


@pytest.fixture(scope="module")
def many():
    """A hundred runs, and twenty more that are scored."""
    means, covariances = [[0.0, 0.0], [2.0, 1.0]], [np.eye(2), 0.5 * np.eye(2)]
    rows = change_rows(120, 0, [(8, 16)])
    runs = level_runs(rows, [24] * 120, means, covariances, seed=1)
    names = list(runs.names)
    return runs.subset(names[:100]), runs.subset(names[100:])


class TestMiniBatches:
    """Phases told by few runs a step are those told by all."""

    @pytest.mark.filterwarnings("ignore::bayeshmm.ApproximationWarning")
    @pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
    def test_they_reach_the_answer_of_all_runs(self, many):
        seen, unseen = many
        family = bh.Gaussian(**PLAIN)
        densities = []
        for size in (10, None):
            settings = bh.VI(batch_size=size, guide="block", steps=150)
            posterior = bh.fit(
                seen, 2, emission=family, inference=settings, minimum_dwell=3, **FITS
            )
            densities.append(float(posterior.log_density(unseen).sum()) / (20 * 24))
            level = posterior.idata.posterior["mean"].mean(("chain", "draw")).to_numpy()
            np.testing.assert_allclose(level, [[0, 0], [2, 1]], atol=0.15)
        assert densities[0] == pytest.approx(densities[1], abs=0.01)

    @pytest.mark.filterwarnings("ignore::bayeshmm.ApproximationWarning")
    @pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")
    def test_run_effects_of_all_runs_are_drawn(self, many):
        seen, _ = many
        settings = bh.VI(batch_size=10, steps=30)
        family = bh.Gaussian(noise="normal")
        posterior = bh.fit(seen, 2, emission=family, inference=settings, minimum_dwell=3, **FITS)
        effects = posterior.idata.posterior["run_effect"]
        assert effects.sizes["run"] == 100
        assert (effects.std(("chain", "draw")) > 0).all()
