"""An emission of a user's own: a prior in Pyro and a log-likelihood are all it takes."""

import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_sample
from synthetic_runs import EVERY, change_rows, phase_of_rows

import bayeshmm as bh

DWELL = 5
FITS = {"minimum_dwell": DWELL, "restarts": 3, "draws": 200, "progress": False}


class Accuracies:
    """Accuracies that are Beta within a phase, as the documentation has them."""

    def prior(self, states, metrics):
        one = torch.ones(states, len(metrics), dtype=torch.float64)
        mean = pyro.sample("mean", dist.Beta(one, one).to_event(2))
        size = pyro.sample("size", dist.LogNormal(3 * one, one).to_event(2))
        return mean, size

    def log_likelihood(self, parameters, values):
        mean, size = (part[..., None, :, :] for part in parameters)
        inside = values.clamp(1e-3, 1 - 1e-3)[:, :, None, :]
        rows = dist.Beta(mean * size, (1 - mean) * size).log_prob(inside.nan_to_num(0.5))
        return torch.where(inside.isnan(), 0.0, rows).sum(-1)


pytestmark = pytest.mark.usefixtures("pyro_scope")


@pytest.fixture(scope="module")
def changes():
    return change_rows(6, 0, [(15, 25)])


@pytest.fixture(scope="module")
def runs(changes):
    """Six runs whose two accuracies rise at once, with some rows missing."""
    rng = np.random.default_rng(1)
    levels = np.array([[0.2, 0.1], [0.9, 0.7]])
    frames = []
    for n, rows in enumerate(changes):
        mean = levels[phase_of_rows(rows, 40)]
        values = rng.beta(30 * mean, 30 * (1 - mean))
        values[rng.random(values.shape) < 0.1] = np.nan
        step = EVERY * np.arange(40)
        frame = {"run": f"seed-{n}", "step": step, "train": values[:, 0], "test": values[:, 1]}
        frames.append(pd.DataFrame(frame))
    return bh.Runs.from_dataframe(pd.concat(frames))


def fitted(hmm, runs, **settings):
    guide = AutoNormal(hmm, init_loc_fn=init_to_sample)  # medians cannot tell states apart
    svi = SVI(hmm, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(runs, **settings) for _ in range(300)]
    return guide, losses


def test_it_finds_the_phases(runs, changes):
    pyro.set_rng_seed(1)  # not every start finds them
    hmm = bh.HMM(2, Accuracies(), minimum_dwell=DWELL)
    guide, losses = fitted(hmm, runs)
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 100
    draws = Predictive(
        hmm, guide=guide, num_samples=20, return_sites=["initial", "transition", "mean", "size"]
    )(runs)
    values = torch.tensor(runs.values)
    rows = Accuracies().log_likelihood((draws["mean"], draws["size"]), values)
    probability = bh.messages.smooth(
        draws["initial"].log(), draws["transition"].log(), rows, minimum_dwell=DWELL
    ).mean(0)
    late = draws["mean"].mean(0)[0, :, 0].argmax()
    entered = (probability[..., late] > 0.5).double().argmax(1).numpy()
    np.testing.assert_array_equal(entered, changes[:, 0])


