"""Simulated runs have the law that the model's definition gives them, whatever is inferred."""

import random
import re

import numpy as np
import pytest
import torch
from scipy import stats

from bayeshmm.emissions import Autoregressive, Gaussian, families
from bayeshmm.emissions.hyperpriors import Hyperpriors
from bayeshmm.hmm import HMM
from bayeshmm.scaling import Pace
from bayeshmm.simulation import draw_parameters, simulate
from bayeshmm.transitions import Dirichlet, LeftToRight, Schedule

TAME = Hyperpriors(noise_shape=3.0, scale=(5.0, 50.0), shrinkage=(5.0, 0.5), run_effects=(5.0, 0.5))
FAMILIES = [
    Gaussian(hyperpriors=TAME),
    Gaussian(covariance="diagonal", noise="normal", run_effects=False, hyperpriors=TAME),
    Autoregressive(lags=1, hyperpriors=TAME),
    Autoregressive(lags=3, half_lives=(4.0,), coupling="full", hyperpriors=TAME),
    Autoregressive(lags=2, covariance="diagonal", noise="normal", hyperpriors=TAME),
    Autoregressive(lags=1, half_lives=(2.0, 8.0), run_effects=False, hyperpriors=TAME),
]
UNLIKELY = 1e-3
"""Smallest p-value that passes; the seeds are fixed, so a failure means that the law changed."""


def model(family=FAMILIES[2], dwell=3, expected=8.0):
    return HMM(3, family, Dirichlet(expected_dwell=expected), dwell)


def pace(runs):
    """Gaps in units of the median gap; increments do not grow with them."""
    gaps, within = np.diff(runs.steps), runs.steps[:, 1:] >= 0
    relative = np.where(within, gaps, 1.0) / np.median(gaps[within])
    return Pace(np.pad(relative, ((0, 0), (1, 0))), 0.0)


def residuals(family, simulation):
    """Residuals of every row in units of their deviation, (rows, D), by the regressors."""
    parameters, runs = simulation.parameters, simulation.runs
    layout = families.layout(family, len(runs.metrics))
    D, P = layout.metrics, layout.past
    design = families.design(
        family,
        runs.values,
        runs.lengths.astype(np.int64),
        np.ones(D),
        np.zeros(D),
        np.ones((D, len(family.features))),
        pace(runs),
    )
    found = []
    for n, t in zip(*np.nonzero(design.complete.numpy()), strict=True):
        k = simulation.paths[n, t]
        z = design.response[n, t]
        left = z.clone()
        for j in range(D):
            b = parameters.law.coefficients[0, k, j]
            left[j] -= b[:P] @ design.past[n, t, j]
            left[j] -= b[P : P + j] @ z[: len(b[P : P + j])]
        if parameters.law.effects is not None:
            left -= parameters.law.effects.mean[n, k]
        found.append(left * parameters.law.precision[0, k].sqrt())
    return torch.stack(found).numpy()


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_rows_follow_the_regressions_of_their_states(family, uneven):
    steps = np.random.default_rng(0).integers(1, 40, 50).cumsum() if uneven else None
    lengths = [50, 20, 40] * 8
    simulation = simulate(model(family), lengths, seed=1, metrics=3, steps=steps)
    left = residuals(family, simulation)
    starts = len(simulation.runs) if family.dynamic else 0
    assert len(left) == simulation.runs.lengths.sum() - starts
    tail = simulation.parameters.law.tail
    each = stats.norm() if tail is None else stats.t(float(tail.degrees))
    assert min(stats.kstest(column, each.cdf).pvalue for column in left.T) > UNLIKELY
    # one weight a row: squared distances are 3 F(3, nu), not sums of squares of independent t
    distance = (left**2).sum(1) / 3
    whole = stats.chi2(3, scale=1 / 3) if tail is None else stats.f(3, float(tail.degrees))
    assert stats.kstest(distance, whole.cdf).pvalue > UNLIKELY
    assert np.abs(stats.spearmanr(left).statistic - np.eye(3)).max() < 0.12  # 3.5 / sqrt(rows)


