"""The chain over gaps of many base steps, against every path of base steps there is."""

from collections import Counter, defaultdict
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from bayeshmm import messages
from bayeshmm.runs import Runs
from bayeshmm.transitions import Chain
from bayeshmm.transitions.gaps import Gaps
from bayeshmm.transitions.schedule import Schedule, base_step

UNLIKELY = 1e-3
"""False-alarm rate of every test of draws; seeds are fixed."""


def chain(K, n=1, seed=0, forward=False):
    """Chains whose rows sum to less than one, as expected logarithms do."""
    generator = np.random.default_rng(seed)
    transition = 0.9 * generator.dirichlet(np.ones(K), (n, K))
    initial = generator.dirichlet(np.ones(K), n)
    if forward:
        transition, initial = np.triu(transition), initial * (np.arange(K) == 0)
    return Chain(torch.from_numpy(initial), torch.from_numpy(transition))


def likelihood(N, T, K, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(N, T, K)))


def inside(gaps, source, target, ruled, dwell):
    """Every way through a gap from one state to another: its base steps, as pairs of states."""
    if not ruled:
        return [[]] if source == target else []
    K = ruled
    if dwell == 1:
        return [
            list(pairwise((source, *between, target)))
            for between in product(range(K), repeat=gaps - 1)
        ]
    if source == target:
        return [[(source, source)] * gaps]
    return [[(source, source)] * i + [(source, target)] for i in range(gaps)]


def histories(path, gaps, K, dwell):
    """Every history of base steps behind the states of the rows, as lists of pairs of states."""
    found, age = [[]], 1
    for source, target, gap in zip(path[:-1], path[1:], gaps, strict=True):
        ways = inside(gap, source, target, K if age >= dwell else 0, dwell)
        found = [[*history, *way] for history in found for way in ways]
        age = age + 1 if source == target else 1
    return found


def enumerated(start, transition, rows, gaps, dwell):
    """Expected first states and base steps of one run, and its log density, by brute force."""
    T, K = rows.shape
    total, first, steps = 0.0, np.zeros(K), np.zeros((K, K))
    for path in product(range(K), repeat=T):
        seen = start[path[0]] * np.exp(sum(rows[t, k] for t, k in enumerate(path)))
        for history in histories(path, gaps, K, dwell):
            weight = seen * np.prod([transition[pair] for pair in history])
            total += weight
            first[path[0]] += weight
            for pair in history:
                steps[pair] += weight
    return np.log(total), first / total, steps / total


