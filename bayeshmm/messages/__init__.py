"""Exact inference over state paths: pure functions on tensors, log space in.

All take

log_initial : Tensor
    (..., K), law of the state of the *first* row.
log_transition : Tensor
    (..., K, K), row k to column l, ruling rows after the dwell; or one matrix per step,
    (..., T-1, K, K), which is what it is iff it has one dimension more than ``log_likelihood``.
log_likelihood : Tensor
    (..., T, K), log density of every row under every state; zeros for a missing row.
lengths : Tensor or sequence of int, optional
    (...), rows of every run, 1..T; later rows are padding and never read. Default: T.
minimum_dwell : int or (K,) ints, optional
    Rows that every visit to a state lasts at least: the first owes its full dwell from row 0,
    the last may be cut short by the end of the run. Default: 1, the plain hidden Markov model.

Batch dimensions broadcast against one another, and nothing is copied for it. Values of -inf are
legal (a left-to-right chain, an impossible observation); transition rows are neither normalised
nor checked. Inputs are promoted to float64. On the CPU compiled code runs, in parallel over the
batch and with results that do not depend on the number of threads; elsewhere, and for second
derivatives, plain torch does.

The cost is O(T K^2) whatever the dwell (Yu and Kobayashi 2003 for explicit durations; here with
block windows in place of cumulative likelihoods).
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from bayeshmm.messages import kernel, reference
from bayeshmm.messages.chain import Chain, ExpectedCounts, Prediction, Viterbi, check

__all__ = [
    "ExpectedCounts",
    "Prediction",
    "Viterbi",
    "entries",
    "expected_counts",
    "filter",
    "log_marginal",
    "predict",
    "sample_paths",
    "smooth",
    "viterbi",
]

Lengths = Tensor | Sequence[int] | None
Dwell = int | Sequence[int] | Tensor


def log_marginal(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    *,
    lengths: Lengths = None,
    minimum_dwell: Dwell = 1,
) -> Tensor:
    """Log density of every run, all paths summed over.

    Differentiable: the gradient is the posterior (see `ExpectedCounts`). An impossible run has
    -inf and zero gradient.

    Returns
    -------
    Tensor
        (...).

    Raises
    ------
    ValueError
        If shapes do not fit, a length is outside 1..T, a dwell is not a positive integer, or a
        value that is read is NaN or +inf.
    """
    chain = check(log_initial, log_transition, log_likelihood, lengths, minimum_dwell)
    return _backend(chain).log_marginal(chain)


def expected_counts(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    *,
    lengths: Lengths = None,
    minimum_dwell: Dwell = 1,
) -> ExpectedCounts:
    """Posterior expectations of the sufficient statistics, run by run, in one pass.

    Not differentiable. An impossible run has log marginal -inf and zero counts.

    Raises
    ------
    ValueError
        As `log_marginal`.
    """
    chain = check(log_initial, log_transition, log_likelihood, lengths, minimum_dwell)
    return _backend(chain).expected_counts(chain)


def entries(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    *,
    lengths: Lengths = None,
    minimum_dwell: Dwell = 1,
) -> Tensor:
    """Probability that a visit to a state starts in a row, given all rows of the run.

    Returns
    -------
    Tensor
        (..., T, K), 0 beyond the length. The first visit starts in row 0. Not differentiable.

    Raises
    ------
    ValueError
        As `log_marginal`, and if a run is impossible.
    """
    chain = check(log_initial, log_transition, log_likelihood, lengths, minimum_dwell)
    entered, evidence = _backend(chain).entries(chain)
    _require_possible(chain, evidence)
    return entered


def smooth(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    *,
    lengths: Lengths = None,
    minimum_dwell: Dwell = 1,
) -> Tensor:
    """Probability of every state in every row, given all rows of the run.

    Returns
    -------
    Tensor
        (..., T, K), 0 beyond the length. Not differentiable.

    Raises
    ------
    ValueError
        As `log_marginal`, and if a run is impossible.
    """
    chain = check(log_initial, log_transition, log_likelihood, lengths, minimum_dwell)
    counts = _backend(chain).expected_counts(chain)
    _require_possible(chain, counts.log_marginal)
    return counts.state


def filter(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    *,
    lengths: Lengths = None,
    minimum_dwell: Dwell = 1,
) -> Tensor:
    """Probability of every state in every row, given the rows up to it.

    Causal if the rows of the transition matrix sum to one: what is computed for a row does not
    depend, to the last bit, on the rows after it.

    Returns
    -------
    Tensor
        (..., T, K), 0 beyond the length. Not differentiable.

    Raises
    ------
    ValueError
        As `log_marginal`, and if a run is impossible.
    """
    chain = check(log_initial, log_transition, log_likelihood, lengths, minimum_dwell)
    filtered, log_density = _backend(chain).filter(chain)
    _require_possible(chain, log_density.sum(-1))
    return filtered


def predict(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    *,
    lengths: Lengths = None,
    minimum_dwell: Dwell = 1,
) -> Prediction:
    """Density and state of every row, given the rows before it.

    Causal like `filter`, if the rows of the transition matrix sum to one. To forecast s rows, let
    the last s rows of ``log_likelihood`` be zeros.

    Raises
    ------
    ValueError
        As `log_marginal`. An impossible row is no error: it has log density -inf.
    """
    chain = check(log_initial, log_transition, log_likelihood, lengths, minimum_dwell)
    return _backend(chain).predict(chain)


def viterbi(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    *,
    lengths: Lengths = None,
    minimum_dwell: Dwell = 1,
) -> Viterbi:
    """Most probable paths; the lexicographically smallest where several tie.

    Raises
    ------
    ValueError
        As `log_marginal`, and if a run is impossible.
    """
    chain = check(log_initial, log_transition, log_likelihood, lengths, minimum_dwell)
    best = _backend(chain).viterbi(chain)
    _require_possible(chain, best.log_probability)
    return best


def sample_paths(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    *,
    uniforms: Tensor,
    lengths: Lengths = None,
    minimum_dwell: Dwell = 1,
) -> Tensor:
    """Draw paths from their posterior, by inversion of given uniforms.

    The draw is a function of its inputs alone: z_t is the smallest l with
    ``uniforms[t] < P(z_t <= l | earlier states, all rows)``. Rows inside a dwell leave their
    uniform unused.

    Parameters
    ----------
    log_initial, log_transition, log_likelihood, lengths, minimum_dwell
        As in the module's docstring.
    uniforms : Tensor
        (..., T) in [0, 1). Further leading dimensions, (draws, ..., T), give several paths per
        run for one backward pass.

    Returns
    -------
    Tensor
        (..., T) int64, the batch broadcast with that of ``uniforms``; -1 beyond the length.

    Raises
    ------
    ValueError
        As `log_marginal`, if a run is impossible, or if ``uniforms`` does not fit or leaves [0, 1).
    """
    chain = check(log_initial, log_transition, log_likelihood, lengths, minimum_dwell)
    T = log_likelihood.shape[-2]
    if uniforms.shape[-1:] != (T,) or uniforms.device != log_likelihood.device:
        raise ValueError(
            f"uniforms must be (..., {T}) on {log_likelihood.device}, "
            f"not {tuple(uniforms.shape)} on {uniforms.device}"
        )
    try:
        torch.broadcast_shapes(uniforms.shape[:-1], chain.batch)
    except RuntimeError:
        raise ValueError(
            f"batch dimensions of uniforms, {tuple(uniforms.shape[:-1])}, do not broadcast with "
            f"those of the runs, {tuple(chain.batch)}"
        ) from None
    if not bool(((uniforms >= 0) & (uniforms < 1)).all()):
        raise ValueError("uniforms must lie in [0, 1)")
    path, evidence = _backend(chain).sample_paths(chain, uniforms.detach().double())
    _require_possible(chain, evidence)
    return path


def _backend(chain: Chain) -> ModuleType:
    """Compiled code for the CPU, plain torch for other devices."""
    return kernel if chain.log_likelihood.device.type == "cpu" else reference


def _require_possible(chain: Chain, log_marginal: Tensor) -> None:
    """Name the first run, and its row, that no path can explain."""
    impossible = log_marginal.isneginf().reshape(-1)
    if not bool(impossible.any()):
        return
    run = int(impossible.nonzero()[0])
    log_predictive = _backend(chain).predict(chain).log_density
    rows = log_predictive.reshape(-1, log_predictive.shape[-1])[run]
    raise ValueError(
        f"run {run} (counted along the flattened batch) is impossible: no path of positive "
        f"probability explains its rows up to row {int(rows.isneginf().int().argmax())}; look for "
        "-inf in log_likelihood there, or for zeros in the initial or transition probabilities"
    )