@pytest.mark.parametrize("dwell", [1, 4])
def test_paths_follow_the_chain_after_the_minimum_dwell(dwell):
    simulation = simulate(model(dwell=dwell), [30, 45] * 400, seed=3)
    paths, chain = simulation.paths, simulation.parameters.chain
    assert ((paths >= 0).sum(1) == simulation.runs.lengths).all()
    changes = [np.flatnonzero(np.diff(path[path >= 0])) + 1 for path in paths]
    visits = [np.diff(rows, prepend=0) for rows in changes]
    assert np.concatenate(visits).min() == dwell
    counts = path_counts(paths, chain, dwell)
    first, ruled = counts.initial[0].numpy(), counts.transition[0].numpy()
    assert chi_square(first, chain.initial[0].numpy()) > UNLIKELY
    for k in range(3):
        assert chi_square(ruled[k], chain.transition[0, k].numpy()) > UNLIKELY


def path_counts(paths, chain, dwell):
    return Schedule().path_counts(torch.from_numpy(paths), chain.log, dwell, torch.Generator())


@pytest.mark.parametrize("dwell", [1, 2])
def test_paths_of_uneven_rows_follow_the_chain_of_base_steps(dwell):
    """Base steps of ten training steps. With a dwell there is one change at most between rows."""
    steps = [10 * step for step in (0, 1, 3, 8, 9, 21)]
    hmm = model(dwell=dwell, expected=400.0)
    simulation = simulate(hmm, [6] * 3000, seed=6, steps=steps)
    chain, paths = simulation.parameters.chain, simulation.paths
    one = chain.transition[0].numpy()
    exits, off = 1 - one.diagonal(), ~np.eye(3, dtype=bool)
    for t, gap in enumerate(np.diff(steps) // 10):
        left = 1 - (1 - exits) ** gap
        law = np.diag(1 - left) + off * one * (left / exits)[:, None]
        if dwell == 1:
            law = np.linalg.matrix_power(one, gap)
        start, end = paths[:, t], paths[:, t + 1]
        fresh = (dwell == 2) & (start != (paths[:, t - 1] if t else -1))
        assert (start[fresh] == end[fresh]).all()
        if fresh.all():
            continue
        counts = path_counts(paths[~fresh, t : t + 2], chain, 1).transition[0].numpy()
        for k in range(3):
            assert chi_square(counts[k], law[k]) > UNLIKELY / 15


def test_runs_of_a_chain_with_zeros_never_turn_back():
    hmm = HMM(3, FAMILIES[0], LeftToRight(expected_dwell=30.0), 1)
    paths = simulate(hmm, [8] * 50, seed=0, steps=[0, 1, 2, 4, 8, 16, 32, 64]).paths
    assert (paths[:, 0] == 0).all()
    assert (np.diff(paths) >= 0).all()
    assert paths.max() == 2


def chi_square(counts, probabilities):
    return stats.chisquare(counts, counts.sum() * probabilities).pvalue


@pytest.mark.parametrize("family", FAMILIES[2:4], ids=repr)
def test_parameters_follow_their_priors(family):
    """Every part divided by what its law says it should be: pivots with a known law."""
    hmm, generator = model(family), torch.Generator().manual_seed(0)
    prior = hmm.prior(simulate(hmm, [30, 30], seed=0).runs)
    active = prior.regression.layout.active
    pivots = {}
    for _ in range(300):
        drawn = draw_parameters(prior, 2, generator)
        law, precisions = drawn.law, drawn.precisions
        spread = (prior.regression.expand(precisions)[:, None] * law.precision[..., None]).rsqrt()
        assert (law.coefficients[..., ~active] == 0).all()
        lambda_run = precisions.groups[0, -1]
        parts = {
            "lambda": precisions.groups[0, 1],
            "lambda_run": lambda_run,
            "psi": precisions.scales,
            "noise 0": law.precision[0, :, 0] * precisions.scales[0, 0] / 2,
            "noise 1": law.precision[0, :, 1] * precisions.scales[0, 1] / 2,
            "coefficients": (law.coefficients / spread)[0, 0, active],
            "effects": law.effects.mean[0, :1] * (lambda_run * law.precision[0, :1]).sqrt(),
            "entry": drawn.entry.coefficients[0, 0, :, 0]
            * (drawn.entry.precision[0, 0] * drawn.entry_precisions.groups[0, 0]).sqrt(),
            "nu": law.tail.degrees,
            "exit_mean": drawn.hyper["exit_mean"],
            "jump_concentration": drawn.hyper["jump_concentration"],
        }
        for name, part in parts.items():
            pivots.setdefault(name, []).append(part.flatten().numpy())
    expected_excess = 8.0 - 3
    laws = {
        "lambda": stats.gamma(5, scale=2),
        "lambda_run": stats.gamma(5, scale=2),
        "psi": stats.gamma(5, scale=1 / 50),
        "noise 0": stats.gamma(3),
        "noise 1": stats.gamma(3.5),
        "coefficients": stats.norm(),
        "effects": stats.norm(),
        "entry": stats.norm(),
        "exit_mean": stats.beta(2, 2 * expected_excess),
        "jump_concentration": stats.gamma(2, scale=1),
        "nu": stats.gamma(2, scale=10),
    }
    on_a_grid = {"exit_mean", "jump_concentration", "nu"}
    for name, law in laws.items():
        values = np.concatenate(pivots[name])
        if name in on_a_grid:
            limits = stats.norm.isf(UNLIKELY / 2) * law.std() / np.sqrt(len(values))
            assert abs(values.mean() - law.mean()) < limits + 0.02 * law.mean(), name
        else:
            assert stats.kstest(values, law.cdf).pvalue > UNLIKELY, name


def test_first_values_follow_the_entry_law():
    family = FAMILIES[2]
    simulation = simulate(model(family), [2] * 500, seed=0)
    entry = simulation.parameters.entry
    first = simulation.runs.values[:, 0]
    b, sd = entry.coefficients[0, 0].numpy(), entry.precision[0, 0].rsqrt().numpy()
    left = [first[:, 0] - b[0, 0], first[:, 1] - b[1, 0] - b[1, 1] * first[:, 0]]
    for part, deviation in zip(left, sd, strict=True):
        assert stats.kstest(part / deviation, "norm").pvalue > UNLIKELY


def test_runs_have_the_lengths_steps_and_names_asked_for():
    simulation = simulate(model(), [7, 4], 0, metrics=["loss", "norm", "time"], step_gap=50)
    runs = simulation.runs
    assert runs.metrics == ("loss", "norm", "time")
    assert runs.names == ("run-0", "run-1")
    assert runs.steps.tolist() == [list(range(0, 350, 50)), [0, 50, 100, 150, -1, -1, -1]]
    assert np.isnan(runs.values[1, 4:]).all()
    assert np.isfinite(runs.values[simulation.paths >= 0]).all()
    assert (simulation.paths[1, 4:] == -1).all()
    assert runs.to_dataframe().notna().all(axis=None)


def test_steps_are_those_asked_for():
    shared = simulate(model(), [4, 2], 0, steps=[5, 6, 8, 100]).runs
    assert shared.steps.tolist() == [[5, 6, 8, 100], [5, 6, -1, -1]]
    own = simulate(model(), [3, 2], 0, steps=[[0, 2, 8], (4, 6)]).runs
    assert own.steps.tolist() == [[0, 2, 8], [4, 6, -1]]


def test_one_state_and_one_metric():
    simulation = simulate(HMM(1, FAMILIES[0]), [5, 6], 0, metrics="loss")
    assert simulation.runs.metrics == ("loss",)
    assert set(simulation.paths.flatten()) == {0, -1}
    assert simulation.runs.values.shape == (2, 6, 1)


def global_streams():
    legacy = np.random.get_state()[1]  # noqa: NPY002
    return random.getstate(), legacy.tolist(), torch.get_rng_state().tolist()


def test_a_seed_rules_everything_and_leaves_the_world_alone():
    before = global_streams()
    one, same, other = (simulate(model(), [9, 9], seed).runs.values for seed in (4, 4, 5))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert global_streams() == before


def test_an_explosion_names_the_run_the_row_and_the_remedy():
    loud = Autoregressive(lags=1, hyperpriors=Hyperpriors(shrinkage=(0.5, 50.0)))
    words = ("run 'run-", "by row", "Hyperpriors(", "seed")
    with pytest.raises(ValueError, match=".*".join(map(re.escape, words))):
        simulate(model(loud), [3000], 0)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"lengths": []}, "lengths"),
        ({"lengths": [10, 0]}, "lengths"),
        ({"lengths": [10.5]}, "lengths"),
        ({"lengths": [10], "metrics": 0}, "metrics"),
        ({"lengths": [10], "metrics": ["loss", "loss"]}, "loss"),
        ({"lengths": [10], "step_gap": 0}, "step_gap"),
        ({"lengths": [4, 3], "steps": [0, 1, 2]}, "steps"),
        ({"lengths": [3, 3], "steps": [[0, 1, 2]]}, "steps"),
        ({"lengths": [3], "steps": [0, 2, 1]}, "run-0"),
    ],
)
def test_bad_input_is_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        simulate(model(), seed=0, **arguments)
