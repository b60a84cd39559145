"""Bad input is refused by name and place; anything else is accepted."""

import re

import numpy as np
import pytest
import torch

from bayeshmm import messages

R, N, T, K = 2, 3, 5, 2


def inputs() -> dict:
    return {
        "log_initial": torch.zeros(R, 1, K),
        "log_transition": torch.zeros(R, 1, K, K),
        "log_likelihood": torch.zeros(R, N, T, K),
    }


def call(function, **changes):
    arguments = inputs() | changes
    if function is messages.sample_paths:
        arguments.setdefault("uniforms", torch.zeros(T))
    positional = [arguments.pop(name) for name in inputs()]
    return function(*positional, **arguments)


FUNCTIONS = [
    messages.log_marginal,
    messages.expected_counts,
    messages.smooth,
    messages.entries,
    messages.filter,
    messages.viterbi,
    messages.sample_paths,
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"log_likelihood": torch.zeros(T)}, "log_likelihood must be (..., T, K)"),
        ({"log_likelihood": torch.zeros(R, N, 0, K)}, "T, K >= 1"),
        ({"log_initial": torch.zeros(R, 1, 3)}, "log_initial must be (..., 2)"),
        ({"log_initial": torch.tensor(0.0)}, "log_initial must be (..., 2)"),
        ({"log_transition": torch.zeros(K)}, "log_transition must be (..., 2, 2)"),
        ({"log_transition": torch.zeros(R, 1, K, 3)}, "log_transition must be (..., 2, 2)"),
        ({"log_transition": torch.zeros(R, 1, T, K, K)}, "(..., 4, 2, 2)"),
        ({"log_transition": torch.zeros(1, R, 1, T - 1, K, K)}, "exactly one dimension more"),
        ({"log_initial": torch.zeros(3, 1, K)}, "do not broadcast: (3, 1), (2, 1), (2, 3), ()"),
        ({"lengths": torch.tensor([5, 5])}, "do not broadcast"),
        ({"lengths": torch.tensor([5, 0, 5])}, "lengths must lie in 1..5"),
        ({"lengths": torch.tensor([5, 4, 6])}, "run 2 has 6"),
        ({"lengths": torch.tensor([5.0, 4.0, 3.0])}, "lengths must be integers"),
        ({"lengths": [True, True, True]}, "lengths must be integers"),
        ({"minimum_dwell": 0}, "minimum_dwell must be an int >= 1"),
        ({"minimum_dwell": [1, -2]}, "minimum_dwell must be an int >= 1"),
        ({"minimum_dwell": [1, 2, 3]}, "each of the 2 states"),
        ({"minimum_dwell": 1.5}, "minimum_dwell must be an int >= 1"),
        ({"minimum_dwell": True}, "minimum_dwell must be an int >= 1"),
    ],
)
def test_shapes_lengths_and_dwells(function, changes, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        call(function, **changes)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_values_that_are_no_log_densities(function, value):
    rows = torch.zeros(N, T, K)
    rows[2, 3, 1] = value
    arguments = {
        "log_likelihood": rows,
        "log_initial": torch.zeros(K),
        "log_transition": torch.zeros(K, K),
    }
    with pytest.raises(ValueError, match=r"log_likelihood is NaN or \+inf in run 2 .*, row 3"):
        call(function, **arguments)
    initial = torch.zeros(R, 1, K)
    initial[1, 0, 0] = value
    with pytest.raises(ValueError, match=r"log_initial is NaN or \+inf in run 3 \([^)]*\);"):
        call(function, log_initial=initial)
    steps = torch.zeros(R, 1, T - 1, K, K)
    steps[0, 0, 2, 1, 0] = value
    with pytest.raises(ValueError, match=r"log_transition is NaN or \+inf in run 0 .*, row 2"):
        call(function, log_transition=steps)
    with pytest.raises(ValueError, match=r"log_transition is NaN or \+inf in run 0 \([^)]*\);"):
        call(function, log_transition=steps[:, :, 2])


def test_padding_may_hold_anything(messages):
    rows, steps = torch.zeros(N, T, K), torch.zeros(N, T - 1, K, K)
    lengths = [5, 2, 1]
    clean = inputs() | {"log_likelihood": rows, "log_transition": steps}
    clean["log_initial"] = torch.zeros(K)
    dirty = clean | {"log_likelihood": rows.clone(), "log_transition": steps.clone()}
    for i, n in enumerate(lengths):
        dirty["log_likelihood"][i, n:] = torch.nan
        dirty["log_transition"][i, n - 1 :] = torch.inf
    for x in dirty.values():
        x.requires_grad_()
    values = []
    for arguments in (clean, dirty):
        log_marginal = messages.log_marginal(*arguments.values(), lengths=lengths, minimum_dwell=2)
        values.append(log_marginal.detach())
    assert torch.equal(*values)
    log_marginal.sum().backward()
    for i, n in enumerate(lengths):
        assert not dirty["log_likelihood"].grad[i, n:].any()
        assert not dirty["log_transition"].grad[i, n - 1 :].any()
    assert all(x.grad.isfinite().all() for x in dirty.values())


@pytest.mark.parametrize(
    ("uniforms", "complaint"),
    [
        (torch.zeros(T + 1), "uniforms must be (..., 5)"),
        (torch.tensor(0.5), "uniforms must be (..., 5)"),
        (torch.zeros(4, T), "do not broadcast"),
        (torch.ones(T), "[0, 1)"),
        (torch.full((T,), -0.1), "[0, 1)"),
        (torch.full((T,), torch.nan), "[0, 1)"),
    ],
)
def test_uniforms(uniforms, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        call(messages.sample_paths, uniforms=uniforms)


def test_impossible_runs_are_named(messages):
    """Run 4 is the second of the second set of parameters; its row 3 cannot follow row 2."""
    log_initial = torch.tensor([0.5, 0.5]).log()
    log_transition = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    rows = torch.zeros(R, N, T, K)
    rows[1, 1, 2, 0] = rows[1, 1, 3, 1] = -torch.inf
    arguments = (log_initial, log_transition, rows)
    counts = messages.expected_counts(*arguments)
    assert counts.log_marginal.isneginf().nonzero().tolist() == [[1, 1]]
    assert not any(count[1, 1].any() for count in counts[1:])
    assert counts.state[1, 0].sum() == T
    for function in (messages.smooth, messages.entries, messages.filter, messages.viterbi):
        with pytest.raises(ValueError, match=r"run 4 .* impossible.* row 3;"):
            function(*arguments)
    with pytest.raises(ValueError, match=r"run 4 .* impossible.* row 3;"):
        messages.sample_paths(*arguments, uniforms=torch.zeros(T))


def test_single_precision_and_plain_sequences_are_promoted(messages):
    g = torch.Generator().manual_seed(0)
    single = (
        torch.randn(K, generator=g),
        torch.randn(K, K, generator=g),
        torch.randn(T, K, generator=g),
    )
    got = messages.expected_counts(*single, lengths=4, minimum_dwell=np.array([1, 2]))
    double = messages.expected_counts(
        *(x.double() for x in single), lengths=torch.tensor(4), minimum_dwell=[1, 2]
    )
    for a, b in zip(got, double, strict=True):
        assert a.dtype == torch.float64
        assert torch.equal(a, b)


def test_tensors_of_two_devices_are_refused():
    with pytest.raises(ValueError, match="different devices"):
        call(messages.log_marginal, log_initial=torch.zeros(R, 1, K, device="meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_another_device(monkeypatch):
    g = torch.Generator().manual_seed(0)
    here = [torch.randn(s, dtype=torch.float64, generator=g) for s in ((K,), (K, K), (N, T, K))]
    uniforms = torch.rand(N, T, dtype=torch.float64, generator=g)
    there = [x.cuda() for x in here]
    options = {"lengths": [5, 3, 1], "minimum_dwell": 2}
    for function in FUNCTIONS:
        extra = {"uniforms": uniforms} if function is messages.sample_paths else {}
        moved = {name: x.cuda() for name, x in extra.items()}
        expected, got = function(*here, **options, **extra), function(*there, **options, **moved)
        if isinstance(got, torch.Tensor):
            expected, got = (expected,), (got,)
        for a, b in zip(got, expected, strict=True):
            assert a.is_cuda
            torch.testing.assert_close(a.cpu(), b, rtol=1e-13, atol=1e-13)
