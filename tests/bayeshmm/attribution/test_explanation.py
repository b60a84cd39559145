from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_runs import EVERY, LAWS, QUICK, change_rows, changed, moving_runs

import bayeshmm as bh
from bayeshmm import messages
from bayeshmm.aligned import relabelled
from bayeshmm.attribution.contributions import Residuals, shapley
from bayeshmm.attribution.explanation import (
    explain_transition,
    find_changes,
    log_posterior_gradients,
)
from bayeshmm.attribution.row_laws import RowLaws
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.nested import take

ONE_CHANGES = np.array([[(-0.2, 0.0, 0.1), (0.0, 0.2, 0.3)], [(0.3, 0.0, 0.1), (0.0, 0.2, 0.3)]])


@pytest.fixture(scope="module")
def one_changes():
    """Eight runs of three metrics: m0 turns round, m1 goes on, and m2 is a noisy copy of m0."""
    rows = change_rows(8, 0, [(15, 25)])
    runs = moving_runs(rows, [40] * 8, ONE_CHANGES, np.zeros(2), seed=3)
    noise = 0.01 * np.random.default_rng(0).standard_normal(int(runs.lengths.sum()))
    return changed(runs, m2=lambda frame: frame["m0"] + noise)


@pytest.fixture(scope="module")
def explained(one_changes):
    posterior = bh.fit(one_changes.select(["m0", "m1"]), 2, **QUICK)
    return explain_transition(posterior, 0, 1)


@pytest.fixture(scope="module")
def with_copy(one_changes):
    return bh.fit(one_changes, 2, **QUICK)


@pytest.fixture(scope="module")
def uneven(gappy):
    """A fit to rows of which a tenth of the values are missing, Student-t noise, run effects."""
    return bh.fit(gappy, 2, **QUICK)


def laws_of(posterior, draws):
    design = posterior.encoding.encode(posterior.runs).design
    return RowLaws.of(design, take(posterior.draws.law, torch.tensor(draws)))


def all_rows(posterior, draw=0):
    run, row = (torch.from_numpy(index) for index in np.nonzero(posterior.runs.steps >= 0))
    return torch.full_like(run, draw), run, row


def test_the_metric_that_changes_has_the_evidence(explained):
    assert explained["metric"].tolist() == ["m0", "m1"]
    assert explained["share"].sum() == pytest.approx(1.0)
    share = explained.set_index("metric").loc["m0"]
    assert share["share"] > 0.95
    assert share["share_lower"] < share["share"] < share["share_upper"]
    drift = explained.set_index("metric").loc["m0", ["drift_lower", "drift", "drift_upper"]]
    assert drift.is_monotonic_increasing
    assert drift["drift_lower"] < 0.5 / 10 < drift["drift_upper"]


def test_copies_of_a_metric_have_one_share(with_copy, explained):
    table = explain_transition(with_copy, 0, 1)
    assert table["metric"].tolist() == ["m0 + m2", "m0", "m2", "m1"]
    assert table["group"].tolist() == ["m0 + m2"] * 3 + ["m1"]
    assert table["share"].isna().tolist() == [False, True, True, False]
    assert table["share"].sum() == pytest.approx(1.0)
    assert table["share"][0] == pytest.approx(explained["share"][0], abs=0.05)
    assert table["level"].isna().tolist() == [True, False, False, False]
    np.testing.assert_allclose(table["level"][1], table["level"][2], atol=0.02)


def test_order_of_metrics_does_not_matter(one_changes, with_copy):
    turned = bh.fit(one_changes.select(["m2", "m1", "m0"]), 2, **QUICK)
    for method in ("evidence", "hu2023"):
        here, there = (
            explain_transition(posterior, 0, 1, method=method) for posterior in (with_copy, turned)
        )
        pd.testing.assert_frame_equal(here, there, rtol=1e-6)


def test_names_of_phases(with_copy):
    renamed = with_copy.rename({0: "falling", 1: "rising"})
    table = explain_transition(renamed, "falling", "rising")
    pd.testing.assert_frame_equal(table, explain_transition(with_copy, 0, 1))
    assert table.attrs == {
        "source": "falling",
        "target": "rising",
        "runs": 8,
        "level": 0.9,
    }


@pytest.mark.parametrize("method", ["evidence", "hu2023"])
def test_labels_do_not_matter(posterior, method):
    turned = relabelled(posterior, [2, 0, 1])
    assert turned.state_names == ("phase 2", "phase 0", "phase 1")
    pd.testing.assert_frame_equal(
        explain_transition(posterior, 0, 1, method=method),
        explain_transition(turned, 1, 2, method=method),
    )


