from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_runs import changed, level_runs

from bayeshmm import Runs, compare, hu2023, messages
from bayeshmm.hu2023.scaling import scaled

MEANS = np.array([[0.0, 5.0], [8.0, 1.0], [3.0, -4.0]])
COVARIANCES = np.array([[[1.0, 0.6], [0.6, 0.8]], [[0.5, -0.3], [-0.3, 1.5]], np.eye(2)])


@pytest.fixture(scope="module")
def three_levels():
    """Six runs of unequal length through three levels, the last two in another order."""
    rows = np.array([[10, 20], [12, 25], [8, 22], [15, 24]])
    most = level_runs(rows, [40, 38, 40, 36], MEANS, COVARIANCES, seed=1).to_dataframe()
    turned = [0, 2, 1]
    few = level_runs(rows[:2], [40, 40], MEANS[turned], COVARIANCES[turned], seed=2).to_dataframe()
    few["run"] = few["run"].map({"seed-0": "seed-4", "seed-1": "seed-5"})
    return Runs.from_dataframe(pd.concat([most, few]))


@pytest.fixture(scope="module")
def comparison(three_levels):
    return hu2023.compare(three_levels, range(1, 5), restarts=3)


@pytest.fixture(params=["full", "diag"])
def both(request, three_levels):
    """The same parameters here and in hmmlearn, with the data as either wants it."""
    hmmlearn = pytest.importorskip("hmmlearn.hmm")
    rows, lengths = scaled(three_levels)
    here = hu2023.GaussianHMM.start(rows, lengths, 3, request.param, seed=4)
    there = hmmlearn.GaussianHMM(3, request.param, n_iter=1, init_params="")
    there.startprob_, there.transmat_ = here.initial.numpy(), here.transition.numpy()
    there.means_ = here.mean.numpy()
    spread = here.covariance
    if request.param == "diag":
        spread = spread.diagonal(dim1=-2, dim2=-1)
    there.covars_ = spread.numpy()
    flat = torch.cat([run[:length] for run, length in zip(rows, lengths, strict=True)])
    return here, (rows, lengths), there, (flat.numpy(), lengths.numpy())


def test_likelihood_and_bic_are_those_of_hmmlearn(both):
    here, data, there, its_data = both
    assert here.log_likelihood(*data) == pytest.approx(there.score(*its_data), rel=1e-10)
    assert here.bic(*data) == pytest.approx(there.bic(*its_data), rel=1e-10)
    paths = here.viterbi(*data)
    np.testing.assert_array_equal(paths[paths >= 0], there.predict(*its_data))


def test_a_step_of_em_is_that_of_hmmlearn(both):
    here, data, there, its_data = both
    following, likelihood = here.step(*data)
    assert likelihood == pytest.approx(there.score(*its_data), rel=1e-10)
    there.fit(*its_data)
    np.testing.assert_allclose(following.initial, there.startprob_, atol=1e-12)
    np.testing.assert_allclose(following.transition, there.transmat_, atol=1e-12)
    np.testing.assert_allclose(following.mean, there.means_, atol=1e-12)
    np.testing.assert_allclose(following.covariance, there.covars_, atol=1e-12)


