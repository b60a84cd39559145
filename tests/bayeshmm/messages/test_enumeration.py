"""Every public function against the listing of all paths."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from bayeshmm.messages.chain import check

from . import enumeration

INF = float("inf")


@dataclass(frozen=True)
class Case:
    """A batch of ragged runs with parameters of their own or in common."""

    log_initial: torch.Tensor
    log_transition: torch.Tensor
    log_likelihood: torch.Tensor
    lengths: torch.Tensor
    dwell: int | list[int]

    @property
    def inputs(self):
        return (self.log_initial, self.log_transition, self.log_likelihood)

    @property
    def options(self):
        return {"lengths": self.lengths, "minimum_dwell": self.dwell}

    def runs(self):
        """What enumeration takes, for every run by itself."""
        N, T, K = self.log_likelihood.shape
        steps = self.log_transition
        if steps.ndim < 4:
            steps = steps.expand(N, K, K)[:, None].expand(N, T - 1, K, K)
        dwell = [self.dwell] * K if isinstance(self.dwell, int) else self.dwell
        for i, n in enumerate(self.lengths.tolist()):
            yield (
                self.log_initial.expand(N, K)[i].numpy(),
                steps.expand(N, T - 1, K, K)[i].numpy(),
                self.log_likelihood[i, :n].numpy(),
                dwell,
            )


DWELLS = [1, 2, 3, 4, 9, [1, 3, 2], [4, 1, 1], [2, 2, 7]]


def case(seed: int) -> Case:
    """A case that differs with the seed in every respect that the functions distinguish."""
    g = np.random.default_rng(seed)
    N, T, K = 3, int(g.integers(1, 7)), int(g.integers(1, 4))
    dwell = DWELLS[seed % len(DWELLS)]
    own, per_step, zeros = seed % 2 == 0, seed % 3 == 0, seed % 4 == 1
    spread, level = [(1.0, 0.0), (4.0, 0.0), (1000.0, 5000.0)][int(g.integers(3))]

    initial = g.dirichlet(np.ones(K), size=(N,) if own else ())
    shape = (N if own else 1, T - 1) if per_step else (N,) if own else ()
    transition = g.dirichlet(np.ones(K), size=(*shape, K))
    log_likelihood = level + spread * g.standard_normal((N, T, K))
    if zeros:
        initial[g.random(initial.shape) < 0.3] = 0
        transition[g.random(transition.shape) < 0.3] = 0
        log_likelihood[g.random(log_likelihood.shape) < 0.15] = -INF
    log_likelihood[g.random((N, T)) < 0.2] = 0.0  # missing rows
    with np.errstate(divide="ignore"):
        log_initial, log_transition = np.log(initial), np.log(transition)
    lengths = g.integers(1, T + 1, N)
    for i, n in enumerate(lengths):
        log_likelihood[i, n:] = np.nan  # padding is never read
        if per_step and own:
            log_transition[i, max(n - 1, 0) :] = np.nan
    return Case(
        *(torch.tensor(x) for x in (log_initial, log_transition, log_likelihood, lengths)),
        dwell=dwell if isinstance(dwell, int) else dwell[:K],
    )


SEEDS = range(48)


def tolerance(case: Case) -> float:
    """Inputs of size 5000 over six rows are themselves rounded to about 1e-12."""
    largest = np.nan_to_num(case.log_likelihood.numpy(), posinf=0, neginf=0).max()
    return 1e-13 if abs(largest) < 100 else 2e-11


def possible(case: Case) -> bool:
    return all(enumeration.posterior(*run).log_marginal > -INF for run in case.runs())


def test_the_cases_reach_what_they_should():
    cases = [case(seed) for seed in SEEDS]
    assert sum(not possible(c) for c in cases) >= 3
    assert sum(possible(c) and bool(c.log_initial.isneginf().any()) for c in cases) >= 2
    assert {c.log_likelihood.shape[-1] for c in cases} == {1, 2, 3}
    assert {c.log_likelihood.shape[-2] for c in cases} >= {1, 2, 6}
    assert {c.log_transition.ndim for c in cases} == {2, 3, 4}


@pytest.mark.parametrize("seed", SEEDS)
def test_expected_counts_and_log_marginal(messages, seed):
    c = case(seed)
    got = messages.expected_counts(*c.inputs, **c.options)
    log_marginal = messages.log_marginal(*c.inputs, **c.options)
    atol = tolerance(c)
    for i, run in enumerate(c.runs()):
        law = enumeration.posterior(*run)
        n = len(law.state)
        np.testing.assert_allclose(got.log_marginal[i], law.log_marginal, rtol=1e-14, atol=1e-13)
        np.testing.assert_allclose(log_marginal[i], law.log_marginal, rtol=1e-14, atol=1e-13)
        np.testing.assert_allclose(got.initial[i], law.initial, rtol=0, atol=atol)
        transition = law.transition if c.log_transition.ndim == 4 else law.transition.sum(0)
        np.testing.assert_allclose(got.transition[i], transition, rtol=0, atol=6 * atol)
        np.testing.assert_allclose(got.state[i, :n], law.state, rtol=0, atol=atol)
        np.testing.assert_allclose(got.entry[i, :n], law.entry, rtol=0, atol=atol)
        assert not got.state[i, n:].any()
        assert not got.entry[i, n:].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_smooth_and_filter(messages, seed):
    c = case(seed)
    if not possible(c):
        for function in (messages.smooth, messages.filter):
            with pytest.raises(ValueError, match=r"run \d.*impossible.*row \d"):
                function(*c.inputs, **c.options)
        return
    smoothed = messages.smooth(*c.inputs, **c.options)
    filtered = messages.filter(*c.inputs, **c.options)
    for i, run in enumerate(c.runs()):
        n = len(run[2])
        law = enumeration.posterior(*run)
        np.testing.assert_allclose(smoothed[i, :n], law.state, rtol=0, atol=tolerance(c))
        truth = enumeration.filtered(*run)
        np.testing.assert_allclose(filtered[i, :n], truth, rtol=0, atol=tolerance(c))
        assert not smoothed[i, n:].any()
        assert not filtered[i, n:].any()


@pytest.mark.parametrize("seed", range(30))
def test_probabilities_beyond_the_range_of_floating_point(messages, backend, seed):
    """Moves and rows that differ by up to 1500 nats: any sum but an exact one loses paths."""
    g = np.random.default_rng(seed)
    T, K = 5, 3
    initial, steps, rows = (
        -1500 * g.random(shape) * (g.random(shape) < 0.7) for shape in ((K,), (T - 1, K, K), (T, K))
    )
    dwell = [int(d) for d in g.integers(1, 4, K)]
    law = enumeration.posterior(initial, steps, rows, dwell)
    inputs = [torch.tensor(x) for x in (initial, steps, rows)]
    got = messages.expected_counts(*inputs, minimum_dwell=dwell)
    np.testing.assert_allclose(got.log_marginal, law.log_marginal, rtol=1e-14, atol=1e-12)
    np.testing.assert_allclose(got.transition, law.transition, rtol=0, atol=1e-11)
    np.testing.assert_allclose(got.state, law.state, rtol=0, atol=1e-11)
    filtered, log_predictive = backend.filter(check(*inputs, minimum_dwell=dwell))
    truth = enumeration.filtered(initial, steps, rows, dwell)
    prefixes = [
        enumeration.posterior(initial, steps, rows[: t + 1], dwell).log_marginal for t in range(T)
    ]
    np.testing.assert_allclose(log_predictive.cumsum(0), prefixes, rtol=1e-14, atol=1e-11)
    np.testing.assert_allclose(filtered, truth, rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", SEEDS)
def test_viterbi(messages, seed):
    c = case(seed)
    if not possible(c):
        with pytest.raises(ValueError, match="impossible"):
            messages.viterbi(*c.inputs, **c.options)
        return
    got = messages.viterbi(*c.inputs, **c.options)
    assert got.path.dtype == torch.int64
    for i, run in enumerate(c.runs()):
        n = len(run[2])
        paths = enumeration.list_paths(*run)
        weights = sorted(path.log_weight for path in paths)
        np.testing.assert_allclose(got.log_probability[i], weights[-1], rtol=1e-14, atol=1e-13)
        if len(weights) == 1 or weights[-1] - weights[-2] > 1e-9:
            assert tuple(got.path[i, :n].tolist()) == enumeration.best(paths).states
        assert (got.path[i, n:] == -1).all()


@pytest.mark.parametrize("seed", range(24))
def test_viterbi_takes_the_lexicographically_smallest_of_equals(messages, seed):
    """Small integers as log weights: sums are exact, and most cases have ties."""
    g = np.random.default_rng(seed)
    T, K = 5, 3
    initial, steps, rows = (
        g.integers(-2, 1, shape).astype(float) for shape in ((K,), (T - 1, K, K), (T, K))
    )
    dwell = [int(d) for d in g.integers(1, 4, K)]
    paths = enumeration.list_paths(initial, steps, rows, dwell)
    truth = enumeration.best(paths)
    got = messages.viterbi(*(torch.tensor(x) for x in (initial, steps, rows)), minimum_dwell=dwell)
    assert tuple(got.path.tolist()) == truth.states
    assert got.log_probability == truth.log_weight


@pytest.mark.parametrize("seed", SEEDS)
def test_sample_paths(messages, seed):
    c = case(seed)
    N, T, _ = c.log_likelihood.shape
    uniforms = torch.tensor(np.random.default_rng(1000 + seed).random((4, N, T)))
    uniforms[0, :, 0] = 0.0
    if not possible(c):
        with pytest.raises(ValueError, match="impossible"):
            messages.sample_paths(*c.inputs, uniforms=uniforms, **c.options)
        return
    got = messages.sample_paths(*c.inputs, uniforms=uniforms, **c.options)
    assert got.shape == (4, N, T)
    assert got.dtype == torch.int64
    for i, run in enumerate(c.runs()):
        n = len(run[2])
        law = enumeration.posterior(*run)
        for draw in range(4):
            states = tuple(got[draw, i, :n].tolist())
            assert states == enumeration.invert(law, uniforms[draw, i].numpy())
            assert (got[draw, i, n:] == -1).all()
