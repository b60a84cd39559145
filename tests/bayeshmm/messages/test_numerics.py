"""Accuracy where careless arithmetic fails: long runs, sharp likelihoods, outliers, zeros."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bayeshmm import messages


def tensor(x) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_one_path_left_by_zeros_is_not_underflowed(messages):
    """Scaled linear messages are wrong here by thousands of nats."""
    log_initial, log_transition = tensor([0.5, 0.5]).log(), tensor([[0.9, 0.1], [0.0, 1.0]]).log()
    rows = tensor([[-1e4, 0.0], [0.0, -2e4]])
    got = messages.log_marginal(log_initial, log_transition, rows)
    torch.testing.assert_close(got, tensor(-10000.798507696218), rtol=0, atol=1e-11)
    rows = torch.cat([rows, tensor([[0.0, 0.0], [0.0, 0.0], [0.0, -5.0]])])
    got = messages.log_marginal(log_initial, log_transition, rows, minimum_dwell=3)
    torch.testing.assert_close(got, tensor(-10000.902288953475), rtol=0, atol=1e-11)


def test_a_move_of_tiny_probability_does_not_hide_a_better_path(messages):
    """The best state before the change makes a move of e^-700, another, 660 nats behind, of 1."""
    inf = torch.inf
    log_initial = tensor([0.0, 0.0, 0.0])
    log_transition = tensor([[0.0, -inf, -700.0], [-inf, -inf, 0.0], [-inf, -inf, 0.0]])
    rows = tensor([[0.0, -660.0, -inf], [-inf, -inf, 0.0]])
    answer = tensor(-660.0)  # and e^-40 of that
    inputs = (log_initial, log_transition, rows)
    torch.testing.assert_close(messages.log_marginal(*inputs), answer, rtol=0, atol=1e-12)
    total = messages.predict(*inputs).log_density.sum()
    torch.testing.assert_close(total, answer, rtol=0, atol=1e-12)
    # The same, run backwards: the tiny move leads to what fits best later.
    log_transition = tensor([[-inf, -700.0, 0.0], [-inf, 0.0, -inf], [-inf, -inf, 0.0]])
    rows = tensor([[0.0, -inf, -inf], [-inf, 0.0, -660.0]])
    inputs = (log_initial, log_transition, rows)
    torch.testing.assert_close(messages.log_marginal(*inputs), answer, rtol=0, atol=1e-12)
    torch.testing.assert_close(messages.smooth(*inputs)[1, 2], tensor(1.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [3, 4, 5, 9, 20])
@pytest.mark.parametrize("stay", [0.0, -100.0, -600.0])
@pytest.mark.parametrize("dwell", [1, 2, 3])
def test_a_path_told_by_its_rows(messages, dwell, stay, n):
    """All rows but the last can be of the second state alone, whose stays may be improbable."""
    log_initial, log_transition = tensor([0.0, 0.0]), tensor([[0.0, 0.0], [0.0, stay]])
    rows = torch.zeros(n, 2, dtype=torch.float64)
    rows[:-1, 0] = rows[-1, 1] = -torch.inf
    if n - 1 < dwell:
        answer, stays = -torch.inf, 0.0
    else:
        answer, stays = (n - 1 - dwell) * stay, float(n - 1 - dwell)
    got = messages.expected_counts(log_initial, log_transition, rows, minimum_dwell=dwell)
    value = messages.log_marginal(log_initial, log_transition, rows, minimum_dwell=dwell)
    torch.testing.assert_close(value, tensor(answer), rtol=0, atol=1e-10)
    torch.testing.assert_close(got.log_marginal, tensor(answer), rtol=0, atol=1e-10)
    torch.testing.assert_close(got.transition[1, 1], tensor(stays), rtol=0, atol=1e-12)
    if answer > -torch.inf:
        predicted = messages.predict(log_initial, log_transition, rows, minimum_dwell=dwell)
        total = predicted.log_density.sum()
        torch.testing.assert_close(total, tensor(answer), rtol=0, atol=1e-10)


def phases_with_shared_noise(third: str | None) -> tuple[Tensor, Tensor, Tensor]:
    """Two phases of 50 000 rows, 1e4 nats a row apart, and noise of +-9000 common to both.

    A third state fits 1e4 nats a row better, but cannot be entered, or not survive the sixth row.
    """
    T = 100_000
    noise = np.where(np.arange(T) % 2 == 0, 9000.0, -9500.0)
    rows = np.stack([noise, noise, noise + 1e4], -1)
    rows[: T // 2, 1] -= 1e4
    rows[T // 2 :, 0] -= 1e4
    initial = np.array([0.3, 0.7, 0.0])
    transition = np.array([[0.99, 0.01, 0.0], [0.02, 0.98, 0.0], [0.3, 0.3, 0.4]])
    if third == "barred":
        initial = np.array([0.3, 0.6, 0.1])
        transition[2] = [0.0, 0.0, 1.0]
        rows[5, 2] = -np.inf
    K = 3 if third else 2
    with np.errstate(divide="ignore"):
        return tensor(np.log(initial[:K])), tensor(np.log(transition[:K, :K])), tensor(rows[:, :K])


@pytest.mark.parametrize("third", [None, "never entered", "barred"])
@pytest.mark.parametrize(
    ("dwell", "answer"),
    [(1, -25001518.431048), (10, -25001518.158771), (50, -25001516.948649)],
)
def test_a_hundred_thousand_rows(dwell, answer, third):
    got = messages.expected_counts(*phases_with_shared_noise(third), minimum_dwell=dwell)
    closed = (
        math.fsum([-2.5e7, math.log(0.3), math.log(0.01)])
        + (50_000 - dwell) * math.log(0.99)
        + (50_000 - dwell) * math.log(0.98)
    )
    assert abs(closed - answer) < 1e-6
    torch.testing.assert_close(got.log_marginal, tensor(closed), rtol=0, atol=2e-8)
    expected = torch.zeros_like(got.transition)
    expected[:2, :2] = tensor([[50_000.0 - dwell, 1.0], [0.0, 50_000.0 - dwell]])
    torch.testing.assert_close(got.transition, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(got.state.sum(-1), torch.ones(100_000).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dwell", [1, 3, [4, 1, 2]])
def test_an_outlier_is_as_good_as_an_impossibility(messages, dwell):
    g = torch.Generator().manual_seed(5)
    rows = torch.randn(3, 40, 3, dtype=torch.float64, generator=g)
    log_initial = torch.randn(3, dtype=torch.float64, generator=g).log_softmax(-1)
    log_transition = torch.randn(3, 3, dtype=torch.float64, generator=g).log_softmax(-1)
    at = (torch.arange(3), torch.tensor([0, 17, 39]), torch.tensor([1, 0, 2]))
    results = []
    for value in (-1e20, -torch.inf):
        rows[at] = value
        results.append(
            messages.expected_counts(log_initial, log_transition, rows, minimum_dwell=dwell)
        )
    for outlier, impossible in zip(*results, strict=True):
        torch.testing.assert_close(outlier, impossible, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dwell", [1, 4, [1, 6, 3]])
@pytest.mark.parametrize("nats", [1.0, 700.0, 1e5])
def test_identities_of_the_counts(messages, nats, dwell):
    """Mass is conserved from row to row, also where sums have to be taken in logs."""
    g = torch.Generator().manual_seed(3)
    rows = nats * torch.randn(5, 300, 3, dtype=torch.float64, generator=g)
    log_initial = torch.randn(3, dtype=torch.float64, generator=g).log_softmax(-1)
    steps = (3 * torch.randn(5, 299, 3, 3, dtype=torch.float64, generator=g)).log_softmax(-1)
    got = messages.expected_counts(log_initial, steps, rows, minimum_dwell=dwell)
    entered = messages.entries(log_initial, steps, rows, minimum_dwell=dwell)
    one = torch.ones(5, 300, dtype=torch.float64)
    atol = 1e-11 if nats < 1e4 else 1e-8
    stays = got.transition.diagonal(dim1=-2, dim2=-1)
    jumps = got.transition - torch.diag_embed(stays)
    torch.testing.assert_close(got.state.sum(-1), one, rtol=0, atol=atol)
    torch.testing.assert_close(got.initial, entered[:, 0])
    torch.testing.assert_close(entered[:, 1:], jumps.sum(-2), rtol=0, atol=atol)
    # In and out of every state: what is in row t + 1 was there, or entered, and has not left.
    flow = got.state[:, :-1] - jumps.sum(-1) + entered[:, 1:]
    torch.testing.assert_close(got.state[:, 1:], flow, rtol=0, atol=atol)
