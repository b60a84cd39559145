"""Batches of Markov chains with a minimum dwell: checked inputs and results.

The law. The first row's state is drawn from ``exp(log_initial)`` and starts a visit. Every visit to
state k lasts at least ``dwell[k]`` rows, through which the state stays with probability one. From
any later row t the state stays with A_t[k, k] or starts a visit to l != k with A_t[k, l], where
A_t = ``exp(log_transition)``. The last visit may be cut short by the end of the run. A dwell of 1
is the plain hidden Markov model.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = tuple[Array, ...]


class Viterbi(NamedTuple):
    """Most probable paths.

    Attributes
    ----------
    path : Tensor
        (..., T) int64, -1 beyond the run's length. Among equally probable paths, the
        lexicographically smallest.
    log_probability : Tensor
        (...), the joint log density of path and data.
    """

    path: Tensor
    log_probability: Tensor


class ExpectedCounts(NamedTuple):
    """Posterior expectations of the sufficient statistics, run by run.

    They are also the gradient of ``log_marginal`` with respect to ``log_initial`` (initial),
    ``log_transition`` (transition) and ``log_likelihood`` (state).

    Attributes
    ----------
    log_marginal : Tensor
        (...), log density of the run; -inf, with all counts zero, if the run is impossible.
    initial : Tensor
        (..., K), probability that the first row is in state k.
    transition : Tensor
        (..., K, K), or (..., T-1, K, K) if ``log_transition`` is per step. Diagonal: expected
        number of stays in k after its dwell (rows inside the dwell are ruled by no parameter).
        Off the diagonal: expected number of changes from k to l.
    state : Tensor
        (..., T, K), probability of state k in row t given the whole run; 0 beyond its length.
    """

    log_marginal: Tensor
    initial: Tensor
    transition: Tensor
    state: Tensor


class Prediction(NamedTuple):
    """What is known of every row given the rows before it.

    Attributes
    ----------
    log_density : Tensor
        (..., T), log density of row t given the rows before it. They add up to the log marginal.
        -inf from the first impossible row on; 0 beyond the run's length.
    state : Tensor
        (..., T, K), probability of state k in row t given the rows before it, the initial law in
        the first row; 0 beyond the run's length.
    """

    log_density: Tensor
    state: Tensor


class Chain(NamedTuple):
    """Checked inputs: float64 tensors whose batch dimensions broadcast against one another.

    Attributes
    ----------
    log_initial : Tensor
        (..., K).
    log_transition : Tensor
        (..., S, K, K), S = T-1 if per step, else 1.
    log_likelihood : Tensor
        (..., T, K).
    lengths : Tensor
        (...), int64.
    dwell : tuple of int
        Minimum dwell of every state in rows, at most T + 1 (a longer one changes nothing).
    batch : torch.Size
        Broadcast batch shape.
    per_step : bool
        Whether ``log_transition`` has one matrix per step.
    """

    log_initial: Tensor
    log_transition: Tensor
    log_likelihood: Tensor
    lengths: Tensor
    dwell: tuple[int, ...]
    batch: torch.Size
    per_step: bool

    @property
    def live(self) -> Tensor:
        """(..., T) bool: rows that belong to their run."""
        rows = torch.arange(self.log_likelihood.shape[-2], device=self.lengths.device)
        return rows < self.lengths[..., None]

    def detach(self) -> "Chain":
        """Return the same chain, cut from the autograd graph."""
        return self._replace(
            log_initial=self.log_initial.detach(),
            log_transition=self.log_transition.detach(),
            log_likelihood=self.log_likelihood.detach(),
        )


def check(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | Sequence[int] | None = None,
    minimum_dwell: int | Sequence[int] | Tensor = 1,
) -> Chain:
    """Check shapes and values, promote to float64.

    Raises
    ------
    ValueError
        If shapes do not fit, a length is outside 1..T, a dwell is not a positive integer, or a
        value that is read is NaN or +inf.
    """
    if log_likelihood.ndim < 2 or 0 in log_likelihood.shape[-2:]:
        raise ValueError(
            f"log_likelihood must be (..., T, K) with T, K >= 1, not {tuple(log_likelihood.shape)}"
        )
    T, K = log_likelihood.shape[-2:]
    if log_initial.shape[-1:] != (K,):
        raise ValueError(
            f"log_initial must be (..., {K}) to match the {K} states of log_likelihood, "
            f"not {tuple(log_initial.shape)}"
        )
    per_step = log_transition.ndim > log_likelihood.ndim
    expected = (T - 1, K, K) if per_step else (K, K)
    if log_transition.shape[-len(expected) :] != expected or (
        log_transition.ndim > log_likelihood.ndim + 1
    ):
        raise ValueError(
            f"log_transition must be (..., {K}, {K}) or, per step, with exactly one dimension more "
            f"than log_likelihood, (..., {T - 1}, {K}, {K}); "
            f"got {tuple(log_transition.shape)} for log_likelihood {tuple(log_likelihood.shape)}"
        )
    devices = {log_initial.device, log_transition.device, log_likelihood.device}
    if len(devices) > 1:
        raise ValueError(f"inputs lie on different devices: {sorted(map(str, devices))}")

    lengths = _lengths(lengths, T, log_likelihood.device)
    leading = (
        log_initial.shape[:-1],
        log_transition.shape[: -len(expected)],
        log_likelihood.shape[:-2],
        lengths.shape,
    )
    try:
        batch = torch.broadcast_shapes(*leading)
    except RuntimeError:
        raise ValueError(
            "batch dimensions of log_initial, log_transition, log_likelihood and lengths do not "
            f"broadcast: {', '.join(str(tuple(shape)) for shape in leading)}"
        ) from None
    chain = Chain(
        log_initial=log_initial.double(),
        log_transition=(log_transition if per_step else log_transition.unsqueeze(-3)).double(),
        log_likelihood=log_likelihood.double(),
        lengths=lengths,
        dwell=_dwell(minimum_dwell, T, K),
        batch=batch,
        per_step=per_step,
    )
    _check_values(chain)
    return chain


def _lengths(lengths: Tensor | Sequence[int] | None, T: int, device: torch.device) -> Tensor:
    """Row counts as an int64 tensor, between 1 and T."""
    if lengths is None:
        return torch.tensor(T, device=device)
    lengths = torch.as_tensor(lengths, device=device)
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise ValueError(f"lengths must be integers, not {lengths.dtype}")
    bad = ((lengths < 1) | (lengths > T)).reshape(-1).nonzero()
    if len(bad):
        run = int(bad[0])
        raise ValueError(
            f"lengths must lie in 1..{T}, the rows of log_likelihood; "
            f"run {run} has {int(lengths.reshape(-1)[run])}"
        )
    return lengths.long()


def _dwell(minimum_dwell: int | Sequence[int] | Tensor, T: int, K: int) -> tuple[int, ...]:
    """Minimum dwell of every state, cut where the first block of windows holds all rows."""
    dwell = torch.as_tensor(minimum_dwell)
    integral = not (dwell.is_floating_point() or dwell.is_complex() or dwell.dtype == torch.bool)
    if not integral or dwell.shape not in ((), (K,)) or bool((dwell < 1).any()):
        raise ValueError(
            f"minimum_dwell must be an int >= 1 or one for each of the {K} states, "
            f"not {minimum_dwell!r}"
        )
    return tuple(dwell.clamp(max=T + 1).expand(K).tolist())


def _check_values(chain: Chain) -> None:
    """Refuse NaN and +inf in whatever is read; padding may hold anything."""
    live = chain.live
    always = live[..., :1]
    for name, values, event, read in (
        ("log_initial", chain.log_initial.unsqueeze(-2), 1, always),
        ("log_transition", chain.log_transition, 2, live[..., 1:] if chain.per_step else always),
        ("log_likelihood", chain.log_likelihood, 1, live),
    ):
        # One reduction settles the usual case: the largest value is NaN if any is.
        if values.numel() == 0 or bool(values.detach().amax() < torch.inf):
            continue
        bad = (values.isnan() | values.isposinf()).flatten(-event).any(-1) & read
        where = bad.expand(*chain.batch, -1).reshape(-1, bad.shape[-1]).nonzero()
        if len(where):
            run, row = where[0].tolist()
            raise ValueError(
                f"{name} is NaN or +inf in run {run} (counted along the flattened batch)"
                f"{f', row {row}' if bad.shape[-1] > 1 else ''}; logarithms of probabilities and "
                "densities must be finite or -inf, and a missing row is a row of zeros"
            )
