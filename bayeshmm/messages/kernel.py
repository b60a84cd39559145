"""The compiled backend: from broadcasting tensors to flat arrays that runs point into."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from bayeshmm.messages import backward, filtering, forward, reference
from bayeshmm.messages.chain import Array, Chain, ExpectedCounts, Viterbi

WORK_PER_THREAD = 1 << 12  # rows times states; another thread costs more than it saves below it
MESSAGES_PER_THREAD = 1 << 19  # numbers (4 MB)


class Runs(NamedTuple):
    """A batch of runs. Every input is stored once, and runs point to theirs."""

    log_initial: Array  # (initials, K)
    log_transition: Array  # (transitions, S, K, K), S = 1 if constant: matrix s rules s -> s + 1
    stay: Array  # (transitions, S, K): diagonal of the transition probabilities
    jump: Array  # (transitions, S, K, K): the same with zeros for a diagonal
    log_likelihood: Array  # (data, T, K)
    dwell: Array  # (K,)
    lengths: Array  # (runs,)
    which: Array  # (runs, 3): which initial, transition and data


class Messages(NamedTuple):
    """Log densities of the rows from t on, rescaled; all (runs, T, K).

    ``entry`` is for a visit to k that starts at t, ``free`` for a free row t that continues a visit
    to k. What no path can reach has -inf.
    """

    entry: Array
    free: Array
    entry_weight: Array  # exp(entry), relative to the best entry of the row
    free_weight: Array  # exp(free), relative to the same
    total: Array  # sum of the weights of the moves from a free row t; 0 if logs have to be used


def log_marginal(chain: Chain) -> Tensor:
    """Log density of every run, differentiable."""
    inputs = (chain.log_initial, chain.log_transition, chain.log_likelihood)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        values: Tensor = _LogMarginal.apply(*inputs, chain.detach())
        return values
    values = torch.empty(chain.batch, dtype=torch.float64)
    with _threads(chain):
        for _ in _look_back(_runs(chain), _flat(values, 0)):
            pass
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
            partial = torch.autograd.grad(
                value, inputs, gradient, create_graph=True, materialize_grads=True
            )
        else:
            partial = tuple(
                (count * gradient.reshape(*gradient.shape, *[1] * event)).sum_to_size(x.shape)
                for count, event, x in zip(
                    (initial, transition, state), (1, 3, 2), inputs, strict=True
                )
            )
        return *partial, None


def expected_counts(chain: Chain) -> ExpectedCounts:
    """Posterior expectations, in one backward and one forward pass."""
    T, K = chain.log_likelihood.shape[-2:]
    events: list[tuple[int, ...]] = [(), (K,), chain.log_transition.shape[-3:], (T, K), (T, K)]
    counts = [torch.empty((*chain.batch, *event), dtype=torch.float64) for event in events]
    flat = [_flat(count, len(event)) for count, event in zip(counts, events, strict=True)]
    with _threads(chain):
        for part, runs, messages in _look_back(_runs(chain), flat[0]):
            forward.count(tuple(runs), tuple(messages), *(count[part] for count in flat))
    if not chain.per_step:
        counts[2] = counts[2].squeeze(-3)
    return ExpectedCounts(*counts)


def filter(chain: Chain) -> tuple[Tensor, Tensor]:
    """Causal state probabilities, (..., T, K), and log predictive densities, (..., T)."""
    T, K = chain.log_likelihood.shape[-2:]
    probability = torch.empty((*chain.batch, T, K), dtype=torch.float64)
    log_predictive = torch.empty((*chain.batch, T), dtype=torch.float64)
    with _threads(chain):
        filtering.filter_runs(tuple(_runs(chain)), _flat(probability, 2), _flat(log_predictive, 1))
    return probability, log_predictive


def viterbi(chain: Chain) -> Viterbi:
    """Most probable paths."""
    path = torch.empty((*chain.batch, chain.log_likelihood.shape[-2]), dtype=torch.int64)
    values = _walk(chain, path.double(), path, maximise=True)
    return Viterbi(path, values)


def sample_paths(chain: Chain, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior paths by inversion, and the log marginals."""
    batch = torch.broadcast_shapes(chain.batch, uniforms.shape[:-1])
    uniforms = uniforms.expand(*batch, -1)
    path = torch.empty(uniforms.shape, dtype=torch.int64)
    return path, _walk(chain, uniforms, path, maximise=False)


def _walk(chain: Chain, uniforms: Tensor, path: Tensor, *, maximise: bool) -> Tensor:
    """Fill paths; return the log densities of the runs, or of their best paths."""
    values = torch.empty(chain.batch, dtype=torch.float64)
    density, uniform, paths = _flat(values, 0), _flat(uniforms, 1), _flat(path, 1)
    owner = np.broadcast_to(_numbers(chain.batch), path.shape[:-1]).reshape(-1)
    draws = np.argsort(owner, kind="stable").reshape(
        len(density), len(paths) // max(1, len(density))
    )
    with _threads(chain):
        for part, runs, messages in _look_back(_runs(chain), density, maximise=maximise):
            args = density[part], draws[part], uniform, paths, maximise
            forward.walk(tuple(runs), tuple(messages), *args)
    return values


@contextmanager
def _threads(chain: Chain) -> Iterator[None]:
    """Use no more threads than the work is worth; the setting is the caller's own and restored."""
    allowed = numba.get_num_threads()
    work = chain.batch.numel() * chain.log_likelihood.shape[-2:].numel()
    numba.set_num_threads(max(1, min(allowed, work // WORK_PER_THREAD)))
    try:
        yield
    finally:
        numba.set_num_threads(allowed)


def _runs(chain: Chain) -> Runs:
    """Flatten every input by itself, and say where each run finds its own."""
    chain = chain.detach()
    log_initial, initial = _stored(chain.log_initial, 1, chain.batch)
    log_transition, transition = _stored(chain.log_transition, 3, chain.batch)
    log_likelihood, data = _stored(chain.log_likelihood, 2, chain.batch)
    jump = np.exp(log_transition)
    stay = jump.diagonal(axis1=-2, axis2=-1).copy()
    diagonal = np.arange(jump.shape[-1])
    jump[..., diagonal, diagonal] = 0.0
    return Runs(
        log_initial=log_initial,
        log_transition=log_transition,
        stay=stay,
        jump=jump,
        log_likelihood=log_likelihood,
        lengths=_flat(chain.lengths.expand(chain.batch), 0),
        which=np.stack([initial, transition, data], -1),
        dwell=np.array(chain.dwell),
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


def _look_back(
    runs: Runs, log_density: Array, *, maximise: bool = False
) -> Iterator[tuple[slice, Runs, Messages]]:
    """Backward messages of all runs, some at a time so that they stay in the processor's cache."""
    _, T, K = runs.log_likelihood.shape
    some = numba.get_num_threads() * max(1, MESSAGES_PER_THREAD // (5 * T * K))
    some = min(some, len(runs.lengths))
    messages = Messages(*np.empty((5, some, T, K)))
    for first in range(0, len(runs.lengths), max(1, some)):
        part = slice(first, first + some)
        these = runs._replace(lengths=runs.lengths[part], which=runs.which[part])
        backward.look_back(tuple(these), tuple(messages), log_density[part], maximise)
        yield part, these, messages
