"""Coordinate ascent: a bound that never falls, and a search that finds its way.

How near the bound is to evidences that are known: `test_oracles` and `test_agreement`.
"""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from small_designs import name, problem, random_values, variants

from bayeshmm import HMM, Autoregressive, Gaussian, Runs
from bayeshmm.inference.moves import moved
from bayeshmm.inference.search import improve, search
from bayeshmm.inference.starts import softened, starting_states
from bayeshmm.inference.variational import CoordinateAscent, expectation


@pytest.mark.parametrize("missing", [0.0, 0.25])
@pytest.mark.parametrize("family", variants(), ids=name)
def test_the_bound_never_falls(family, missing):
    """Whatever the family and whatever is missing; one row is an outlier."""
    values = random_values(runs=4, rows=30, missing=missing, seed=2)
    values[1, 5] = 30.0
    prior, data = problem(family, 3, values, [30, 30, 22, 9])
    ascent = CoordinateAscent(prior, data, starting_states(data.design, 3, 3, 0))
    bounds = torch.stack([ascent.sweep() for _ in range(40)])
    assert (bounds.diff(dim=0) > -1e-7).all()
    assert (bounds[-1] > bounds[0] + 1.0).all()


@pytest.mark.parametrize("family", variants(("full",), ("student-t",), (True,)), ids=name)
@pytest.mark.parametrize("missing", [0.0, 0.25])
def test_starts_of_a_batch_do_not_see_each_other(family, missing):
    values = random_values(runs=3, rows=20, missing=missing, seed=2)
    prior, data = problem(family, 2, values, [20, 20, 12])
    states = starting_states(data.design, 2, 3, 0)
    batch = CoordinateAscent(prior, data, states)
    bounds = [batch.sweep() for _ in range(6)][-1]
    for b in range(3):
        alone = CoordinateAscent(prior, data, states[b : b + 1])
        bound = [alone.sweep() for _ in range(6)][-1]
        assert bound.item() == pytest.approx(bounds[b].item(), abs=1e-8)


@pytest.mark.parametrize("family", variants(("full",)), ids=name)
def test_a_weight_of_two_is_every_run_twice(family):
    """The likelihood to the power of two: bound, parameters and states, run effects included."""
    values, lengths = random_values(runs=3, rows=20, missing=0.2, seed=2), [20, 20, 12]
    prior, data = problem(family, 2, values, lengths)
    _, both = problem(family, 2, np.concatenate([values, values]), 2 * lengths)
    start = starting_states(data.design, 2, 1, 0)
    weighted = CoordinateAscent(prior, data, start, weight=2.0)
    doubled = CoordinateAscent(prior, both, torch.cat([start, start], 1))
    for _ in range(6):
        bounds = weighted.sweep(), doubled.sweep()
    assert bounds[0].item() == pytest.approx(bounds[1].item(), abs=1e-8)
    torch.testing.assert_close(weighted.expectation.states, doubled.expectation.states[:, :3])
    torch.testing.assert_close(
        weighted.parameters.regression.mean, doubled.parameters.regression.mean
    )


def test_entry_law_bound_never_falls_and_counts_in_the_whole():
    values = random_values(runs=6, rows=30)
    frame = [
        {"run": f"r{n}", "step": t, **{f"m{j}": values[n, t, j] for j in range(3)}}
        for n in range(6)
        for t in range(30)
    ]
    runs = Runs.from_dataframe(pd.DataFrame(frame))
    hmm = HMM(2, minimum_dwell=3)
    _, data = hmm.encode(runs)
    ascent = CoordinateAscent(hmm.prior(runs), data, starting_states(data.design, 2, 3, 0))
    bounds = torch.stack([ascent.sweep() for _ in range(30)])
    assert (bounds.diff(dim=0) > -1e-7).all()
    assert ascent.entry is not None
    assert math.isfinite(float(ascent.entry.bound))


def test_search_reports_every_start_and_orders_states_by_first_visit():
    values = random_values(runs=4, rows=40, metrics=2, seed=4)
    values[:, 20:] += np.linspace(0, 30, 20)[None, :, None]
    prior, data = problem(Autoregressive(lags=1), 2, values, dwell=3)
    fit, restarts = search(prior, data, 6, seed=1)
    assert sorted(set(restarts["start"]) - {-1}) == list(range(6))
    assert restarts["objective"].is_monotonic_decreasing
    assert restarts["objective"].iloc[0] == pytest.approx(fit.bound, abs=1e-9)
    assert restarts["agreement"].iloc[0] == 1.0
    assert (fit.states[:, 1].argmax(-1) == 0).all()
    assert (fit.states[:, -1].argmax(-1) == 1).all()


