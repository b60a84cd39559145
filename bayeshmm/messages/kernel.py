"""The compiled backend: from broadcasting tensors to flat arrays that runs point into."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from bayeshmm.messages import backward, filtering, forward, maximum, paths, reference
from bayeshmm.messages.backward import Runs
from bayeshmm.messages.chain import Array, Chain, ExpectedCounts, Prediction, Viterbi
from bayeshmm.messages.lanes import WIDTH

WORK_PER_THREAD = 1 << 12  # rows times states; another thread costs more than it saves below it
CHUNKS_PER_THREAD = 4  # parts that a thread takes runs in: runs may differ in length


def log_marginal(chain: Chain) -> Tensor:
    """Log density of every run, differentiable."""
    inputs = (chain.log_initial, chain.log_transition, chain.log_likelihood)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        values: Tensor = _LogMarginal.apply(*inputs, chain.detach())
        return values
    values = torch.empty(chain.batch, dtype=torch.float64)
    with _chunks(chain) as chunks:
        backward.log_marginals(_runs(chain), chunks, _flat(values, 0))
    return values


class _LogMarginal(torch.autograd.Function):
    """The gradient of the log marginal is the expected counts, taken in the same pass."""

    @staticmethod
    def forward(
        ctx: Any, log_initial: Tensor, log_transition: Tensor, log_likelihood: Tensor, chain: Chain
    ) -> Tensor:
        counts = expected_counts(chain)
        ctx.chain = chain
        ctx.save_for_backward(
            log_initial,
            log_transition,
            log_likelihood,
            counts.initial,
            counts.transition.reshape(*chain.batch, *log_transition.shape[-3:]),
            counts.state,
        )
        return counts.log_marginal

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, initial, transition, state = ctx.saved_tensors
        if torch.is_grad_enabled():
            # A graph of this gradient is wanted, and counts are constants to autograd. The views
            # keep partial derivatives apart where one input was computed from another.
            inputs = [x.view_as(x) for x in inputs]
            names = ("log_initial", "log_transition", "log_likelihood")
            value = reference.log_marginal(
                ctx.chain._replace(**dict(zip(names, inputs, strict=True)))
            )
            wanted = [
                x for x, needed in zip(inputs, ctx.needs_input_grad[:3], strict=True) if needed
            ]
            found = iter(
                torch.autograd.grad(
                    value, wanted, gradient, create_graph=True, materialize_grads=True
                )
            )
            partial = tuple(next(found) if needed else None for needed in ctx.needs_input_grad[:3])
        else:
            partial = tuple(
                (count * gradient.reshape(*gradient.shape, *[1] * event)).sum_to_size(x.shape)
                if needed
                else None
                for count, event, x, needed in zip(
                    (initial, transition, state),
                    (1, 3, 2),
                    inputs,
                    ctx.needs_input_grad[:3],
                    strict=True,
                )
            )
        return *partial, None


def expected_counts(chain: Chain) -> ExpectedCounts:
    """Posterior expectations, in one backward and one forward pass."""
    *counts, _ = _count(chain, rows_of_entries=0)
    if not chain.per_step:
        counts[2] = counts[2].squeeze(-3)
    return ExpectedCounts(*counts)


def entries(chain: Chain) -> tuple[Tensor, Tensor]:
    """Probability that a visit starts, (..., T, K), and the log marginals."""
    log_marginal, *_, entered = _count(chain, rows_of_entries=chain.log_likelihood.shape[-2])
    return entered, log_marginal


def _count(chain: Chain, rows_of_entries: int) -> list[Tensor]:
    """Log marginals, initial states, transitions, states and entries."""
    T, K = chain.log_likelihood.shape[-2:]
    transition = chain.log_transition.shape[-3:]
    events: list[tuple[int, ...]] = [(), (K,), transition, (T, K), (rows_of_entries, K)]
    counts = [torch.empty((*chain.batch, *event), dtype=torch.float64) for event in events]
    flat = [_flat(count, len(event)) for count, event in zip(counts, events, strict=True)]
    with _chunks(chain) as chunks:
        forward.count_runs(_runs(chain), chunks, *flat)
    return counts


def filter(chain: Chain) -> tuple[Tensor, Tensor]:
    """State probabilities given the rows up to each, (..., T, K), and log predictive densities."""
    T = chain.log_likelihood.shape[-2]
    filtered, _, log_density = _causal(chain, rows_filtered=T, rows_predicted=0)
    return filtered, log_density


def predict(chain: Chain) -> Prediction:
    """State probabilities given the rows before each, and log predictive densities."""
    T = chain.log_likelihood.shape[-2]
    _, predicted, log_density = _causal(chain, rows_filtered=0, rows_predicted=T)
    return Prediction(log_density, predicted)


def _causal(chain: Chain, rows_filtered: int, rows_predicted: int) -> list[Tensor]:
    T, K = chain.log_likelihood.shape[-2:]
    events: list[tuple[int, ...]] = [(rows_filtered, K), (rows_predicted, K), (T,)]
    parts = [torch.empty((*chain.batch, *event), dtype=torch.float64) for event in events]
    flat = [_flat(part, len(event)) for part, event in zip(parts, events, strict=True)]
    with _chunks(chain) as chunks:
        filtering.filter_runs(_runs(chain), chunks, *flat)
    return parts


def viterbi(chain: Chain) -> Viterbi:
    """Most probable paths."""
    path = torch.empty((*chain.batch, chain.log_likelihood.shape[-2]), dtype=torch.int64)
    values = torch.empty(chain.batch, dtype=torch.float64)
    with _chunks(chain) as chunks:
        maximum.maximise_runs(_runs(chain), chunks, _flat(values, 0), _flat(path, 1))
    return Viterbi(path, values)


def sample_paths(chain: Chain, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior paths by inversion, and the log marginals."""
    batch = torch.broadcast_shapes(chain.batch, uniforms.shape[:-1])
    uniforms = uniforms.expand(*batch, -1)
    path = torch.empty(uniforms.shape, dtype=torch.int64)
    values = torch.empty(chain.batch, dtype=torch.float64)
    owner = np.broadcast_to(_numbers(chain.batch), batch).reshape(-1)
    draws = np.argsort(owner, kind="stable").reshape(
        chain.batch.numel(), batch.numel() // max(1, chain.batch.numel())
    )
    with _chunks(chain) as chunks:
        args = _flat(values, 0), draws, _flat(uniforms, 1), _flat(path, 1)
        paths.draw_runs(_runs(chain), chunks, *args)
    return path, values


