"""Accuracy over long runs, against recursions in 80-bit arithmetic."""

import numpy as np
import pytest
import torch

from bayeshmm import messages
from bayeshmm.messages import kernel

from .extended_precision import KINDS, WIDE, data, expand, parameters, recurse

pytestmark = pytest.mark.skipif(not WIDE, reason="no floating point of 80 bits on this machine")


def compare(kind: str, dwell: int, T: int, K: int) -> None:
    """The whole claim: probabilities to 1e-15 (d max|log b| + 1000), log densities to 1e-15.

    The latter relative to the sizes of what is added up.
    """
    rows = data(kind, T, K)
    answer = recurse(*parameters(K), rows, dwell)
    np.testing.assert_allclose(answer.state.sum(1), 1, rtol=0, atol=1e-14)
    inputs = [torch.tensor(x) for x in (*parameters(K), rows)]
    got = messages.expected_counts(*inputs, minimum_dwell=dwell)
    atol = 1e-15 * (dwell * np.abs(rows).max() + 1000)
    atol_density = 1e-15 * answer.added + 1e-12
    np.testing.assert_allclose(got.state, answer.state, rtol=0, atol=atol)
    entered = messages.entries(*inputs, minimum_dwell=dwell)
    np.testing.assert_allclose(entered, answer.entry, rtol=0, atol=atol)
    np.testing.assert_allclose(got.transition, answer.transition, rtol=atol, atol=atol)
    assert abs(got.log_marginal.item() - answer.log_marginal) <= atol_density
    alone = messages.log_marginal(*inputs, minimum_dwell=dwell).item()
    assert abs(alone - answer.log_marginal) <= atol_density


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dwell", [1, 10, 50])
def test_five_thousand_rows(dwell, kind):
    compare(kind, dwell, T=5_000, K=16)


@pytest.mark.calibration
@pytest.mark.parametrize("kind", ["moderate", "hopeless, then not", "independent"])
@pytest.mark.parametrize("dwell", [1, 10, 50])
def test_a_hundred_thousand_rows_of_64_states(dwell, kind):
    compare(kind, dwell, T=100_000, K=64)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e4])
@pytest.mark.parametrize("dwell", [[1, 1, 1], [5, 2, 9], [20, 20, 20]])
def test_dwells_of_their_own_zeros_and_the_filter(messages, backend, scale, dwell):
    g = np.random.default_rng(int(scale) + sum(dwell))
    T, K = 150, 3
    initial, transition = g.dirichlet(np.ones(K)), g.dirichlet([0.3, 1.0, 3.0], size=K)
    transition[2, 0] = 0.0
    rows = scale * g.standard_normal((T, K))
    rows[g.random((T, K)) < 0.01] = -np.inf
    with np.errstate(divide="ignore"):
        inputs = np.log(initial), np.log(transition), rows
    log_marginal, smoothed, filtered = expand(*inputs, dwell)
    inputs = [torch.tensor(x) for x in inputs]
    counts = messages.expected_counts(*inputs, minimum_dwell=dwell)
    causal = messages.filter(*inputs, minimum_dwell=dwell)

    sizes = np.abs(np.where(np.isfinite(rows), rows, 0))
    # Compiled messages are rescaled at every row; those of plain torch grow with the run.
    atol = 1e-15 * (max(dwell) * sizes.max() + 1000) * (1 if backend is kernel else T)
    np.testing.assert_allclose(counts.state, smoothed.astype(float), rtol=0, atol=atol)
    np.testing.assert_allclose(causal, filtered.astype(float), rtol=0, atol=atol)
    atol = 1e-15 * sizes.max(1).sum() + 1e-12
    assert abs(counts.log_marginal.item() - log_marginal) <= atol