@pytest.mark.parametrize("family", variants(("full",)), ids=name)
def test_relabelling_a_fit_permutes_everything(family):
    values = random_values(runs=3, rows=25, metrics=2, seed=5, missing=0.1)
    prior, data = problem(family, 3, values)
    fit, _ = search(prior, data, 2, seed=0)
    order = torch.tensor([2, 0, 1])
    moved = fit.relabelled(order)
    again = expectation(
        data,
        prior.law(moved.parameters.regression.law, moved.parameters.tail),
        moved.parameters.chain.expected_log,
        prior.minimum_dwell,
        True,
    )
    torch.testing.assert_close(again.states, fit.states[..., order])
    torch.testing.assert_close(moved.states, again.states)
    torch.testing.assert_close(again.counts.transition, moved.counts.transition)
    divergence = prior.regression.divergence(fit.parameters.regression, fit.parameters.shrinkage)
    again_divergence = prior.regression.divergence(
        moved.parameters.regression, moved.parameters.shrinkage
    )
    torch.testing.assert_close(divergence, again_divergence)


def test_outliers_are_noticed():
    """A few wild rows in calm runs: heavy tails, small weights, and a higher bound."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4, 60, 2))
    wild = rng.random((4, 60)) < 0.05
    values[wild] *= 12.0
    bounds = {}
    for noise in ("normal", "student-t"):
        prior, data = problem(Gaussian(noise=noise), 1, values)
        ascent = CoordinateAscent(prior, data, torch.ones(1, 4, 60, 1, dtype=torch.float64))
        ascent.run(500, 1e-6)
        bounds[noise] = ascent.bound.item()
    assert bounds["student-t"] > bounds["normal"] + 50.0
    tail = prior.tail.expected(ascent.parameters.tail)
    assert 1.0 < tail.degrees.item() < 5.0
    weight = ascent.expectation.hidden.scale[0, ..., 0]
    far = torch.from_numpy(np.abs(values).max(-1) > 10.0)
    assert far.sum() > 5
    assert weight[far].max() < 0.2 < 0.8 < weight[~far].median()


def test_runs_that_differ_in_level_are_one_phase():
    """Their effects are found, and worth more than runs that are taken as alike."""
    rng = np.random.default_rng(0)
    levels = np.linspace(-3.0, 3.0, 8)[:, None, None]
    values = levels + 0.5 * rng.standard_normal((8, 30, 2))
    bounds = {}
    for effects in (False, True):
        prior, data = problem(Gaussian(run_effects=effects), 1, values)
        ascent = CoordinateAscent(prior, data, torch.ones(1, 8, 30, 1, dtype=torch.float64))
        ascent.run(500, 1e-6)
        bounds[effects] = ascent.bound.item()
    assert bounds[True] > bounds[False] + 100.0
    # the common level is nobody's: what is known of a run is the sum
    law = ascent.parameters.regression.law
    found = (law.coefficients[0, 0, 0, :, 0] + law.effects.mean[0, :, 0]).numpy()
    found[:, 1] += law.coefficients[0, 0, 0, 1, 1].item() * values[:, :, 0].mean(1)
    np.testing.assert_allclose(found, values.mean(1), atol=0.1)


def test_moves_leave_a_local_mode():
    """From a mode that has merged two phases and split another, the search comes out."""
    rng = np.random.default_rng(0)
    levels = np.repeat([0.0, 4.0, -4.0], 20)
    values = levels[None, :, None] + rng.standard_normal((5, 60, 2))
    family = Gaussian(noise="normal", run_effects=False)
    prior, data = problem(family, 3, values, dwell=5, expected=20.0)
    wrong = np.repeat([0, 1, 2, 2], [10, 10, 20, 20])
    ascent = CoordinateAscent(prior, data, softened(np.tile(wrong, (1, 5, 1)), 3))
    ascent.run(200, 1e-3)
    right = CoordinateAscent(prior, data, softened(np.tile(np.repeat([0, 1, 2], 20), (1, 5, 1)), 3))
    right.run(200, 1e-3)
    assert ascent.bound[0] < right.bound[0] - 50.0  # a local mode indeed
    found = improve(ascent, data, 16, seed=0)
    assert float(found.bound[0]) == pytest.approx(float(right.bound[0]), abs=0.5)


def test_moves_keep_padding_and_states():
    rng = np.random.default_rng(0)
    paths = np.repeat([[0, 1, 2, 1]], 10, axis=1).repeat(3, axis=0)
    paths[1, 33:] = -1
    seen = set()
    for _ in range(200):
        new = moved(rng, paths, 3)
        assert ((new == -1) == (paths == -1)).all()
        assert new.max() <= 2
        seen.add(new.tobytes())
    assert len(seen) > 30