def test_runs_may_be_subsampled_and_particles_batched(runs):
    hmm = bh.HMM(2, Accuracies(), minimum_dwell=DWELL)
    guide = AutoNormal(hmm)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(hmm, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    assert np.isfinite([svi.step(runs, subsample_size=2) for _ in range(3)]).all()


@pytest.fixture(scope="module")
def posterior(runs):
    """Fitted by the default engine, which is variational inference.

    The exit of the last phase, which no run leaves, has a tail that no normal law has.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bh.ApproximationWarning)
        return bh.fit(runs, 2, emission=Accuracies(), **FITS)


class TestFit:
    def test_it_finds_the_phases(self, posterior, runs, changes):
        assert posterior.inference == "vi"
        assert posterior.diagnostics["converged"]
        assert posterior.diagnostics["k_hat"] < 1.0
        times = posterior.entry_times().set_index(["state", "run"]).loc["phase 1"]
        np.testing.assert_array_equal(times["median"], EVERY * changes[:, 0])
        moves = posterior.transition_times()
        sure = moves[moves["probability"] > 0.5]
        assert set(sure["source"]) == {"phase 0"}
        np.testing.assert_array_equal(sure["median"], EVERY * changes[:, 0])
        mean = posterior.idata.posterior["mean"].mean(("chain", "draw"))
        np.testing.assert_allclose(mean, [[0.2, 0.1], [0.9, 0.7]], atol=0.03)

    def test_starts_are_reported_best_first(self, posterior):
        table = posterior.restarts
        assert sorted(table["start"]) == [0, 1, 2]
        assert table["objective"].is_monotonic_decreasing
        assert table["agreement"].iloc[0] == 1.0

    def test_probabilities_of_known_and_new_runs(self, posterior, runs, changes):
        frame = runs.to_dataframe()
        new = bh.Runs.from_dataframe(frame.assign(run="new-" + frame["run"].astype(str)))
        for probability in (posterior.smooth(), posterior.smooth(new), posterior.filter()):
            assert probability.dims == ("run", "time", "state")
            np.testing.assert_allclose(probability.sum("state"), 1.0)
            late = (probability.sel(state="phase 1") > 0.5).argmax("time")
            assert (np.abs(late - changes[:, 0]) <= 1).all()
        times = posterior.entry_times(runs=new).set_index(["state", "run"]).loc["phase 1"]
        np.testing.assert_array_equal(times["median"], EVERY * changes[:, 0])

    def test_inference_data_have_its_sites(self, posterior, runs):
        idata = posterior.idata
        assert idata.posterior["mean"].dims == ("chain", "draw", "state", "metric")
        assert {"initial", "transition", "dwell", "size", "path"} <= set(idata.posterior)
        assert idata.log_likelihood["log_lik"].dims == ("chain", "draw", "run")
        assert np.isfinite(idata.log_likelihood["log_lik"]).all()

    def test_it_is_named(self, posterior):
        assert "Accuracies, minimum dwell 5 rows (50 steps)" in repr(posterior)
        assert "200 draws by vi" in repr(posterior)
        assert posterior.rename({0: "before"}).entry_times()["state"].iloc[0] == "before"

    def test_many_runs_in_mini_batches(self, posterior, runs, monkeypatch):
        """The mode is searched on some of the runs, and each step sees some."""
        monkeypatch.setattr("bayeshmm.inference.parts.FEWEST", 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", bh.ConvergenceWarning)
            warnings.simplefilter("ignore", bh.ApproximationWarning)
            settings = bh.VI(batch_size=3, steps=100)
            drawn = bh.fit(runs, 2, emission=Accuracies(), inference=settings, **FITS)
        pd.testing.assert_frame_equal(
            drawn.entry_times()[["run", "state", "median"]],
            posterior.entry_times()[["run", "state", "median"]],
        )

    def test_the_same_with_nuts(self, runs, posterior, monkeypatch):
        """A few draws: they are of the same phases, at the same places."""
        monkeypatch.setattr("bayeshmm.inference.engines.PILOT", bh.VI(steps=100))
        settings = bh.NUTS(chains=2, warmup=20)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", bh.ConvergenceWarning)
            drawn = bh.fit(
                runs, 2, emission=Accuracies(), inference=settings, **(FITS | {"draws": 60})
            )
        one, other = (fit.idata.posterior["mean"] for fit in (posterior, drawn))
        difference = one.mean(("chain", "draw")) - other.mean(("chain", "draw"))
        assert (np.abs(difference) < 1.5 * one.std(("chain", "draw"))).all()


class TestDensity:
    @pytest.mark.filterwarnings("ignore::bayeshmm.ApproximationWarning")
    def test_of_new_runs_it_is_the_mean_over_draws(self, posterior, runs):
        frame = runs.to_dataframe()
        new = bh.Runs.from_dataframe(frame.assign(run="new-" + frame["run"].astype(str)))
        found = posterior.log_density(new)
        log_lik = posterior.idata.log_likelihood["log_lik"].to_numpy().reshape(-1, 6)
        expected = np.logaddexp.reduce(log_lik, axis=0) - np.log(len(log_lik))
        np.testing.assert_allclose(found, expected)
        assert found.attrs["method"] == "average over draws"
        assert found.attrs["shortcut"] == []
        assert found["k_hat"].dims == ("run",)

    @pytest.mark.filterwarnings("ignore::bayeshmm.ApproximationWarning")
    def test_known_runs_are_weighed_out(self, posterior, runs):
        known = posterior.log_density(runs)
        assert known.attrs["shortcut"] == list(runs.names)
        log_lik = posterior.idata.log_likelihood["log_lik"].to_numpy().reshape(-1, 6)
        assert (known < np.logaddexp.reduce(log_lik, axis=0) - np.log(len(log_lik))).all()

    def test_an_average_over_too_few_draws_is_told(self, posterior, runs):
        """A run that only the wildest draws have room for."""
        frame = runs.to_dataframe()
        odd = frame.assign(run="odd", train=1 - frame["train"], test=1 - frame["test"])
        odd = odd.groupby("step", as_index=False).first()
        with pytest.warns(bh.ApproximationWarning, match="k-hat above.*odd"):
            found = posterior.log_density(bh.Runs.from_dataframe(odd))
        assert float(found["k_hat"].max()) > 0.7


class TestQuestionsThatNeedConjugacy:
    @pytest.mark.parametrize(
        "question",
        [
            lambda posterior, path: posterior.sensitivity(),
            lambda posterior, path: posterior.save(path / "model.nc"),
            lambda posterior, path: bh.compare(posterior.runs, [2], emission=Accuracies()),
        ],
        ids=["sensitivity", "save", "compare"],
    )
    def test_they_are_refused(self, posterior, tmp_path, question):
        with pytest.raises(ValueError, match="Accuracies has no conjugate updates"):
            question(posterior, tmp_path)

    def test_gibbs_sampling(self, runs):
        with pytest.raises(ValueError, match=r'gibbs.*conjugate.*"vi"'):
            bh.fit(runs, 2, emission=Accuracies(), inference="gibbs", **FITS)

    def test_logarithms(self, runs):
        with pytest.raises(ValueError, match=r"log=.*log_likelihood"):
            bh.fit(runs, 2, emission=Accuracies(), log=["train"], **FITS)


def test_a_likelihood_of_the_wrong_shape_is_named(runs):
    class Flat(Accuracies):
        def log_likelihood(self, parameters, values):
            return super().log_likelihood(parameters, values)[..., 0]

    with pytest.raises(ValueError, match=r"Flat.log_likelihood.*\(\.\.\., 6, 40, 2\)"):
        bh.fit(runs, 2, emission=Flat(), **FITS)


def test_a_class_is_not_an_emission(runs):
    with pytest.raises(ValueError, match="an emission of your own"):
        bh.HMM(2, Accuracies)
