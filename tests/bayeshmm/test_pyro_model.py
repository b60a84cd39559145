"""`HMM` under Pyro's own tools: its picture, its predictions, and every effect handler."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.infer.inspect import get_model_relations
from pyro.infer.reparam import LocScaleReparam
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, track_provenance
from synthetic_runs import PLAIN, changed, level_runs

import bayeshmm as bh

RUNS, ROWS = 3, 24


pytestmark = pytest.mark.usefixtures("pyro_scope")


class Levels:
    """Levels with unit noise; where they start from is a parameter of Pyro."""

    def prior(self, states, metrics):
        centre = pyro.param("centre", torch.zeros(len(metrics), dtype=torch.float64))
        law = dist.Normal(centre.expand(states, -1), 5.0)
        return pyro.sample("level", law.to_event(2))

    def log_likelihood(self, parameters, values):
        away = values.nan_to_num()[:, :, None, :] - parameters[..., None, :, :]
        rows = dist.Normal(0.0, 1.0).log_prob(away)
        return torch.where(values.isnan()[:, :, None, :], 0.0, rows).sum(-1)


@pytest.fixture(scope="module")
def runs():
    """Three runs through two levels of two metrics, one value in ten missing."""
    means, covariances = [[0.0, 3.0], [4.0, 0.0]], [np.eye(2), np.eye(2)]
    every = level_runs([[11], [14], [9]], [ROWS, ROWS - 2, ROWS], means, covariances, seed=0)
    missing = np.random.default_rng(1).random(len(every.to_dataframe())) < 0.1
    return changed(every, m0=lambda rows: rows["m0"].mask(missing))


MODELS = {
    "levels": bh.HMM(2, "gaussian", minimum_dwell=3),
    "own past": bh.HMM(3, bh.Autoregressive(lags=2), minimum_dwell=3),
    "plain": bh.HMM(3, bh.Autoregressive(lags=1, covariance="diagonal", **PLAIN), minimum_dwell=1),
    "one state": bh.HMM(1, bh.Autoregressive(lags=1, **PLAIN)),
    "a user's own": bh.HMM(3, Levels(), minimum_dwell=3),
}
CHAIN = {
    "initial": [],
    "exit_mean": [],
    "exit_concentration": [],
    "exit": ["exit_mean", "exit_concentration"],
    "transition": ["exit"],
}
JUMPS = {
    "jump_concentration": [],
    "jump": ["jump_concentration"],
    "transition": ["exit", "jump"],
}
REGRESSIONS = {
    "shrinkage": [],
    "scale": [],
    "variance": ["scale"],
    "coefficient": ["shrinkage", "variance"],
}
ENTRY = ["entry_variance", "entry_coefficient"]


@pytest.fixture(params=MODELS, ids=[name.replace(" ", "-") for name in MODELS])
def hmm(request):
    return MODELS[request.param]


def drawn(trace):
    """Sites with a density, by name: not the subsample of the plate, nor what is computed."""
    trace.compute_log_prob()
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not poutine.util.site_is_subsample(site)
        and not site["infer"].get("_deterministic")
    }


def traced(model, runs):
    return drawn(poutine.trace(model).get_trace(runs))


def values(model, runs):
    """Values of the sites of one run of the model, the factor left out."""
    return {name: site["value"] for name, site in traced(model, runs).items() if "log_" not in name}


class TestRelations:
    @pytest.mark.parametrize(
        ("name", "relations", "rows"),
        [
            (
                "levels",
                {
                    **CHAIN,
                    **REGRESSIONS,
                    "coefficient": ["shrinkage", "scale", "variance"],
                    "contrast": ["shrinkage", "scale", "variance"],
                    "run_effect": ["shrinkage", "variance"],
                    "degrees": [],
                },
                ["initial", "exit", "variance", "coefficient", "contrast", "run_effect", "degrees"],
            ),
            (
                "plain",
                {
                    **CHAIN,
                    **JUMPS,
                    **REGRESSIONS,
                    **{
                        f"entry_{name}": [f"entry_{parent}" for parent in parents]
                        for name, parents in REGRESSIONS.items()
                    },
                },
                ["initial", "exit", "jump", "variance", "coefficient", *ENTRY],
            ),
            ("a user's own", {**CHAIN, **JUMPS, "level": []}, ["initial", "exit", "jump", "level"]),
        ],
    )
    def test_every_site_knows_what_it_depends_on(self, runs, name, relations, rows):
        found = get_model_relations(MODELS[name], model_args=(runs,))
        upstream = {name: set(parents) for name, parents in found["sample_sample"].items()}
        expected = {name: set(parents) for name, parents in relations.items()}
        assert upstream == {**expected, "log_marginal": set(rows)}
        assert found["plate_sample"] == {"runs": ["log_marginal"]}

    @pytest.mark.parametrize(
        ("transition", "parents"),
        [
            (bh.LeftToRight(), {"exit", "jump"}),
            (bh.StickyHDP(3), {"exit", "jump_log_ratio"}),
            (bh.Grouped("arm"), {"exit", "jump"}),
        ],
    )
    def test_so_do_other_structures_of_transitions(self, runs, transition, parents):
        frame = runs.to_dataframe()
        arms = bh.Runs.from_dataframe(frame.assign(arm=frame["run"].eq("seed-0").map(str)))
        hmm = bh.HMM(3, bh.Gaussian(**PLAIN), transition, minimum_dwell=3)
        found = get_model_relations(hmm, model_args=(arms,))["sample_sample"]
        assert set(found["transition"]) == parents
        assert parents <= set(found["log_marginal"])

    def test_what_is_followed_changes_no_density(self, hmm, runs):
        """The factor, computed on values that remember which sites they are from."""
        held = values(hmm, runs)
        marked = {name: track_provenance(x, frozenset({name})) for name, x in held.items()}
        plain, followed = (
            poutine.trace(poutine.condition(hmm, data)).get_trace(runs).nodes["log_marginal"]
            for data in (held, marked)
        )
        factor = followed["fn"].log_factor
        assert isinstance(factor, ProvenanceTensor)
        torch.testing.assert_close(detach_provenance(factor), plain["fn"].log_factor)

    def test_a_picture(self, hmm, runs):
        pytest.importorskip("graphviz")
        picture = pyro.render_model(hmm, model_args=(runs,), render_distributions=True)
        sites = set(traced(hmm, runs))
        assert all(name in picture.source for name in sites)
        if "exit" in sites:
            assert "exit_mean -> exit" in picture.source


class TestPredictive:
    def test_of_the_prior(self, hmm, runs):
        sites = Predictive(hmm, num_samples=4)(runs)
        assert set(values(hmm, runs)) <= set(sites)
        assert all(len(value) == 4 for value in sites.values())
        if hmm.states > 1:
            torch.testing.assert_close(
                sites["transition"].sum(-1).squeeze(), torch.ones(4, hmm.states).double()
            )

    def test_all_draws_at_once(self, hmm, runs):
        """Every site of one draw is that draw's own: the densities are those one by one."""
        at_once = Predictive(hmm, num_samples=4, parallel=True)(runs)
        names = list(values(hmm, runs))
        batch = {name: at_once[name] for name in names}
        together = poutine.trace(
            poutine.condition(pyro.plate("draws", 4, dim=-2)(hmm), batch)
        ).get_trace(runs)
        found = drawn(together)["log_marginal"]["log_prob"]
        assert found.shape == (4, RUNS)
        for s in range(4):
            one = {name: batch[name][s].reshape(values(hmm, runs)[name].shape) for name in names}
            alone = traced(poutine.condition(hmm, one), runs)["log_marginal"]["log_prob"]
            torch.testing.assert_close(found[s], alone)

    @pytest.mark.parametrize("parallel", [False, True])
    def test_of_the_posterior(self, hmm, runs, parallel):
        """Given draws of every site, it gives these, and the transitions that they mean."""
        held = [values(hmm, runs) for _ in range(5)]
        samples = {name: torch.stack([one[name] for one in held]) for name in held[0]}
        given = samples
        if parallel:  # Pyro wants an axis for the plate of the runs
            given = {name: value[:, None] for name, value in samples.items()}
        names = [*samples, *(["transition"] if hmm.states > 1 else [])]
        posterior = Predictive(hmm, given, return_sites=names, parallel=parallel)(runs)
        for name, value in samples.items():
            torch.testing.assert_close(posterior[name].reshape(value.shape), value)
        if hmm.states > 1:
            leave, matrix = samples["exit"][..., 0], posterior["transition"].squeeze()
            torch.testing.assert_close(matrix.diagonal(dim1=-2, dim2=-1), 1 - leave)
        if hmm.states == 3:
            torch.testing.assert_close(matrix[:, 0, 1:], leave[:, :1] * samples["jump"][:, 0])


