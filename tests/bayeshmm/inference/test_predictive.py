"""The density of unseen runs against ratios of evidences that are known exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from evidence import log_evidence
from small_designs import design_of, random_values

from bayeshmm import Autoregressive, Gaussian
from bayeshmm.emissions import families
from bayeshmm.emissions.regression import RegressionPrior
from bayeshmm.encoding import Encoded
from bayeshmm.hmm import Prior
from bayeshmm.inference import predictive
from bayeshmm.inference.predictive import entry_density, predict
from bayeshmm.inference.search import search
from bayeshmm.inference.variational import CoordinateAscent, fit_entry
from bayeshmm.transitions import TransitionPrior

FAMILIES = [Gaussian(), Autoregressive(lags=2), Autoregressive(lags=1, covariance="diagonal")]


def one_state(family, values):
    design = design_of(values, family)
    prior = Prior(
        RegressionPrior(families.layout(family, values.shape[2]), 1),
        TransitionPrior(1, 1, 5.0),
        None,
        1,
    )
    data = Encoded(design, None, torch.zeros(len(values), dtype=torch.float64))
    weights = design.observed.any(-1)[None, ..., None].to(torch.float64)
    ascent = CoordinateAscent(prior, data, weights)
    ascent.run(200, 1e-10)
    return ascent.fit(0), data


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_with_one_state_it_is_the_ratio_of_evidences(family):
    values = random_values(runs=5, rows=20)
    scale_values = design_of(values, family)
    fit, _ = one_state(family, values[:4])
    hyper = fit.parameters.shrinkage.expected
    new = replace(
        scale_values,
        response=scale_values.response[4:],
        past=scale_values.past[4:] * 1.0,
        observed=scale_values.observed[4:],
        lengths=scale_values.lengths[4:],
    )
    # units of the fit: the regressors' scale is that of the first four runs
    ratio = torch.from_numpy(
        families.regressor_scale(family, values) / families.regressor_scale(family, values[:4])
    )
    new = replace(new, past=new.past * ratio)
    old = design_of(values[:4], family)
    both = replace(
        old,
        response=torch.cat([old.response, new.response]),
        past=torch.cat([old.past, new.past]),
        observed=torch.cat([old.observed, new.observed]),
        lengths=torch.cat([old.lengths, new.lengths]),
    )
    exact = log_evidence(both, hyper) - log_evidence(old, hyper)
    got = predict(fit, Encoded(new, None, torch.zeros(1, dtype=torch.float64)))
    assert float(got.log_density[0]) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_leaving_a_known_run_out_is_the_same_ratio(family):
    values = random_values(runs=5, rows=20)
    fit, data = one_state(family, values)
    hyper = fit.parameters.shrinkage.expected
    got = predict(fit, data, leave_out=True).log_density
    for n in range(5):
        rest = [i for i in range(5) if i != n]
        part = replace(
            data.design,
            response=data.design.response[rest],
            past=data.design.past[rest],
            observed=data.design.observed[rest],
            lengths=data.design.lengths[rest],
        )
        exact = log_evidence(data.design, hyper) - log_evidence(part, hyper)
        assert float(got[n]) == pytest.approx(exact, abs=1e-6)


def test_first_values_are_scored_by_their_own_evidence():
    values = random_values(runs=6, rows=5)
    design = families.entry_design(Autoregressive(), values, np.zeros(3))
    assert design is not None
    prior = RegressionPrior(design.layout, 1)
    training = replace(
        design,
        response=design.response[:5],
        past=design.past[:5],
        observed=design.observed[:5],
        lengths=design.lengths[:5],
    )
    entry = fit_entry(prior, training)
    assert entry is not None
    new = replace(
        design,
        response=design.response[5:],
        past=design.past[5:],
        observed=design.observed[5:],
        lengths=design.lengths[5:],
    )
    hyper = entry.shrinkage.expected
    exact = log_evidence(design, hyper) - log_evidence(training, hyper)
    assert float(entry_density(entry, new)[0]) == pytest.approx(exact, abs=1e-6)


def test_the_bound_rises_with_every_sweep(monkeypatch):
    """Compare with fewer sweeps: the update on the new run is itself a coordinate ascent."""
    values = random_values(runs=6, rows=40, metrics=2, seed=3)
    values[:, 20:] *= 3.0
    family = Gaussian()
    design = design_of(values[:4], family)
    prior = Prior(
        RegressionPrior(families.layout(family, 2), 2), TransitionPrior(2, 3, 20.0), None, 3
    )
    zero = torch.zeros(4, dtype=torch.float64)
    fit, _ = search(prior, Encoded(design, None, zero), 4, seed=0)
    new = Encoded(design_of(values[4:], family), None, zero[:2])
    bounds = []
    for sweeps in (1, 2, 4, 8, 16):
        monkeypatch.setattr(predictive, "SWEEPS", sweeps)
        bounds.append(predict(fit, new).log_density)
    assert (torch.stack(bounds).diff(dim=0) > -1e-9).all()