@contextmanager
def _chunks(chain: Chain) -> Iterator[int]:
    """Use no more threads than the work is worth, and say in how many parts the runs are taken.

    The number of threads is the caller's own setting, and restored.
    """
    allowed = numba.get_num_threads()
    work = chain.batch.numel() * chain.log_likelihood.shape[-2:].numel()
    threads = max(1, min(allowed, work // WORK_PER_THREAD))
    numba.set_num_threads(threads)
    try:
        yield max(1, min(chain.batch.numel(), threads * CHUNKS_PER_THREAD if threads > 1 else 1))
    finally:
        numba.set_num_threads(allowed)


def _runs(chain: Chain) -> Runs:
    """Flatten every input by itself, and say where each run finds its own."""
    chain = chain.detach()
    log_initial, initial = _stored(chain.log_initial, 1, chain.batch)
    log_transition, transition = _stored(chain.log_transition, 3, chain.batch)
    log_likelihood, data = _stored(chain.log_likelihood, 2, chain.batch)
    K = len(chain.dwell)
    probability = np.exp(log_transition)
    return Runs(
        log_initial=log_initial,
        initial=np.exp(log_initial),
        log_transition=log_transition,
        transition=probability,
        bounded=np.asarray((probability < backward.BOUND).all((1, 2, 3))),
        log_likelihood=log_likelihood,
        dwell=np.array([*chain.dwell, *chain.dwell[-1:] * (-K % WIDTH)]),
        lengths=_flat(chain.lengths.expand(chain.batch), 0),
        which=np.stack([initial, transition, data], -1),
    )


def _stored(x: Tensor, event: int, batch: torch.Size) -> tuple[Array, Array]:
    """Distinct elements (stored, ...) of a broadcast tensor, and which of them each run uses."""
    leading = x.ndim - event
    for dimension in range(leading):  # what was expanded is stored once
        if x.stride(dimension) == 0 and x.shape[dimension] > 1:
            x = x.narrow(dimension, 0, 1)
    number = np.broadcast_to(_numbers(x.shape[:leading]), batch)
    return _flat(x, event), number.reshape(-1)


def _numbers(shape: torch.Size) -> Array:
    return np.arange(shape.numel()).reshape(shape)


def _flat(x: Tensor, event: int) -> Array:
    """Flatten the batch dimensions into one; contiguous."""
    leading = x.ndim - event
    return x.reshape(x.shape[:leading].numel(), *x.shape[leading:]).contiguous().numpy()