@pytest.mark.parametrize(("kind", "states", "expected"), [("full", 6, 749), ("diag", 5, 164)])
def test_parameters_are_counted_as_in_the_paper(kind, states, expected):
    rows = torch.randn(2, 30, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = hu2023.GaussianHMM.start(rows, torch.tensor([30, 30]), states, kind)
    assert model.parameters == expected


def test_em_never_loses_likelihood_but_for_the_prior(three_levels):
    rows, lengths = scaled(three_levels)
    model = hu2023.GaussianHMM.start(rows, lengths, 3, "full", seed=0)
    likelihoods = []
    for _ in range(12):
        model, likelihood = model.step(rows, lengths)
        likelihoods.append(likelihood)
    assert min(np.diff(likelihoods)) > -0.5  # the scatter prior of 0.01 is not in the likelihood
    assert likelihoods[-1] > likelihoods[0] + 10


def test_a_singular_covariance_is_raised_a_little():
    rows = torch.randn(1, 30, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    copies = rows.expand(-1, -1, 2).contiguous()
    one = torch.ones(1, dtype=torch.float64)
    model = hu2023.GaussianHMM(
        one, one[:, None], torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, 2).double()
    )
    assert np.isfinite(model.log_likelihood(copies, torch.tensor([30])))


def test_runs_are_scaled_one_by_one(three_levels):
    rows, lengths = scaled(three_levels)
    for run, length in zip(rows, lengths, strict=True):
        np.testing.assert_allclose(run[:length].mean(0), 0.0, atol=1e-12)
        np.testing.assert_allclose(run[:length].std(0, correction=0), 1.0)
        assert not run[length:].any()


def test_only_the_first_thousand_rows_are_read():
    values = np.random.default_rng(0).standard_normal((2, 1100, 1))
    values[:, 1000:] += 50.0
    frame = level_runs(np.zeros((2, 0), int), [1100, 30], np.zeros((1, 1)), np.ones((1, 1, 1)))
    long = changed(frame, m0=np.concatenate([values[0], values[1, :30]])[:, 0])
    rows, lengths = scaled(long)
    assert lengths.tolist() == [1000, 30]
    np.testing.assert_allclose(rows[0].std(correction=0), 1.0)


def test_a_constant_metric_has_no_score(three_levels):
    frame = three_levels.to_dataframe()
    frame.loc[frame["run"] == "seed-2", "m1"] = 3.0
    with pytest.raises(ValueError, match=r"run 'seed-2': metric 'm1' is constant over the 40 rows"):
        hu2023.compare(Runs.from_dataframe(frame), [1, 2])


def test_the_true_number_of_states_and_its_map(comparison, three_levels):
    assert comparison.states == 3
    assert list(comparison.table.index) == [1, 2, 3, 4]
    assert len(comparison.held_out) == 2
    assert comparison.edges[["source", "target", "runs", "changes"]].to_numpy().tolist() == [
        [0, 1, 4, 4],
        [0, 2, 2, 2],
        [1, 2, 4, 4],
        [2, 1, 2, 2],
    ]
    matrix = comparison.best.transition.numpy()
    np.testing.assert_allclose(comparison.edges["probability"], matrix[[0, 0, 1, 2], [1, 2, 2, 1]])
    assert comparison.paths[3, 36:].tolist() == [-1] * 4


def test_scaling_each_run_hides_that_some_skip_a_state():
    rows = np.array([[10, 20], [12, 25], [8, 22], [15, 24], [11, 11], [13, 13]])
    skipping = level_runs(rows, [40] * 6, MEANS, COVARIANCES, seed=1)
    found = hu2023.compare(skipping, [3], restarts=3)
    used = found.edges.set_index(["source", "target"])["runs"]
    assert used.to_dict() == {(0, 1): 6, (1, 2): 4}  # and no change from 0 to 2, which two make


def test_criteria_are_of_the_held_out_runs(comparison):
    held = torch.tensor([comparison.runs.names.index(name) for name in comparison.held_out])
    model, row = comparison.models[1], comparison.table.loc[1]  # every restart ends here
    rows, lengths = comparison.rows[held], comparison.lengths[held]
    assert row["log_likelihood"] == pytest.approx(model.log_likelihood(rows, lengths), rel=1e-6)
    assert row["bic"] == pytest.approx(model.bic(rows, lengths), rel=1e-6)
    assert row["aic"] == pytest.approx(10 - 2 * row["log_likelihood"])
    assert row["parameters"] == 5


def test_order_of_the_runs_does_not_matter(comparison, three_levels):
    turned = hu2023.compare(three_levels.subset(three_levels.names[::-1]), [2, 3], restarts=3)
    assert set(turned.held_out) == set(comparison.held_out)
    np.testing.assert_allclose(turned.table["bic"], comparison.table.loc[[2, 3], "bic"], rtol=1e-8)


def test_derivatives_at_an_edge_equal_autograd(comparison):
    table = comparison.explain_transition(0, 2).set_index("metric")
    model, sizes = comparison.best, []
    for run, row in np.argwhere((comparison.paths[:, 1:] == 2) & (comparison.paths[:, :-1] == 0)):
        z = comparison.rows[run : run + 1, : row + 2].clone().requires_grad_()
        law = torch.distributions.MultivariateNormal(model.mean, model.covariance)
        rows = law.log_prob(z[..., None, :])
        here = torch.zeros_like(rows)
        here[:, -1] = torch.tensor([-torch.inf, -torch.inf, 0.0])
        chain = model.initial.log(), model.transition.log()
        both, any_state = (messages.log_marginal(*chain, part) for part in (rows + here, rows))
        (both - any_state).sum().backward()
        sizes.append(z.grad[0, -1].abs())
    expected = torch.stack(sizes).mean(0)
    np.testing.assert_allclose(table.loc[["m0", "m1"], "derivative"], expected, rtol=1e-8)
    change = model.mean[2] - model.mean[0]
    np.testing.assert_allclose(table.loc[["m0", "m1"], "change"], change)
    with pytest.raises(
        ValueError, match=r"changes from 2 to 0; the changes made are 0 -> 1, 0 -> 2"
    ):
        comparison.explain_transition(2, 0)


def test_words_say_what_it_concludes_and_what_is_wrong(comparison, three_levels):
    words = repr(comparison)
    assert "on 6 runs, 4 of them fitted: K = 3 has the smallest BIC on the others" in words
    assert "The map forks: 0 to 1 (runs: 4) or 2 (runs: 2)." in words
    assert "2 of the 4 edges rest on one or two runs." in words
    assert "looks ahead" in words
    assert "edge of the range" not in words
    narrow = hu2023.compare(three_levels, [2, 3], restarts=1, iterations=3)
    assert "K = 3 is at the edge of the range that was tried, 2 to 3" in repr(narrow)
    assert "100% of the fits were cut off" in repr(narrow)
    assert "<table" in narrow._repr_html_()


def test_near_ties_are_named(comparison):
    table = comparison.table.assign(bic=[10.0, 7.0, 4.0, 6.0], bic_sd=[1.0, 3.0, 2.0, 0.0])
    assert replace(comparison, table=table).faults[0].startswith("K = 2 and 4: a BIC within one")


def test_rows_that_lack_a_metric_are_left_out(three_levels):
    frame = three_levels.to_dataframe()
    frame.loc[frame.groupby("run").head(1).index, "m0"] = np.nan
    found = hu2023.compare(Runs.from_dataframe(frame), [2], restarts=1)
    assert found.incomplete == 6
    assert found.runs.lengths.tolist() == [39, 37, 39, 35, 39, 39]
    assert "6 rows that lack a metric are left out." in found.faults


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"states": []}, "states="),
        ({"states": [0, 1]}, "states="),
        ({"covariance": "tied"}, "covariance must be 'full' or 'diag', not 'tied'"),
    ],
)
def test_arguments_are_checked(three_levels, options, message):
    with pytest.raises(ValueError, match=message):
        hu2023.compare(three_levels, **options)


def test_one_run_cannot_be_split(three_levels):
    with pytest.raises(ValueError, match="give at least two"):
        hu2023.compare(three_levels.subset("seed-0"))


def test_settings_that_the_protocol_does_not_have_are_refused(three_levels):
    with pytest.raises(ValueError, match="leave out emission=, log="):
        compare(three_levels, [1, 2], "gaussian", protocol="hu2023", log=["loss"])
    with pytest.raises(ValueError, match="'hu2024' is not known"):
        compare(three_levels, [1, 2], protocol="hu2024")


def test_compare_hands_over(three_levels):
    metric = three_levels.metrics[0]
    found = compare(three_levels, [2], metrics=metric, protocol="hu2023", progress=False)
    own = hu2023.compare(three_levels.select(metric), [2], progress=False)
    pd.testing.assert_frame_equal(found.table, own.table)