def test_evidence_is_what_the_model_has_without_the_other_metrics(uneven):
    draws = [3, 30]
    laws, data = laws_of(uneven, draws), uneven.encoding.encode(uneven.runs)
    run, row = all_rows(uneven)[1:]
    draw = torch.arange(2).repeat_interleave(len(run))
    run, row = run.repeat(2), row.repeat(2)
    residuals = Residuals.of(laws, (0, 1), draw, run, row)
    for kept in ([0], [1], [0, 1], [1, 0]):
        seen = torch.zeros_like(data.design.observed)
        seen[..., kept] = data.design.observed[..., kept]
        alone = replace(data.design, observed=seen)
        rows = log_likelihood(alone, take(uneven.draws.law, torch.tensor(draws)))[0]
        expected = (rows[..., 1] - rows[..., 0])[draw, run, row]
        torch.testing.assert_close(residuals.log_ratio(kept)[:, -1], expected)


def test_shapley_is_the_mean_over_all_orders(posterior):
    residuals = Residuals.of(laws_of(posterior, [0, 1]), (0, 2), *all_rows(posterior, draw=1))
    expected = torch.zeros(len(residuals.cell), 3, dtype=torch.float64)
    for order in permutations(range(3)):
        known = residuals.log_ratio(order)
        before = torch.nn.functional.pad(known[:, :-1], (1, 0))
        expected[:, list(order)] += (known - before) / 6
    torch.testing.assert_close(shapley(residuals, [[0], [1], [2]]), expected)
    two = shapley(residuals, [[2, 0], [1]])
    torch.testing.assert_close(two.sum(-1), expected.sum(-1))


def test_rotated_orders_are_near_the_mean_over_all():
    rng = np.random.default_rng(0)
    value = torch.from_numpy(rng.standard_normal((2, 50, 5)))
    root = torch.from_numpy(rng.standard_normal((2, 1, 5, 5)))
    covariance = root @ root.transpose(-1, -2) + torch.eye(5)
    cell = torch.zeros(50, dtype=torch.int64)
    seen = torch.ones(50, 5, dtype=torch.bool)
    residuals = Residuals(
        value, covariance, cell, (torch.arange(50),), seen, torch.zeros(2, 50, 5), None
    )
    exact = torch.zeros(50, 5, dtype=torch.float64)
    for order in permutations(range(5)):
        known = torch.nn.functional.pad(residuals.log_ratio(order), (1, 0))
        exact[:, list(order)] += known.diff(dim=-1) / 120
    found = shapley(residuals, [[j] for j in range(5)])
    torch.testing.assert_close(found.sum(-1), exact.sum(-1))
    error = (found - exact).mean(0).abs().max()
    assert float(error) < 0.02 * float(exact.mean(0).abs().sum())


def log_filtered(chain, rows, lengths, dwell, run, row, state):
    """``log p(s_t = k | z_1:t)`` from the definition, differentiable with respect to `rows`."""
    prefix = rows[run : run + 1, : row + 1]
    other = torch.zeros_like(prefix)
    other[:, -1] = -torch.inf
    other[:, -1, state] = 0.0
    both, any_state = (
        messages.log_marginal(
            chain.initial.log(), chain.transition.log(), part, minimum_dwell=dwell
        )
        for part in (prefix + other, prefix)
    )
    return (both - any_state).sum()


def test_derivatives_of_levels_equal_autograd(level_posterior):
    changes = find_changes(level_posterior, 0, 1)
    found = log_posterior_gradients(changes)
    drawn = level_posterior.idata.posterior.stack(draws=("chain", "draw"))
    runs, scaling = level_posterior.runs, level_posterior.encoding.scaling
    for e in (0, 100, 500):
        draw = changes.draws[changes.draw[e]]
        law = {
            name: torch.tensor(drawn[name].isel(draws=draw).values)
            for name in ("mean", "covariance")
        }
        values = torch.tensor(runs.values, requires_grad=True)
        rows = torch.distributions.MultivariateNormal(law["mean"], law["covariance"]).log_prob(
            values[..., None, :]
        )
        chain = take(level_posterior.draws.chain, draw)
        at = int(changes.run[e]), int(changes.row[e])
        log_filtered(chain, rows, runs.lengths, level_posterior.minimum_dwell, *at, 1).backward()
        expected = values.grad[at].numpy() * scaling.sd
        np.testing.assert_allclose(found[e], expected[scaling.order], rtol=1e-8, atol=1e-8)


def row_density(design, law, response, run, row):
    """Student-t log density of a row in every state under one draw, the missing left out, (K,)."""
    P = design.layout.past
    coefficients, variance = law.coefficients[0, 0], 1.0 / law.precision[0, 0]
    T = torch.eye(2, dtype=torch.float64).repeat(len(variance), 1, 1)
    T[:, 1, 0] = -coefficients[:, 1, P]
    equations = (design.past[run, row] * coefficients[..., :P]).sum(-1) + law.effects.mean[0, run]
    gap = response - torch.linalg.solve(T, equations)
    covariance = torch.linalg.inv(T.transpose(-1, -2) @ torch.diag_embed(1.0 / variance) @ T)
    seen = design.observed[run, row]
    gap, covariance = gap[:, seen], covariance[:, seen][:, :, seen]
    distance = (gap * torch.linalg.solve(covariance, gap)).sum(-1)
    distance = distance + (design.rounding / variance)[:, seen].sum(-1)
    nu, d = law.tail.degrees, seen.sum()
    return -0.5 * ((nu + d) * torch.log1p(distance / nu) + torch.logdet(covariance))


