"""One-step-ahead predictions: what every row looked like from the rows before it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from bayeshmm import messages as public

from .cases import FIXED, cases
from .extended_precision import KINDS, data, parameters

LENGTHS = torch.tensor([30, 12, 1, 25])
DWELLS = [1, 3, 40, [1, 4, 2]]


def log(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two sets of parameters, four ragged runs, three states."""
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 1, 3, dtype=torch.float64, generator=g).log_softmax(-1),
        torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=g).log_softmax(-1),
        2 * torch.randn(2, 4, 30, 3, dtype=torch.float64, generator=g),
    )


@settings(FIXED, max_examples=250)
@given(case=cases(stochastic=True))
def test_predictions_against_the_listing_of_all_paths(messages, case):
    """Up to the first row that is impossible, whose log density is -inf; no error, no NaN."""
    got = messages.predict(*case.inputs, **case.options)
    T, K = case.log_likelihood.shape[-2:]
    assert got.log_density.shape == (*case.batch, T)
    assert got.state.shape == (*case.batch, T, K)
    assert not got.log_density.isnan().any()
    assert not got.state.isnan().any()
    for run, law in case.laws:
        log_density, state = got.log_density[run].numpy(), got.state[run].numpy()
        end = law.n if law.possible else law.first_impossible_row + 1
        at_least = np.isfinite(law.log_marginals[:end])
        np.testing.assert_allclose(
            log_density[:end].cumsum()[at_least],
            law.log_marginals[:end][at_least].astype(float),
            rtol=0,
            atol=2 * case.atol_density(law),
        )
        if not law.possible:
            assert log_density[end - 1] == -np.inf
        np.testing.assert_allclose(
            state[:end], law.predicted[:end], rtol=0, atol=case.atol(rescaled=True)
        )
        assert not log_density[law.n :].any()
        assert not state[law.n :].any()


@pytest.mark.parametrize("dwell", DWELLS)
def test_log_densities_add_up_to_the_log_marginals_of_prefixes(messages, dwell):
    """Right-censoring: the law of the first rows does not depend on how many follow."""
    inputs = batch()
    options = {"minimum_dwell": dwell}
    got = messages.predict(*inputs, lengths=LENGTHS, **options).log_density
    total = messages.log_marginal(*inputs, lengths=LENGTHS, **options)
    torch.testing.assert_close(got.sum(-1), total, rtol=1e-14, atol=1e-12)

    lengths = torch.arange(1, 31)
    run = inputs[0][0, 0], inputs[1][0, 0], inputs[2][0, 0]
    alone = messages.predict(*run, **options).log_density
    prefixes = *run[:2], run[2].expand(30, 30, 3)
    torch.testing.assert_close(
        alone.cumsum(-1),
        messages.log_marginal(*prefixes, lengths=lengths, **options),
        rtol=1e-14,
        atol=1e-12,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dwell", [1, 50])
def test_log_densities_of_a_long_run_add_up_to_its_log_marginal(dwell, kind):
    """Two routes, forward and backward, each within 1e-15 of all that it adds up."""
    inputs = [torch.tensor(x) for x in (*parameters(16), data(kind, 5000, 16))]
    log_density = public.predict(*inputs, minimum_dwell=dwell).log_density
    log_marginal = public.log_marginal(*inputs, minimum_dwell=dwell)
    added = inputs[2].abs().amax(1).sum().item()
    assert abs(math.fsum(log_density.tolist()) - log_marginal) <= 2e-15 * added + 2e-12


@pytest.mark.parametrize("dwell", DWELLS)
def test_a_prefix_has_the_predictions_of_the_whole_run(messages, dwell):
    """To the last bit, padded or cut off: nothing later is looked at."""
    log_initial, log_transition, rows = batch()
    inputs = log_initial[0, 0], log_transition[0, 0]
    whole = messages.predict(*inputs, rows[0, 0], minimum_dwell=dwell)
    lengths = torch.arange(1, 31)
    padded = messages.predict(
        *inputs, rows[0, 0].expand(30, 30, 3), lengths=lengths, minimum_dwell=dwell
    )
    for n in lengths.tolist():
        cut = messages.predict(*inputs, rows[0, 0, :n], minimum_dwell=dwell)
        for some, few, all_ in zip(padded, cut, whole, strict=True):
            assert torch.equal(some[n - 1, :n], all_[:n])
            assert torch.equal(few, all_[:n])


@pytest.mark.parametrize("dwell", DWELLS)
def test_a_prediction_knows_nothing_of_its_row(messages, dwell):
    """Whatever row t is, the state's prediction for it is the same, to the last bit."""
    log_initial, log_transition, rows = batch()
    inputs = log_initial[0, 0], log_transition[0, 0]
    changed = rows[0, 0].clone()
    changed[17:] += torch.tensor([5.0, -3.0, 0.0])
    state = messages.predict(*inputs, rows[0, 0], minimum_dwell=dwell).state
    other = messages.predict(*inputs, changed, minimum_dwell=dwell).state
    assert torch.equal(state[:18], other[:18])
    assert dwell == 40 or not torch.equal(state[18:], other[18:])


@pytest.mark.parametrize("dwell", DWELLS)
def test_the_prediction_of_the_state_times_the_row_is_the_filter(messages, dwell):
    log_initial, log_transition, rows = batch()
    arguments = {"lengths": LENGTHS, "minimum_dwell": dwell}
    got = messages.predict(log_initial, log_transition, rows, **arguments)
    filtered = messages.filter(log_initial, log_transition, rows, **arguments)
    live = torch.arange(30) < LENGTHS[:, None]
    joint = got.state * rows.exp()
    density = torch.where(live, got.log_density.exp(), 0.0)
    torch.testing.assert_close(joint.sum(-1), density, rtol=1e-13, atol=0)
    posterior = torch.where(live[..., None], joint / joint.sum(-1, keepdim=True), 0.0)
    torch.testing.assert_close(posterior, filtered, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        got.state.sum(-1), live.expand(2, 4, 30).double(), rtol=0, atol=1e-13
    )
    torch.testing.assert_close(
        got.state[..., 0, :], log_initial.exp().expand(2, 4, 3), rtol=0, atol=1e-15
    )


def test_densities_of_all_symbols_sum_to_one(messages):
    """Rows of two symbols: after each of the 8 beginnings the next symbol's law is a law."""
    symbols = torch.cartesian_prod(*[torch.arange(2)] * 4)
    emission = log([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    rows = emission.T[symbols]
    inputs = log([0.6, 0.3, 0.1]), log([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])
    got = messages.predict(*inputs, rows, minimum_dwell=[1, 2, 3]).log_density
    last = got[:, -1].exp().reshape(8, 2).sum(-1)
    torch.testing.assert_close(last, torch.ones(8).double(), rtol=0, atol=1e-14)
    whole = got.sum(-1).exp().sum()
    torch.testing.assert_close(whole, torch.tensor(1.0).double(), rtol=0, atol=1e-14)


def test_appended_missing_rows_are_forecasts(messages):
    """Powers of the transition matrix, and nothing added to the log density."""
    log_initial, log_transition, rows = (x[0, 0] for x in batch())
    rows = torch.cat([rows, torch.zeros(5, 3, dtype=torch.float64)])
    got = messages.predict(log_initial, log_transition, rows)
    now = messages.filter(log_initial, log_transition, rows)[29]
    for t in range(30, 35):
        now = now @ log_transition.exp()
        torch.testing.assert_close(got.state[t], now, rtol=0, atol=1e-14)
    torch.testing.assert_close(got.log_density[30:], torch.zeros(5).double(), rtol=0, atol=1e-14)
