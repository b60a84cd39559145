"""What must not change a result: companions, padding, order, scale, threads, layout in memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from bayeshmm import messages as public
from bayeshmm.messages import kernel
from bayeshmm.messages.chain import check

LENGTHS = torch.tensor([30, 12, 1, 25])
DWELLS = [1, 3, 40, [1, 4, 2]]


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Two sets of parameters, four ragged runs, three states."""
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(2, 1, 3, dtype=torch.float64, generator=g).log_softmax(-1),
        torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=g).log_softmax(-1),
        2 * torch.randn(2, 4, 30, 3, dtype=torch.float64, generator=g),
    )


def everything(messages, inputs, dwell, lengths=None) -> list[Tensor]:
    """All results of all functions."""
    options = {"lengths": lengths, "minimum_dwell": dwell}
    T = inputs[2].shape[-2]
    uniforms = torch.rand(T, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return [
        messages.log_marginal(*inputs, **options),
        *messages.expected_counts(*inputs, **options),
        messages.entries(*inputs, **options),
        messages.filter(*inputs, **options),
        *messages.viterbi(*inputs, **options),
        messages.sample_paths(*inputs, uniforms=uniforms, **options),
    ]


def assert_same(backend, got: list[Tensor], expected: list[Tensor]) -> None:
    """To the last bit, or for torch, whose sums depend on the shape, nearly."""
    for a, b in zip(got, expected, strict=True):
        if backend is kernel:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dwell", DWELLS)
def test_a_run_in_a_batch_equals_the_run_alone(messages, backend, dwell):
    inputs = batch()
    together = everything(messages, inputs, dwell, LENGTHS)
    for r in range(2):
        for i, n in enumerate(LENGTHS.tolist()):
            one = inputs[0][r, 0], inputs[1][r, 0], inputs[2][r, i, :n]
            alone = everything(messages, one, dwell)
            cut = [x[r, i, :n] if x.ndim > 2 and x.shape[2] == 30 else x[r, i] for x in together]
            assert_same(backend, cut, alone)


@pytest.mark.parametrize("dwell", DWELLS)
def test_broadcast_equals_expanded(messages, backend, dwell):
    """Expanded views, copies, transposed memory, and the same matrix for every step."""
    log_initial, log_transition, rows = batch()
    expected = everything(messages, (log_initial, log_transition, rows), dwell, LENGTHS)
    views = log_initial.expand(2, 4, 3), log_transition.expand(2, 4, 3, 3), rows
    assert_same(backend, everything(messages, views, dwell, LENGTHS.expand(2, 4)), expected)
    copies = [x.clone() for x in views]
    assert_same(backend, everything(messages, copies, dwell, LENGTHS.repeat(2, 1)), expected)
    scattered = [
        x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.ndim > 3 else x for x in copies
    ]
    assert not scattered[2].is_contiguous()
    assert_same(backend, everything(messages, scattered, dwell, LENGTHS), expected)

    steps = log_transition[..., None, :, :].expand(2, 1, 29, 3, 3)
    per_step = everything(messages, (log_initial, steps, rows), dwell, LENGTHS)
    per_step[3] = per_step[3].sum(-3)
    for a, b in zip(per_step, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dwell", DWELLS)
def test_parameters_against_data_without_a_batch_dimension_in_common(messages, backend, dwell):
    log_initial, log_transition, rows = batch()
    shared = everything(
        messages, (log_initial[0, 0], log_transition[0, 0], rows[0]), dwell, LENGTHS
    )
    repeated = (
        log_initial[0].expand(4, 3).clone(),
        log_transition[0].expand(4, 3, 3).clone(),
        rows[0],
    )
    assert_same(backend, everything(messages, repeated, dwell, LENGTHS), shared)


def test_broadcasting_copies_no_data():
    log_initial, log_transition, rows = batch()
    rows = rows[:1].expand(2, 4, 30, 3)
    runs = kernel._runs(check(log_initial, log_transition, rows))
    assert runs.log_likelihood.shape == (4, 30, 3)
    assert np.shares_memory(runs.log_likelihood, rows[0].numpy())
    assert runs.which[:, 1].tolist() == [0] * 4 + [1] * 4
    assert runs.which[:, 2].tolist() == [0, 1, 2, 3] * 2


@pytest.mark.parametrize("dwell", DWELLS)
def test_a_prefix_has_the_filter_of_the_whole_run(messages, dwell):
    """To the last bit, padded or cut off: nothing later is looked at."""
    log_initial, log_transition, rows = batch()
    inputs = log_initial[0, 0], log_transition[0, 0]
    whole = messages.filter(*inputs, rows[0, 0], minimum_dwell=dwell)
    lengths = torch.arange(1, 31)
    prefixes = messages.filter(
        *inputs, rows[0, 0].expand(30, 30, 3), lengths=lengths, minimum_dwell=dwell
    )
    for n in lengths.tolist():
        assert torch.equal(prefixes[n - 1, :n], whole[:n])
        cut = messages.filter(*inputs, rows[0, 0, :n], minimum_dwell=dwell)
        assert torch.equal(cut, whole[:n])


@pytest.mark.parametrize("dwell", DWELLS)
def test_permuting_states_permutes_the_results(messages, dwell):
    inputs = batch()
    order = torch.tensor([2, 0, 1])
    d = [dwell] * 3 if isinstance(dwell, int) else dwell
    permuted = [inputs[0][..., order], inputs[1][..., order, :][..., order], inputs[2][..., order]]
    a = messages.expected_counts(*inputs, lengths=LENGTHS, minimum_dwell=d)
    b = messages.expected_counts(
        *permuted, lengths=LENGTHS, minimum_dwell=[d[k] for k in order.tolist()]
    )
    torch.testing.assert_close(a.log_marginal, b.log_marginal, rtol=0, atol=1e-12)
    torch.testing.assert_close(a.initial[..., order], b.initial, rtol=0, atol=1e-13)
    torch.testing.assert_close(a.state[..., order], b.state, rtol=0, atol=1e-13)
    transition = a.transition[..., order, :][..., order]
    torch.testing.assert_close(transition, b.transition, rtol=0, atol=1e-12)
    best = messages.viterbi(*inputs, minimum_dwell=d).path
    again = messages.viterbi(*permuted, minimum_dwell=[d[k] for k in order.tolist()]).path
    assert torch.equal(best, order[again])


@pytest.mark.parametrize("dwell", DWELLS)
def test_a_constant_added_to_a_row_moves_the_log_marginal_alone(messages, dwell):
    log_initial, log_transition, rows = batch()
    shift = torch.linspace(-500, 700, 30, dtype=torch.float64)
    a = everything(messages, (log_initial, log_transition, rows), dwell)
    b = everything(messages, (log_initial, log_transition, rows + shift[:, None]), dwell)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        moved = x + shift.sum() if i in (0, 1, 8) else x  # the values; 7 and 9 are paths
        torch.testing.assert_close(moved, y, rtol=1e-14, atol=1e-10)


def test_a_dwell_longer_than_the_run_is_one_of_its_length(messages):
    inputs = batch()
    expected = everything(messages, inputs, 30)
    for a, b in zip(everything(messages, inputs, 10**9), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-13)


def test_one_state(messages):
    rows = batch()[2][..., :1]
    zero = torch.zeros((), dtype=torch.float64)
    got = messages.expected_counts(zero.expand(1), zero.expand(1, 1), rows, minimum_dwell=4)
    torch.testing.assert_close(got.log_marginal, rows.sum((-2, -1)), rtol=1e-14, atol=1e-13)
    torch.testing.assert_close(got.transition, torch.full((2, 4, 1, 1), 26.0).double())


def mixture(K: int, *, shared: bool, per_step: bool) -> tuple[list[Tensor], Tensor]:
    """Seventeen runs of up to 40 rows, which compiled code may take side by side.

    Every third is sharp, so that its sums leave the range in which they are linear; every fifth has
    rows that are impossible in all states but the first.
    """
    g = torch.Generator().manual_seed(K)
    own = 1 if shared else 17
    shape = (own, 39, K, K) if per_step else (own, K, K)
    log_initial = torch.randn(own, K, dtype=torch.float64, generator=g).log_softmax(-1)
    log_transition = torch.randn(shape, dtype=torch.float64, generator=g).log_softmax(-1)
    log_transition[..., K - 1, 0] = -torch.inf
    rows = 2 * torch.randn(17, 40, K, dtype=torch.float64, generator=g)
    rows[::3] *= 1000
    rows[::5, ::7, 1:] = -torch.inf
    lengths = torch.randint(1, 41, (17,), generator=g)
    lengths[:3] = torch.tensor([40, 1, 2])
    return [log_initial, log_transition, rows], lengths


def in_batch(inputs, lengths, runs: list[int], dwell) -> list[list[Tensor]]:
    """Results of runs that are taken together, run by run, cut to the rows of the run."""
    some = [x if len(x) == 1 else x[runs] for x in inputs]
    results = everything(public, some, dwell, lengths[runs])
    beyond = {40: 0, 39: 1}  # rows and steps
    return [
        [
            x[i, : lengths[run] - beyond[x.shape[1]]] if x.shape[1:2] in {(40,), (39,)} else x[i]
            for x in results
        ]
        for i, run in enumerate(runs)
    ]


@pytest.mark.parametrize("per_step", [False, True], ids=["constant", "per step"])
@pytest.mark.parametrize("shared", [False, True], ids=["own parameters", "shared parameters"])
@pytest.mark.parametrize("dwell", [1, 3, [1, 4, 2, 60, 1]])
@pytest.mark.parametrize("K", [2, 5])
def test_neighbours_in_a_batch_change_no_bit(K, dwell, shared, per_step):
    """Batches of 1 to 17 runs, so that any grouping of runs is met, in order and shuffled."""
    dwell = dwell if isinstance(dwell, int) else dwell[:K]
    inputs, lengths = mixture(K, shared=shared, per_step=per_step)
    alone = [in_batch(inputs, lengths, [i], dwell)[0] for i in range(17)]
    g = np.random.default_rng(0)
    batches = [list(range(n)) for n in range(2, 18)]
    batches += [g.permutation(17)[:n].tolist() for n in range(2, 18)]
    for runs in batches:
        for run, results in zip(runs, in_batch(inputs, lengths, runs, dwell), strict=True):
            assert all(torch.equal(*pair) for pair in zip(results, alone[run], strict=True))


@pytest.mark.parametrize("dwell", [1, 3])
def test_an_impossible_run_changes_no_bit_of_its_neighbours(dwell):
    inputs, lengths = mixture(3, shared=False, per_step=False)
    options = {"lengths": lengths, "minimum_dwell": dwell}
    expected = public.expected_counts(*inputs, **options)
    for run in range(17):
        log_initial, log_transition, rows = inputs[0], inputs[1], inputs[2].clone()
        rows[run, 0] = -torch.inf
        got = public.expected_counts(log_initial, log_transition, rows, **options)
        value = public.log_marginal(log_initial, log_transition, rows, **options)
        others = [i for i in range(17) if i != run]
        assert all(torch.equal(a[others], b[others]) for a, b in zip(got, expected, strict=True))
        assert torch.equal(value, got.log_marginal)
        assert value[run] == -torch.inf
        assert not any(count[run].any() for count in got[1:])


THREADS = """
import numba, torch
from bayeshmm import messages

g = torch.Generator().manual_seed(0)
shapes = (4, 1, 3), (4, 1, 3, 3), (4, 30, 100, 3)
inputs = [torch.randn(shape, dtype=torch.float64, generator=g) for shape in shapes]
options = {"lengths": torch.randint(1, 101, (30,), generator=g), "minimum_dwell": [1, 4, 2]}
uniforms = torch.rand(2, 4, 30, 100, dtype=torch.float64, generator=g)
results = []
for threads in (1, 2):
    numba.set_num_threads(threads)
    results.append(
        [
            messages.log_marginal(*inputs, **options),
            *messages.expected_counts(*inputs, **options),
            messages.smooth(*inputs, **options),
            messages.entries(*inputs, **options),
            messages.filter(*inputs, **options),
            *messages.viterbi(*inputs, **options),
            messages.sample_paths(*inputs, uniforms=uniforms, **options),
        ]
    )
    assert numba.get_num_threads() == threads
assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
print("equal")
"""


def test_results_do_not_depend_on_the_number_of_threads():
    """In a process that may have two, whatever this one may have."""
    command = [sys.executable, "-c", THREADS]
    environment = os.environ | {"NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr


def test_an_empty_batch_has_empty_results(messages):
    inputs = batch()
    none = inputs[0][:0], inputs[1][:0], inputs[2][:0]
    shapes = [tuple(x.shape) for x in everything(messages, none, 2)]
    assert shapes == [(0, *x.shape[1:]) for x in everything(messages, inputs, 2)]


def test_inputs_are_left_alone(messages):
    inputs = batch()
    before = [x.clone() for x in inputs]
    everything(messages, inputs, 3, LENGTHS)
    for x, y in zip(inputs, before, strict=True):
        assert torch.equal(x, y)
