"""Coordinate ascent: a bound that never falls, below an evidence that is known."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from small_designs import design_of, random_values, regressors

from bayeshmm import HMM, Autoregressive, Gaussian, Runs
from bayeshmm.emissions import families
from bayeshmm.emissions.regression import RegressionPrior
from bayeshmm.encoding import Encoded
from bayeshmm.hmm import Prior
from bayeshmm.inference.moves import moved
from bayeshmm.inference.search import improve, search
from bayeshmm.inference.starts import softened, starting_states
from bayeshmm.inference.variational import CoordinateAscent, expectation
from bayeshmm.transitions import TransitionPrior

KNOWN = (1e10, 1e10)  # a Gamma law that is a point at one


def problem(family, states, values, lengths=None, dwell=2, expected=5.0, **hyper):
    design = design_of(values, family, lengths)
    layout = families.layout(family, values.shape[2])
    prior = Prior(
        RegressionPrior(layout, states, **hyper),
        TransitionPrior(states, dwell, expected),
        None,
        dwell,
    )
    data = Encoded(design, None, torch.zeros(len(values), dtype=torch.float64))
    return prior, data


@pytest.mark.parametrize("missing", [0.0, 0.25])
@pytest.mark.parametrize(
    "family",
    [Gaussian(), Autoregressive(lags=3), Autoregressive(lags=2, covariance="diagonal")],
    ids=repr,
)
def test_the_bound_never_falls(family, missing):
    values = random_values(runs=4, rows=30, missing=missing, seed=2)
    prior, data = problem(family, 3, values, [30, 30, 22, 9])
    ascent = CoordinateAscent(prior, data, starting_states(data.design, 3, 5, 0))
    bounds = torch.stack([ascent.sweep() for _ in range(40)])
    assert (bounds.diff(dim=0) > -1e-7).all()


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


def feasible_paths(T, K, dwell):
    """Every path whose visits, the last one aside, last at least `dwell` rows."""
    for path in itertools.product(range(K), repeat=T):
        lengths = [len(list(group)) for _, group in itertools.groupby(path)]
        if all(length >= dwell for length in lengths[:-1]):
            yield path


def log_path_prior(path, prior):
    """Beta and Dirichlet-multinomial law of a path, its hyper-parameters summed over the grid."""
    K, d = prior.states, prior.minimum_dwell
    exits, stays = np.zeros(K), np.zeros(K)
    age = 1
    for t in range(len(path) - 1):
        if age >= d:
            if path[t + 1] == path[t]:
                stays[path[t]] += 1
            else:
                exits[path[t]] += 1
        age = age + 1 if path[t + 1] == path[t] else 1
    a, b = prior.exit_grid.unbind(-1)

    def log_beta(x, y):
        return torch.lgamma(x) + torch.lgamma(y) - torch.lgamma(x + y)

    grid = prior.log_exit_prior + sum(
        log_beta(a + exits[k], b + stays[k]) - log_beta(a, b) for k in range(K)
    )
    return float(grid.logsumexp(0)) - math.log(K)  # two states: a jump has one target


def log_rows(path, design, K):
    """Marginal Student-t of the rows given a path, all hyper-parameters at one."""
    total = 0.0
    labels = np.array(path)
    layout = design.layout
    start = int((~design.complete[0]).sum())
    for k in range(K):
        rows = torch.from_numpy(np.flatnonzero(labels == k))
        rows = rows[rows >= start]
        for j in range(layout.metrics):
            size = layout.past + (j if layout.full else 0)
            equation = regressors(design)[j][rows]
            X, z = equation[:, :size], equation[:, -1]
            a = 1.0 + (0.5 * j if layout.full else 0.0)
            scale = torch.eye(len(z), dtype=torch.float64) + X @ X.T
            student = scale / (2 * a)
            n, nu = len(z), 2 * a
            if n == 0:
                continue
            distance = float(z @ torch.linalg.solve(student, z))
            total += (
                math.lgamma((nu + n) / 2)
                - math.lgamma(nu / 2)
                - 0.5 * n * math.log(nu * math.pi)
                - 0.5 * float(torch.linalg.slogdet(student)[1])
                - 0.5 * (nu + n) * math.log1p(distance / nu)
            )
    return total


@pytest.mark.parametrize("family", [Gaussian(), Autoregressive(lags=1)], ids=repr)
def test_the_bound_lies_just_under_the_enumerated_evidence(family):
    """Two states, eight rows, every path that the dwell allows; hyper-parameters known."""
    values = random_values(runs=1, rows=8, metrics=2, seed=1)
    values[0, 4:] += 4.0
    prior, data = problem(family, 2, values, dwell=2, group=KNOWN, scale=KNOWN)
    terms = [
        log_path_prior(path, prior.transition) + log_rows(path, data.design, 2)
        for path in feasible_paths(8, 2, 2)
    ]
    evidence = float(torch.tensor(terms, dtype=torch.float64).logsumexp(0))
    fit, _ = search(prior, data, 8, seed=0)
    gap = evidence - fit.bound
    assert 0.0 < gap < 4.0  # the two labellings alone are worth up to log 2


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


def test_relabelling_a_fit_permutes_everything():
    values = random_values(runs=3, rows=25, metrics=2, seed=5)
    prior, data = problem(Gaussian(), 3, values)
    fit, _ = search(prior, data, 4, seed=0)
    order = torch.tensor([2, 0, 1])
    moved = fit.relabelled(order)
    again = expectation(
        data.design,
        moved.parameters.regression,
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


def test_moves_leave_a_local_mode():
    """From a mode that has merged two phases and split another, the search comes out."""
    rng = np.random.default_rng(0)
    levels = np.repeat([0.0, 4.0, -4.0], 20)
    values = levels[None, :, None] + rng.standard_normal((5, 60, 2))
    prior, data = problem(Gaussian(), 3, values, dwell=5, expected=20.0)
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
