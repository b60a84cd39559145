"""`HMM` is a Pyro model: its sites, its density, and inference with Pyro's own engines."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation, AutoNormal, init_to_median
from synthetic_runs import QUICK, level_runs

import bayeshmm as bh

pytestmark = pytest.mark.usefixtures("pyro_scope")


@pytest.fixture(scope="module")
def tiny():
    """Two runs of 24 rows, two metrics, two levels."""
    means, covariances = [[0.0, 3.0], [4.0, 0.0]], [np.eye(2), np.eye(2)]
    return level_runs([[11], [14]], [24, 22], means, covariances, seed=0)


def traced(model, runs, **settings):
    trace = poutine.trace(model).get_trace(runs, **settings)
    trace.compute_log_prob()
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not poutine.util.site_is_subsample(site)
        and not site["infer"].get("_deterministic")
    }


REGRESSION = ["shrinkage", "scale", "variance", "coefficient"]
JOINTLY = [*REGRESSION, "contrast"]
ROWS = ["degrees", "run_effect", "log_marginal"]
CHAIN = ["initial", "exit_mean", "exit_concentration", "jump_concentration", "exit", "jump"]


class TestSites:
    @pytest.mark.parametrize(
        ("hmm", "groups", "regressors", "entry"),
        [
            (bh.HMM(3, "gaussian"), 1 + 1, 1, False),
            (bh.HMM(3, bh.Gaussian(covariance="diagonal")), 1 + 1, 1, False),
            (bh.HMM(3, bh.Autoregressive(lags=2, half_lives=(5.0,))), 4 + 1, 4, True),
            (bh.HMM(3, bh.Autoregressive(lags=2, coupling="full")), 5 + 1, 5, True),
        ],
    )
    def test_names_and_shapes(self, tiny, hmm, groups, regressors, entry):
        sites = traced(hmm, tiny)
        shapes = {
            **{"initial": (3,), "exit": (3, 2), "jump": (3, 2)},
            **dict.fromkeys(("exit_mean", "exit_concentration", "jump_concentration"), ()),
            **{"scale": (2,), "variance": (3, 2), "coefficient": (3, 2, regressors)},
            **{"degrees": (), "run_effect": (2, 3, 2)},
        }
        joint = hmm.family.covariance == "full"
        if joint:
            shapes["contrast"] = (3, 1)
        shapes["shrinkage"] = (groups,)
        for name, shape in shapes.items():
            assert tuple(sites[name]["value"].shape) == shape
        regression = JOINTLY if joint else REGRESSION
        prefixed = [f"entry_{name}" for name in regression] if entry else []
        assert set(sites) == {*CHAIN, *regression, *ROWS, *prefixed}

    def test_normal_noise_and_alike_runs_need_fewer_sites(self, tiny):
        sites = traced(bh.HMM(3, bh.Gaussian(noise="normal", run_effects=False)), tiny)
        assert set(sites) == {*CHAIN, *JOINTLY, "log_marginal"}

    @pytest.mark.parametrize("states", [1, 2])
    def test_few_states_need_fewer_sites(self, tiny, states):
        sites = set(traced(bh.HMM(states, "gaussian"), tiny))
        chain = [name for name in CHAIN if states == 2 and not name.startswith("jump")]
        assert sites == {*chain, *JOINTLY, *ROWS}

    @pytest.mark.parametrize("states", [1, 2, 3])
    @pytest.mark.parametrize("emission", ["gaussian", "autoregressive"])
    def test_densities_are_finite_and_in_double_precision(self, tiny, states, emission):
        for _ in range(5):
            sites = traced(bh.HMM(states, emission), tiny)
            for site in sites.values():
                assert torch.isfinite(site["log_prob"]).all()
                assert site["log_prob"].dtype == torch.float64
            assert sites["log_marginal"]["log_prob"].shape == (2,)

    def test_a_subsample_of_the_runs_is_scaled_to_all(self, tiny):
        whole, part = (traced(bh.HMM(2), tiny, subsample_size=size) for size in (None, 1))
        assert whole["log_marginal"]["scale"] == 1
        assert part["log_marginal"]["scale"] == 2
        assert part["log_marginal"]["log_prob"].shape == (1,)

    def test_a_prior_of_the_dwell(self, tiny):
        """The mean exit probability is Beta(2, 2 (M - d)): a longer dwell, a smaller exit."""
        exits = []
        for steps in (50.0, 2000.0):
            hmm = bh.HMM(2, "gaussian", bh.Dirichlet(expected_dwell=steps), minimum_dwell=3)
            law = traced(hmm, tiny)["exit_mean"]["fn"]
            assert isinstance(law, dist.Beta)
            exits.append(float(law.mean))
        assert exits == pytest.approx([1 / (1 + 5 - 3), 1 / (1 + 200 - 3)])


def test_the_model_has_the_density_that_the_library_computes(tiny):
    """Sites held at one posterior draw: the factor is `log_lik` of that draw, run by run."""
    posterior = bh.fit(tiny, 3, emission="gaussian", **QUICK)
    law, chain = posterior.draws.law, posterior.draws.chain
    matrix = chain.transition[7, 0]
    off_diagonal = matrix[~torch.eye(3, dtype=torch.bool)].reshape(3, 2)
    leave = off_diagonal.sum(-1, keepdim=True)
    held = {
        "initial": chain.initial[7, 0],
        "exit": torch.cat([leave, 1 - leave], -1),
        "jump": off_diagonal / leave,
        "variance": 1 / law.precision[7, 0],
        "coefficient": law.coefficients[7, 0, ..., :1],
        "contrast": law.coefficients[7, 0, :, 1, 1:],
        "degrees": law.tail.degrees[7, 0],
        "run_effect": law.effects.mean[7],
    }
    hmm = bh.HMM(3, "gaussian", minimum_dwell=4)
    site = traced(poutine.condition(hmm, data=held), tiny)["log_marginal"]
    expected = posterior.idata.log_likelihood["log_lik"].to_numpy().reshape(-1, 2)[7]
    np.testing.assert_allclose(site["log_prob"], expected, rtol=1e-9)


class TestInference:
    def test_the_elbo_rises(self, tiny):
        hmm = bh.HMM(2, "gaussian", minimum_dwell=3)
        svi = SVI(hmm, AutoNormal(hmm), pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        elbo = [-svi.step(tiny) for _ in range(150)]
        assert np.isfinite(elbo).all()
        early, late = elbo[:20], elbo[-20:]
        assert np.mean(late) > np.mean(early) + 5 * np.std(late)
        assert len(pyro.get_param_store()) > 0

    def test_a_subsample_will_do(self, tiny):
        hmm = bh.HMM(2, minimum_dwell=3)
        svi = SVI(hmm, AutoNormal(hmm), pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        assert np.isfinite([svi.step(tiny, subsample_size=1) for _ in range(3)]).all()

    def test_particles_may_come_as_one_batch(self, tiny):
        hmm = bh.HMM(2, "gaussian", minimum_dwell=3)
        elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
        svi = SVI(hmm, AutoNormal(hmm), pyro.optim.Adam({"lr": 0.05}), elbo)
        assert np.isfinite([svi.step(tiny) for _ in range(3)]).all()

    @pytest.mark.parametrize("emission", ["gaussian", bh.Autoregressive(lags=1)])
    def test_the_hessian_is_that_of_the_density(self, tiny, emission):
        """As `AutoLaplaceApproximation` takes it, against differences of gradients."""
        hmm = bh.HMM(2, emission, minimum_dwell=3)
        guide = AutoLaplaceApproximation(hmm, init_loc_fn=init_to_median)
        loss = Trace_ELBO().differentiable_loss
        loss(hmm, guide, tiny)
        location = guide.loc
        value = loss(hmm, guide, tiny)
        hessian = pyro.ops.hessian.hessian(value, location)
        step = 1e-5
        for place in range(0, len(location), 3):
            gradients = []
            for sign in (1.0, -1.0):
                with torch.no_grad():
                    location[place] += sign * step
                gradients.append(torch.autograd.grad(loss(hmm, guide, tiny), location)[0])
                with torch.no_grad():
                    location[place] -= sign * step
            slope = (gradients[0] - gradients[1]) / (2 * step)
            torch.testing.assert_close(hessian[place], slope, rtol=1e-5, atol=1e-4)

    def test_parameters_stay_in_their_scope(self, tiny):
        hmm = bh.HMM(2, "gaussian")
        pyro.param("mine", torch.ones(()))
        with pyro.get_param_store().scope():
            SVI(hmm, AutoNormal(hmm), pyro.optim.Adam({}), Trace_ELBO()).step(tiny)
            assert len(pyro.get_param_store()) > 1
        assert list(pyro.get_param_store()) == ["mine"]

    def test_global_settings_are_left_alone(self, tiny):
        threads, kind = torch.get_num_threads(), torch.get_default_dtype()
        pyro.set_rng_seed(3)
        state = torch.get_rng_state()
        bh.HMM(2).encode(tiny)
        bh.HMM(2).prior(tiny)
        assert torch.equal(torch.get_rng_state(), state)
        traced(bh.HMM(2), tiny)
        assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, kind)


class TestDescription:
    def test_equal_settings_make_equal_models(self):
        assert bh.HMM(2) == bh.HMM(2, bh.Autoregressive())
        assert hash(bh.HMM(2)) == hash(bh.HMM(2, bh.Autoregressive()))
        assert bh.HMM(2) != bh.HMM(2, minimum_dwell=3)
        assert bh.HMM(2, "gaussian").family == bh.Gaussian()

    def test_half_lives_may_be_a_list(self):
        assert bh.Autoregressive(half_lives=[3, 10]) == bh.Autoregressive(half_lives=(3.0, 10.0))
        assert hash(bh.HMM(2, bh.Autoregressive(half_lives=[3, 10]))) is not None

    def test_bad_input_is_named_where_the_model_is_called(self, tiny):
        with pytest.raises(ValueError, match=r"states=30 .*24 rows"):
            bh.HMM(30)(tiny)
