"""Every public function and option against the listing of all paths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeshmm.messages import kernel

from .cases import FIXED, Case, cases

EXAMPLES = settings(FIXED, max_examples=500)


def near(got, expected, atol: float) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected, float), rtol=0, atol=atol)


def test_the_cases_reach_what_they_should():
    seen: list[Case] = []

    @EXAMPLES
    @given(cases())
    def collect(case: Case) -> None:
        seen.append(case)

    collect()
    assert {case.log_likelihood.shape[-1] for case in seen} == {1, 2, 3, 4}
    assert {case.log_likelihood.shape[-2] for case in seen} >= {1, 2, 3, 7}
    assert {len(case.batch) for case in seen} == {0, 1, 2}
    assert max(case.batch.numel() for case in seen) >= 9
    several = [case for case in seen if case.batch.numel() > 1]
    assert {case.per_step for case in several} == {False, True}
    shared_data = [c for c in several if c.log_likelihood.shape[:-2].numel() == 1]
    shared_matrix = [
        c for c in several if c.log_transition.numel() == c.log_transition.shape[-1] ** 2
    ]
    assert len(shared_data) >= 5
    assert len(shared_matrix) >= 5
    assert sum(not case.possible for case in seen) >= 10
    assert sum(case.possible and case.log_transition.isneginf().any() for case in seen) >= 10
    assert sum(case.exact and case.possible for case in seen) >= 5
    assert sum(case.size > 9000 for case in seen) >= 10


@EXAMPLES
@given(case=cases())
def test_log_marginal_and_expected_counts(messages, backend, case):
    """Also the gradients, which are the counts, and `smooth`."""
    got = messages.expected_counts(*case.inputs, **case.options)
    T = case.log_likelihood.shape[-2]
    atol = case.atol(rescaled=backend is kernel)
    for run, law in case.laws:
        n = law.n
        if law.possible:
            near(got.log_marginal[run], law.log_marginal, case.atol_density(law))
        else:
            assert got.log_marginal[run] == -torch.inf
            assert not any(count[run].any() for count in got[1:])
        near(got.initial[run], law.initial, atol)
        near(got.state[run][:n], law.state, atol)
        if case.per_step:
            near(got.transition[run][: n - 1], law.transition, atol)
            assert not got.transition[run][n - 1 :].any()
        else:
            near(got.transition[run], law.transition.sum(0), T * atol)
        assert not got.state[run][n:].any()

    inputs = [x.clone().requires_grad_() for x in case.inputs]
    value = messages.log_marginal(*inputs, **case.options)
    for run, law in case.laws:
        if law.possible:
            near(value[run].detach(), law.log_marginal, case.atol_density(law))
        else:
            assert value[run] == -torch.inf
    gradients = torch.autograd.grad(value.sum(), inputs, materialize_grads=True)
    for gradient, count in zip(gradients, (got.initial, got.transition, got.state), strict=True):
        near(gradient, count.sum_to_size(gradient.shape), 1e-12)

    if case.possible:
        smoothed = messages.smooth(*case.inputs, **case.options)
        torch.testing.assert_close(smoothed, got.state, rtol=0, atol=0)
        entered = messages.entries(*case.inputs, **case.options)
        for run, law in case.laws:
            near(entered[run][: law.n], law.entry, atol)
            assert not entered[run][law.n :].any()
    else:
        for function in (messages.smooth, messages.entries):
            with pytest.raises(ValueError, match=case.complaint()):
                function(*case.inputs, **case.options)


@EXAMPLES
@given(case=cases())
def test_filter(messages, backend, case):
    if not case.possible:
        with pytest.raises(ValueError, match=case.complaint()):
            messages.filter(*case.inputs, **case.options)
        return
    got = messages.filter(*case.inputs, **case.options)
    for run, law in case.laws:
        near(got[run][: law.n], law.filtered, case.atol(rescaled=True))
        assert not got[run][law.n :].any()


@EXAMPLES
@given(case=cases())
def test_viterbi(messages, case):
    """A path as probable as the best, and of whole numbers, whose sums are exact, the best."""
    if not case.possible:
        with pytest.raises(ValueError, match=case.complaint()):
            messages.viterbi(*case.inputs, **case.options)
        return
    got = messages.viterbi(*case.inputs, **case.options)
    assert got.path.dtype == torch.int64
    for run, law in case.laws:
        path = got.path[run]
        best = law.log_weight.max()
        atol = 0.0 if case.exact else case.atol_density(law)
        near(got.log_probability[run], best, atol)
        near(law.log_weight_of(path[: law.n]), best, atol)
        if case.exact:
            assert tuple(path[: law.n].tolist()) == law.best
        assert (path[law.n :] == -1).all()


@EXAMPLES
@given(case=cases(), draws=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_sample_paths(messages, backend, case, draws, seed):
    """Every state is the one whose share of (0, 1) holds the uniform."""
    T = case.log_likelihood.shape[-2]
    uniforms = torch.tensor(np.random.default_rng(seed).random((draws, *case.batch, T)))
    uniforms[0, ..., 0] = 0.0
    arguments = {"uniforms": uniforms, **case.options}
    if not case.possible:
        with pytest.raises(ValueError, match=case.complaint()):
            messages.sample_paths(*case.inputs, **arguments)
        return
    got = messages.sample_paths(*case.inputs, **arguments)
    assert got.shape == uniforms.shape
    assert got.dtype == torch.int64
    atol = case.atol(rescaled=backend is kernel)
    for run, law in case.laws:
        for draw in range(draws):
            path = got[(draw, *run)]
            assert (path[law.n :] == -1).all()
            path = path[: law.n].tolist()
            assert law.log_weight_of(path) > -np.inf
            for u, k, shares in zip(
                uniforms[(draw, *run)].tolist(), path, law.conditionals(path), strict=False
            ):
                below = shares[:k].sum()
                assert below - atol <= u <= below + shares[k] + atol