def test_derivatives_under_laws_of_motion_equal_autograd(uneven):
    changes = find_changes(uneven, 0, 1)
    found = log_posterior_gradients(changes)
    data, scaling = uneven.encoding.encode(uneven.runs), uneven.encoding.scaling
    partial = np.isnan(found).any(axis=1)
    for e in (*np.flatnonzero(partial)[:2], *np.flatnonzero(~partial)[:2]):
        draw = torch.tensor([changes.draws[changes.draw[e]]])
        law, chain = take(uneven.draws.law, draw), take(uneven.draws.chain, int(draw))
        at = int(changes.run[e]), int(changes.row[e])
        response = data.design.response[at].clone().requires_grad_()
        own = row_density(data.design, law, response, *at)
        rows = data.rows(law)[0]
        rows[at] = own + (rows[at] - own).detach().mean()  # and what is the same in all states
        log_filtered(chain, rows, data.lengths, uneven.minimum_dwell, *at, 1).backward()
        expected = response.grad.numpy() / scaling.increment[scaling.order]
        seen = ~np.isnan(found[e])
        np.testing.assert_array_equal(seen, data.design.observed[at].numpy())
        np.testing.assert_allclose(found[e][seen], expected[seen], rtol=1e-8, atol=1e-8)


def test_sizes_are_averaged_and_not_signed_values(level_posterior):
    table = explain_transition(level_posterior, 0, 1, method="hu2023")
    changes = find_changes(level_posterior, 0, 1)
    gradient = log_posterior_gradients(changes)
    by_draw = [np.abs(gradient[changes.draw == s]).mean(0) for s in range(len(changes.draws))]
    names = np.array(level_posterior.metrics)[level_posterior.encoding.scaling.order]
    expected = pd.Series(np.median(by_draw, axis=0), names).sort_values(ascending=False)
    assert table["metric"].tolist() == expected.index.tolist()
    np.testing.assert_allclose(table["derivative"], expected)


def test_levels_change_by_the_difference_of_the_phases(level_posterior):
    table = explain_transition(level_posterior, 0, 1).set_index("metric")
    assert not {"drift", "persistence"} & set(table.columns)
    for metric, change in {"m0": 8.0, "m1": -4.0}.items():
        assert table.loc[metric, "level_lower"] - 0.1 < change
        assert change < table.loc[metric, "level_upper"] + 0.1
    assert table.loc["m0", "noise_ratio"] == pytest.approx(0.5**0.5, rel=0.15)


def test_changes_of_laws(posterior, changes):
    table = explain_transition(posterior, 0, 1, level=0.98).set_index("metric")
    before = [posterior.runs.values[n, t - 1 : t + 9] for n, t in enumerate(changes[:, 0])]
    mean = np.concatenate(before).mean(axis=0)  # of what the rows after the change start from
    (drift, pull, noise), (drifts, pulls, noises) = LAWS[0].T, LAWS[1].T
    truth = {
        "drift": (drifts - drift - (pulls - pull) * mean) / EVERY,
        "persistence": pull - pulls,
        "noise_ratio": noises / noise,
    }
    for quantity, values in truth.items():
        for metric, value in zip(posterior.metrics, values, strict=True):
            row = table.loc[metric]
            lower, upper = row[f"{quantity}_lower"], row[f"{quantity}_upper"]
            slack = 0.2 * (upper - lower)
            assert lower - slack < value < upper + slack, (metric, quantity)


def test_levels_are_means_shortly_before_and_after(posterior, changes):
    table = explain_transition(posterior, 1, 2, window=6).set_index("metric")
    values, rows = posterior.runs.values[..., 0], changes[:, 1]
    after, before = (
        np.mean([values[n, slice(*sorted((t, t + w)))].mean() for n, t in enumerate(rows)])
        for w in (6, -6)
    )
    assert table.loc["m0", "level"] == pytest.approx(after - before, abs=0.3)


def test_changes_that_no_run_makes(posterior):
    made = r"the changes made are phase 0 -> phase 1, phase 1 -> phase 2\."
    for source, target in ((2, 0), (0, "phase 2")):
        with pytest.raises(ValueError, match=f"no run changes from 'phase .' to .*; {made}"):
            explain_transition(posterior, source, target)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 7), {}, "there is no phase 7"),
        ((0, "settle"), {}, "there is no phase 'settle'"),
        ((0, 1), {"method": "guess"}, "method must be 'evidence' or 'hu2023'"),
        ((0, 1), {"level": 90}, "level=90 must lie between 0 and 1"),
        ((0, 1), {"window": 0}, "window=0 must be a number of rows"),
    ],
)
def test_arguments_are_checked(posterior, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        explain_transition(posterior, *arguments, **options)


def test_an_emission_of_a_users_own_has_no_shares(posterior):
    with pytest.raises(ValueError, match="has no conjugate updates, which this question needs"):
        explain_transition(replace(posterior, mode=None), 0, 1)
