"""The density of unseen runs against ratios of evidences that are known exactly.

Oracle 5 of `test_oracles`: exact with one state, normal noise and known hyper-parameters, and a
lower bound otherwise.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from evidence import log_evidence
from scipy.stats import gamma, qmc
from small_designs import design_of, known, name, problem, random_values, variants

from bayeshmm import HMM, Autoregressive, Gaussian, Runs
from bayeshmm.emissions import families
from bayeshmm.emissions.regression import RegressionPrior
from bayeshmm.encoding import Encoded
from bayeshmm.inference import predictive
from bayeshmm.inference.predictive import entry_density, predict
from bayeshmm.inference.search import search
from bayeshmm.inference.starts import starting_states
from bayeshmm.inference.variational import CoordinateAscent, fit_entry

NORMAL = variants(noise=("normal",))


def encoded(design) -> Encoded:
    return Encoded(design, None, torch.zeros(len(design.lengths), dtype=torch.float64))


def split(family, values, new):
    """Designs of all runs, of those that are fitted and of the last `new`, in the same units."""
    whole = design_of(values, family)
    runs = torch.arange(len(values))
    return whole, whole.take(runs[:-new]), whole.take(runs[-new:])


def some_mode(prior, design):
    """Where a few sweeps from equal segments lead: any posterior will do."""
    data = encoded(design)
    ascent = CoordinateAscent(prior, data, starting_states(design, 2, 1, seed=0))
    ascent.run(20)
    return ascent.fit(0)


def one_state(family, design):
    prior, _ = problem(family, 1, random_values(metrics=design.layout.metrics))
    weights = design.observed.any(-1)[None, ..., None].double()
    ascent = CoordinateAscent(prior, encoded(design), weights)
    ascent.run(600)
    return ascent.fit(0)


@pytest.mark.parametrize("family", NORMAL, ids=name)
@pytest.mark.parametrize("missing", [False, True])
def test_5_with_one_state_it_is_the_ratio_of_evidences(family, missing):
    """Each new run by itself; also where it misses its last metrics."""
    values = random_values(runs=6, rows=15)
    if missing:
        values[5, 3:6, 2] = values[5, 8, 1:] = values[4, 10] = values[0, 2, 2] = np.nan
    whole, old, new = split(family, values, 2)
    fit = one_state(family, old)
    hyper = fit.parameters.shrinkage.expected
    got = predict(fit, encoded(new)).log_density
    for n in range(2):
        both = whole.take(torch.tensor([0, 1, 2, 3, 4 + n]))
        exact = log_evidence(both, hyper) - log_evidence(old, hyper)
        assert got[n].item() == pytest.approx(exact.item(), abs=1e-6)


@pytest.mark.parametrize("family", NORMAL, ids=name)
def test_5_leaving_a_known_run_out_is_the_same_ratio(family):
    design = design_of(random_values(runs=5, rows=15), family)
    fit = one_state(family, design)
    hyper = fit.parameters.shrinkage.expected
    got = predict(fit, encoded(design), leave_out=True).log_density
    for n in range(5):
        rest = design.take(torch.tensor([i for i in range(5) if i != n]))
        exact = log_evidence(design, hyper) - log_evidence(rest, hyper)
        assert got[n].item() == pytest.approx(exact.item(), abs=1e-6)


@pytest.mark.parametrize("family", variants(("full",), ("student-t",)), ids=name)
def test_with_student_t_noise_it_lies_under_the_density(family):
    """Of one run after none at all: the posterior is the prior, the degrees of freedom known."""
    degrees = 4.1
    values = random_values(runs=2, rows=7, metrics=2)
    values[1, 5] += 5.0
    _, old, new = split(family, values, 1)
    prior, _ = problem(known(family, degrees), 1, values)
    ascent = CoordinateAscent(prior, encoded(old), torch.zeros(1, 1, 7, 1, dtype=torch.float64))
    blank = replace(old, observed=torch.zeros_like(old.observed), response=0.0 * old.response)
    ascent.design = blank
    ascent.run(3)
    fit = ascent.fit(0)
    nu = prior.tail.expected(fit.parameters.tail).degrees.item()
    assert nu == pytest.approx(degrees, rel=0.05)

    rows = new.observed.any(-1)
    points = qmc.Sobol(int(rows.sum()), rng=0).random(1024)
    weights = torch.ones(1024, *rows.shape, dtype=torch.float64)
    weights[:, rows] = torch.from_numpy(gamma(nu / 2, scale=2 / nu).ppf(points))
    hyper = fit.parameters.shrinkage.expected
    terms = log_evidence(new, hyper, weights=weights)
    exact = terms.logsumexp(0).item() - math.log(1024)
    assert 0.0 < exact - predict(fit, encoded(new)).log_density.item() < 2.0


@pytest.mark.parametrize("family", variants(), ids=name)
@pytest.mark.parametrize("leave_out", [False, True])
def test_the_bound_rises_with_every_sweep(family, leave_out, monkeypatch):
    """Compare with fewer sweeps: the update on the new run is itself a coordinate ascent."""
    values = random_values(runs=6, rows=30, metrics=2, seed=3, missing=0.05)
    values[:, 15:] *= 3.0
    _, old, new = split(family, values, 2)
    prior, _ = problem(family, 2, values, dwell=3, expected=20.0)
    fit = some_mode(prior, old)
    bounds = []
    for sweeps in (1, 2, 5):
        monkeypatch.setattr(predictive, "SWEEPS", sweeps)
        what = encoded(old if leave_out else new)
        bounds.append(predict(fit, what, leave_out=leave_out).log_density)
    assert (torch.stack(bounds).diff(dim=0) > -1e-8).all()


@pytest.mark.parametrize("family", variants(("full",)), ids=name)
def test_runs_are_predicted_one_by_one(family):
    """What else is predicted with a run changes nothing."""
    values = random_values(runs=6, rows=20, metrics=2, missing=0.1)
    _, old, new = split(family, values, 3)
    prior, _ = problem(family, 2, values)
    fit = some_mode(prior, old)
    together = predict(fit, encoded(new))
    for n in range(3):
        alone = predict(fit, encoded(new.take(torch.tensor([n]))))
        torch.testing.assert_close(alone.log_density[0], together.log_density[n])
        torch.testing.assert_close(alone.states[0], together.states[n])


class TestFirstValues:
    """Their law has one state, normal noise and no run effects."""

    def parts(self, missing):
        values = random_values(runs=6, rows=5)
        if missing:
            values[2, :, 2] = values[5, :, 1:] = np.nan
        design = families.entry_design(Autoregressive(), values, np.zeros(3))
        runs = torch.arange(6)
        return design, design.take(runs[:5]), design.take(runs[5:])

    @pytest.mark.parametrize("missing", [False, True])
    def test_are_scored_by_their_own_evidence(self, missing):
        design, old, new = self.parts(missing)
        entry = fit_entry(RegressionPrior(design.layout, 1), old)
        hyper = entry.shrinkage.expected
        exact = log_evidence(design, hyper) - log_evidence(old, hyper)
        assert entry_density(entry, new).item() == pytest.approx(exact.item(), abs=1e-6)

    @pytest.mark.parametrize("missing", [False, True])
    def test_leaving_a_known_run_out_is_the_same_ratio(self, missing):
        design, *_ = self.parts(missing)
        entry = fit_entry(RegressionPrior(design.layout, 1), design)
        hyper = entry.shrinkage.expected
        got = entry_density(entry, design, leave_out=True)
        for n in range(6):
            rest = design.take(torch.tensor([i for i in range(6) if i != n]))
            exact = log_evidence(design, hyper) - log_evidence(rest, hyper)
            assert got[n].item() == pytest.approx(exact.item(), abs=1e-6)


def test_a_run_far_from_the_others_finds_its_states(monkeypatch):
    """Its offset puts all its rows nearest to one level: one ascent leaves them there."""
    rng = np.random.default_rng(3)
    changes = rng.integers(25, 55, 10)
    path = (np.arange(80) >= changes[:, None]).astype(int)
    levels = np.array([[0, 0, 0, 0], [2, -2, 2, -2]])[path]
    offsets = rng.normal(0, 1, (10, 1, 4))
    offsets[0] = [2.5, -2.5, 2.5, -2.5]
    values = levels + offsets + rng.normal(0, 1, (10, 80, 4))
    frames = [
        pd.DataFrame(rows, columns=list("abcd")).assign(run=f"run-{n}", step=range(80))
        for n, rows in enumerate(values)
    ]
    runs = Runs.from_dataframe(pd.concat(frames))
    hmm = HMM(2, Gaussian())
    encoding, seen = hmm.encode(runs.subset(runs.names[1:]))
    fit, _ = search(hmm.prior(runs), seen, 3, 0)
    new = encoding.encode(runs.subset(runs.names[:1]))
    found = predict(fit, new)
    assert (found.states[0].argmax(-1).numpy() == path[0]).mean() > 0.95
    monkeypatch.setattr(predictive, "usual_states", lambda *_, leave_out: None)
    alone = predict(fit, new)
    assert (alone.states[0].argmax(-1).numpy() == path[0]).mean() < 0.8
    assert (found.log_density - alone.log_density).item() > 80