GAPS = torch.tensor([[2, 1, 3], [1, 1, 1], [3, 2, 1]])
LENGTHS = torch.tensor([4, 4, 3])


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("dwell", [1, 2, 3])
@pytest.mark.parametrize("axis", ["shared", "groups", "own"])
def test_expected_counts_are_those_of_all_paths_of_base_steps(dwell, axis, forward):
    K, rows = 3, likelihood(3, 4, 3)
    groups = torch.tensor([1, 0, 1]) if axis == "groups" else None
    value = chain(K, {"shared": 1, "groups": 2, "own": 3}[axis], forward=forward)
    schedule = Schedule(groups, GAPS)
    spread = schedule.spread(value.log, dwell)
    result = messages.expected_counts(*spread, rows, lengths=LENGTHS, minimum_dwell=dwell)
    mine = {"shared": [0, 0, 0], "groups": [1, 0, 1], "own": [0, 1, 2]}[axis]
    exact = [
        enumerated(
            value.initial[mine[n]].numpy(),
            value.transition[mine[n]].numpy(),
            rows[n, : LENGTHS[n]].numpy(),
            GAPS[n, : LENGTHS[n] - 1].tolist(),
            dwell,
        )
        for n in range(3)
    ]
    np.testing.assert_allclose(result.log_marginal, [density for density, _, _ in exact])
    by_run = schedule.counts(value.log, result, dwell, True)
    np.testing.assert_allclose(by_run.initial, [first for _, first, _ in exact], atol=1e-13)
    np.testing.assert_allclose(by_run.transition, [steps for _, _, steps in exact], atol=1e-13)
    pooled = schedule.counts(value.log, result, dwell, False)
    for part, own in zip(pooled, by_run, strict=True):
        for m in range(len(value.initial)):
            members = [n for n in range(3) if mine[n] == m]
            np.testing.assert_allclose(part[m], own[members].sum(0), atol=1e-13)


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("dwell", [1, 3])
def test_counts_are_the_gradient_of_the_log_density(dwell, forward):
    value, rows = chain(3, 2, forward=forward).log, likelihood(3, 4, 3)
    leaf = Chain(*(part.clone().requires_grad_() for part in value))
    schedule = Schedule(torch.tensor([1, 0, 1]), GAPS * 37)
    spread = schedule.spread(leaf, dwell)
    kwargs = {"lengths": LENGTHS, "minimum_dwell": dwell}
    messages.log_marginal(*spread, rows, **kwargs).sum().backward()
    result = messages.expected_counts(*schedule.spread(value, dwell), rows, **kwargs)
    counts = schedule.counts(value, result, dwell, False)
    torch.testing.assert_close(leaf.initial.grad, counts.initial)
    torch.testing.assert_close(leaf.transition.grad, counts.transition, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dwell", [1, 2])
def test_spread_passes_a_numerical_check_of_its_gradient(dwell):
    leaf = chain(3).log.transition.requires_grad_()
    schedule = Schedule(None, torch.tensor([[1, 5, 12]]))
    initial = torch.zeros(1, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda part: schedule.spread(Chain(initial, part), dwell).transition, leaf
    )


@pytest.mark.parametrize("K", [1, 2, 5])
def test_law_over_gaps_is_the_power_of_the_matrix(K):
    lengths = torch.tensor([1, 2, 3, 7, 64, 97, 1000])
    transition = chain(K, 2).transition
    transition = transition / transition.sum(-1, keepdim=True)
    gaps = Gaps.of(lengths)
    law = gaps.law(transition.log(), free=False).exp()
    for steps, power in zip(gaps.steps.tolist(), law.unbind(-3), strict=True):
        exact = torch.linalg.matrix_power(transition, steps)
        torch.testing.assert_close(power, exact, rtol=1e-11, atol=0)
    assert set(lengths.tolist()) <= set(gaps.steps.tolist())


def test_with_a_dwell_a_phase_is_left_at_most_once_between_two_rows():
    lengths = torch.tensor([1, 6, 250])
    transition = torch.from_numpy(
        np.array([[0.99, 0.004, 0.006], [0.0, 1.0, 0.0], [1e-20, 0.0, 1.0]])
    )
    gaps = Gaps.of(lengths)
    law = gaps.law(Chain(transition, transition).log.transition, free=True).exp()
    for steps, power in zip(gaps.steps.tolist(), law.unbind(-3), strict=True):
        left = 1 - 0.99**steps
        exact = [[1 - left, 0.4 * left, 0.6 * left], [0, 1, 0], [steps * 1e-20, 0, 1]]
        np.testing.assert_allclose(power, exact, rtol=1e-12)


def test_gaps_of_a_million_base_steps():
    leave = np.array([3e-7, 2e-6])
    transition = torch.from_numpy(np.array([[1 - leave[0], leave[0]], [leave[1], 1 - leave[1]]]))
    steps = 10**6
    law = Gaps.of(torch.tensor([steps])).law(transition.log(), free=False)[-1].exp()
    rate, total = leave.sum(), leave / leave.sum()
    forgotten = -np.expm1(steps * np.log1p(-rate))  # a chain of two states in closed form
    moved = total * forgotten
    np.testing.assert_allclose(law, [[1 - moved[0], moved[0]], [moved[1], 1 - moved[1]]], rtol=1e-9)
    # what is as good as impossible keeps its logarithm: no underflow
    gone = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double()
    log = Gaps.of(torch.tensor([steps])).law(Chain(gone, gone).log.transition, free=False)[-1]
    np.testing.assert_allclose(log[0, 0], steps * np.log(0.5))
    assert log[1].tolist() == [-np.inf, 0.0]


@pytest.mark.parametrize("dwell", [1, 2])
def test_all_base_steps_of_a_long_gap_are_accounted_for(dwell):
    """Expected and drawn, however many: with a dwell, those after a change are not ruled."""
    gaps = torch.tensor([[10**6, 3, 10**6]])
    paths = torch.tensor([[[0, 0, 0, 0]]])
    log = chain(2).transition.logit()  # any weights
    log = Chain(log[:, 0], torch.log_softmax(log - torch.tensor([[0.0, 8.0], [8.0, 0.0]]), -1))
    generator = torch.Generator().manual_seed(0)
    drawn = Schedule(None, gaps).path_counts(paths, log, dwell, generator)
    ruled = gaps.sum() if dwell == 1 else gaps[0, 1:].sum()
    assert drawn.transition.sum() == ruled
    assert (drawn.transition[..., 0, 1] > 0).all() == (dwell == 1)
    certain = torch.where(torch.arange(2) == 0, 0.0, -torch.inf).expand(1, 4, 2).double()
    spread = Schedule(None, gaps).spread(log, dwell)
    result = messages.expected_counts(*spread, certain, minimum_dwell=dwell)
    expected = Schedule(None, gaps).counts(log, result, dwell, False)
    np.testing.assert_allclose(expected.transition.sum(), ruled, rtol=1e-9)
    spread_of_draws = drawn.transition[0, 0].sqrt() * 6
    assert ((drawn.transition[0, 0] - expected.transition[0]).abs() <= spread_of_draws).all()


@pytest.mark.parametrize(
    ("dwell", "path"),
    [(1, (0, 0, 1, 2)), (1, (2, 2, 2, 2)), (2, (0, 0, 1, 1, 1, 2)), (3, (0, 0, 0, 0, 2, 2))],
)
def test_drawn_counts_have_the_law_of_all_histories(dwell, path):
    gaps = [3, 1, 4, 2, 5][: len(path) - 1]
    value = chain(3, seed=5)
    law = defaultdict(float)
    for history in histories(path, gaps, 3, dwell):
        steps = Counter(history)
        cells = tuple(steps[pair] for pair in product(range(3), repeat=2))
        law[cells] += np.prod([value.transition[0][pair] for pair in history])
    draws = 5000
    paths = torch.tensor(path).expand(draws, 1, -1)
    schedule = Schedule(None, torch.tensor([gaps]))
    drawn = schedule.path_counts(paths, value.log, dwell, torch.Generator().manual_seed(1))
    assert (drawn.initial[:, 0].argmax(-1) == path[0]).all()
    seen = Counter(map(tuple, drawn.transition[:, 0].flatten(1).int().tolist()))
    assert set(seen) <= set(law)
    total = sum(law.values())
    observed = np.array([seen[cells] for cells in law])
    expected = np.array([draws * weight / total for weight in law.values()])
    rare = expected < 5
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    assert len(law) > 1
    assert stats.chisquare(observed, expected).pvalue > UNLIKELY


def test_drawn_counts_of_groups_and_of_chains_of_runs():
    """A batch of draws at once is each run's own, summed by group; means are expected counts."""
    paths = torch.tensor([[0, 1, 1, 2], [2, 2, 0, 1], [1, 0, 0, -1]])
    groups, value, draws = torch.tensor([1, 0, 1]), chain(3, 2), 4000
    schedule = Schedule(groups, GAPS)
    generator = torch.Generator().manual_seed(2)
    drawn = schedule.path_counts(paths.expand(draws, -1, -1), value.log, 1, generator)
    assert drawn.initial[0].tolist() == [[0, 0, 1], [1, 1, 0]]
    assert (drawn.transition.sum((-1, -2)) == torch.tensor([3.0, 11.0])).all()
    known = torch.nn.functional.one_hot(paths.clamp_min(0), 3).double().log()
    result = messages.expected_counts(*schedule.spread(value.log, 1), known, lengths=LENGTHS)
    expected = schedule.counts(value.log, result, 1, False).transition
    error = drawn.transition.std(0) / draws**0.5
    assert ((drawn.transition.mean(0) - expected).abs() <= 4.5 * error + 1e-12).all()


def test_without_gaps_nothing_is_drawn_and_paths_are_counted():
    paths = torch.tensor([[[0, 0, 1, 1, 1], [1, 0, 0, 0, -1]], [[1, 1, 1, 1, 1], [0, 0, 1, 0, -1]]])
    log, generator = chain(2).log, torch.Generator().manual_seed(0)
    before = generator.get_state()
    counts = Schedule().path_counts(paths, log, 1, generator)
    assert counts.initial.tolist() == [[[1, 1]], [[1, 1]]]
    assert counts.transition.tolist() == [[[[3, 1], [1, 2]]], [[[1, 1], [1, 4]]]]
    dwelling = Schedule().path_counts(paths, log, 2, generator)
    assert dwelling.transition.tolist() == [[[[1, 1], [0, 1]]], [[[0, 1], [0, 3]]]]
    assert torch.equal(generator.get_state(), before)
    each = Schedule(torch.tensor([1, 0])).path_counts(paths, chain(2, 2).log, 1, generator)
    assert each.transition[0].tolist() == [[[2, 0], [1, 0]], [[1, 1], [0, 2]]]


def test_without_gaps_the_chain_is_what_it_was():
    value, rows = chain(3, 2).log, likelihood(3, 4, 3)
    assert Schedule().spread(value, 2) is value
    spread = Schedule(torch.tensor([1, 0, 1])).spread(value, 2)
    assert torch.equal(spread.transition, value.transition[[1, 0, 1]])
    result = messages.expected_counts(*spread, rows)
    counts = Schedule(torch.tensor([1, 0, 1])).counts(value, result, 1, False)
    torch.testing.assert_close(counts.transition[1], result.transition[[0, 2]].sum(0))
    torch.testing.assert_close(counts.initial[0], result.initial[1])


def test_runs_on_one_grid_share_their_law():
    runs = recorded({"a": [0, 1, 3, 7, 15], "b": [0, 1, 3]})
    law = Schedule.of(runs, 1).spread(chain(2).log, 1).transition
    assert law.shape == (1, 4, 2, 2)
    apart = Schedule.of(recorded({"a": [0, 1, 3], "b": [0, 2, 3]}), 1).spread(chain(2).log, 1)
    assert apart.transition.shape == (2, 2, 2, 2)


def recorded(steps):
    """Runs of one metric with rows at these steps."""
    rows = [(name, step, 0.1 * step) for name, own in steps.items() for step in own]
    return Runs.from_dataframe(pd.DataFrame(rows, columns=["run", "step", "loss"]))


def test_schedule_counts_in_base_steps():
    runs = recorded({"a": [0, 20, 40, 100], "b": [10, 40], "c": [0, 10, 20]})
    assert base_step(runs) == 10
    schedule = Schedule.of(runs, 10, torch.tensor([0, 0, 1]))
    assert schedule.gaps[0].tolist() == [2, 2, 6]
    assert schedule.gaps[1, 0] == 3
    assert schedule.gaps[2, :2].tolist() == [1, 1]
    some = schedule.take(torch.tensor([2, 0]))
    assert some.groups.tolist() == [1, 0]
    assert some.gaps[1].tolist() == [2, 2, 6]
    assert Schedule.of(recorded({"a": [5, 15, 25], "b": [0, 10]}), 10) == Schedule()


def test_gap_that_is_no_multiple_of_the_base_step_is_named():
    runs = recorded({"a": [0, 20, 40], "late": [0, 20, 25]})
    with pytest.raises(ValueError, match=r"run 'late'.*steps 20 and 25 are 5 steps apart.*10"):
        Schedule.of(runs, 10)