class TestHandlers:
    def test_trace_adds_up(self, hmm, runs):
        trace = poutine.trace(hmm).get_trace(runs)
        parts = sum(site["log_prob"].sum() for site in drawn(trace).values())
        torch.testing.assert_close(trace.log_prob_sum(), parts)

    def test_seed(self, hmm, runs):
        one, again, other = (values(poutine.seed(hmm, seed), runs) for seed in (3, 3, 4))
        for name in one:
            torch.testing.assert_close(one[name], again[name], rtol=0, atol=0)
            assert not torch.equal(one[name], other[name])

    def test_replay(self, hmm, runs):
        trace = poutine.trace(hmm).get_trace(runs)
        again = poutine.trace(poutine.replay(hmm, trace=trace)).get_trace(runs)
        torch.testing.assert_close(again.log_prob_sum(), trace.log_prob_sum(), rtol=0, atol=0)

    def test_condition(self, hmm, runs):
        """Sites that are held become observed; the others are drawn given them."""
        held = {"level": torch.ones(3, 2).double()} if isinstance(hmm.emission, Levels) else {}
        if hmm.states > 1:
            held["initial"] = torch.full((hmm.states,), 1.0 / hmm.states, dtype=torch.float64)
        sites = traced(pyro.condition(hmm, data=held), runs)
        for name, site in sites.items():
            assert site["is_observed"] == (name in held or name == "log_marginal")
        for name, value in held.items():
            assert sites[name]["value"] is value

    def test_do(self, runs):
        """A site that is set from outside no longer has a density."""
        hmm = MODELS["levels"]
        exits = torch.tensor([[0.2, 0.8], [0.1, 0.9]], dtype=torch.float64)
        trace = poutine.trace(poutine.do(hmm, data={"exit": exits})).get_trace(runs)
        torch.testing.assert_close(
            trace.nodes["transition"]["value"],
            torch.tensor([[0.8, 0.2], [0.1, 0.9]], dtype=torch.float64),
        )

    def test_block(self, hmm, runs):
        hidden = [name for name in traced(hmm, runs) if name != "log_marginal"]
        assert set(traced(poutine.block(hmm, hide=hidden), runs)) == {"log_marginal"}
        assert set(traced(poutine.block(hmm, expose=hidden), runs)) == set(hidden)

    def test_scale(self, hmm, runs):
        trace = poutine.trace(hmm).get_trace(runs)
        half = poutine.trace(poutine.scale(poutine.replay(hmm, trace=trace), 0.5)).get_trace(runs)
        torch.testing.assert_close(half.log_prob_sum(), 0.5 * trace.log_prob_sum())

    def test_mask(self, hmm, runs):
        trace = poutine.trace(poutine.mask(hmm, mask=False)).get_trace(runs)
        assert float(trace.log_prob_sum()) == 0

    def test_mask_of_runs(self, hmm, runs):
        """The others' densities are as they were."""
        held = poutine.condition(hmm, values(hmm, runs))
        whole = traced(held, runs)["log_marginal"]["log_prob"]
        keep = torch.tensor([True, False, True])
        masked = traced(poutine.mask(held, keep), runs)["log_marginal"]["log_prob"]
        torch.testing.assert_close(masked, torch.where(keep, whole, 0.0))

    def test_lift(self, runs):
        """Parameters of an emission of one's own may be given a prior."""
        hmm = MODELS["a user's own"]
        assert "centre" not in traced(hmm, runs)
        prior = dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
        assert traced(poutine.lift(hmm, prior={"centre": prior}), runs)["centre"]["fn"] is prior

    def test_reparam(self, runs):
        """Coefficients in units of their prior's deviations."""
        hmm = MODELS["levels"]
        free = poutine.reparam(hmm, {"coefficient": LocScaleReparam(0.0)})
        sites = traced(free, runs)
        assert not sites["coefficient_decentered"]["is_observed"]
        assert sites["coefficient"]["is_observed"]
        assert torch.isfinite(sites["log_marginal"]["log_prob"]).all()
