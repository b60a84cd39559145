"""The messages in plain torch: any device, any order of derivative, written for clarity.

Everything is exact log-space arithmetic without masks or normalisation of messages, so it shares
neither the numerics nor most of the recursions of the compiled kernel that it is a reference for:
counts are derivatives of the log marginal, and the filter carries the age of every visit.
Notation: w = dwell - 1; a row is *free* once its visit has lasted ``dwell`` rows.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from bayeshmm.messages.chain import Chain, ExpectedCounts, Prediction, Viterbi


def log_marginal(chain: Chain) -> Tensor:
    """Log density of every run, differentiable any number of times."""
    return _log_marginal(chain, entry_potential=None)


def _log_marginal(chain: Chain, entry_potential: Tensor | None) -> Tensor:
    entry, _, scale = _backward(chain, _logsumexp, entry_potential)
    return scale + _logsumexp(chain.log_initial + entry[0], -1)


def expected_counts(chain: Chain) -> ExpectedCounts:
    """Posterior expectations, as derivatives of the log marginal."""
    value, initial, transition, state, _ = _derivatives(chain)
    if not chain.per_step:
        transition = transition.squeeze(-3)
    return ExpectedCounts(value, initial, transition, state)


def entries(chain: Chain) -> tuple[Tensor, Tensor]:
    """Probability that a visit starts, (..., T, K), and the log marginals."""
    value, _, _, _, entry = _derivatives(chain)
    return entry, value


def _derivatives(chain: Chain) -> tuple[Tensor, ...]:
    """Log marginal and its derivatives with respect to each input and to potentials of entries."""
    T, K = chain.log_likelihood.shape[-2:]
    shapes = {
        "log_initial": (K,),
        "log_transition": chain.log_transition.shape[-3:],
        "log_likelihood": (T, K),
    }
    with torch.enable_grad():
        own = {
            name: getattr(chain, name)
            .detach()
            .expand(*chain.batch, *shape)
            .clone()
            .requires_grad_()
            for name, shape in shapes.items()
        }
        entry_potential = torch.zeros_like(own["log_likelihood"], requires_grad=True)
        value = _log_marginal(chain._replace(**own), entry_potential)
        derivatives = torch.autograd.grad(
            value.sum(), [*own.values(), entry_potential], materialize_grads=True
        )
    return value.detach(), *derivatives


def filter(chain: Chain) -> tuple[Tensor, Tensor]:
    """State probabilities given the rows up to each, (..., T, K), and log predictive densities."""
    filtered, prediction = _causal(chain)
    return filtered, prediction.log_density


def predict(chain: Chain) -> Prediction:
    """State probabilities given the rows before each, and log predictive densities."""
    return _causal(chain)[1]


def _causal(chain: Chain) -> tuple[Tensor, Prediction]:
    """Probabilities given the rows up to each, and what is known before each.

    The state is carried together with the age of its visit: ``young[..., a, k]`` is the log
    probability of being in k, in row a of a visit that is still dwelling.
    """
    chain = chain.detach()
    K = chain.log_initial.shape[-1]
    live = chain.live
    rows = chain.log_likelihood.masked_fill(~live[..., None], 0.0)
    dwell = torch.tensor(chain.dwell, device=rows.device)
    age = torch.arange(max(chain.dwell), device=rows.device)[:, None]
    diagonal = torch.eye(K, dtype=torch.bool, device=rows.device)

    free = rows.new_full((*chain.batch, K), -torch.inf)
    young = free[..., None, :].expand(*chain.batch, max(chain.dwell), K)
    probability, predicted, log_predictive = [], [], []
    for t in range(rows.shape[-2]):
        if t == 0:
            stay, arrive = free, chain.log_initial.expand(*chain.batch, K)
        else:
            joint = free[..., :, None] + _step(chain, t - 1)
            stay = joint.diagonal(dim1=-2, dim2=-1)
            arrive = _logsumexp(joint.masked_fill(diagonal, -torch.inf), -2)
        aged = torch.cat([arrive[..., None, :], young[..., :-1, :]], -2)
        predicted.append(_logsumexp(torch.cat([stay[..., None, :], aged], -2), -2).exp())
        matured = _logsumexp(aged.masked_fill(age != dwell - 1, -torch.inf), -2)
        free = torch.logaddexp(stay, matured) + rows[..., t, :]
        young = aged.masked_fill(age >= dwell - 1, -torch.inf) + rows[..., t, None, :]
        state = _logsumexp(torch.cat([free[..., None, :], young], -2), -2)
        total = _logsumexp(state, -1)
        scale = total.masked_fill(total.isneginf(), 0.0)[..., None]
        free, young = free - scale, young - scale[..., None]
        probability.append((state - scale).exp())
        log_predictive.append(total)
    return torch.stack(probability, -2) * live[..., None], Prediction(
        torch.stack(log_predictive, -1).masked_fill(~live, 0.0),
        torch.stack(predicted, -2) * live[..., None],
    )


def viterbi(chain: Chain) -> Viterbi:
    """Most probable paths."""
    chain = chain.detach()
    entry, free, scale = _backward(chain, torch.amax)
    path = _walk(chain, entry, free, lambda logits, t: logits.argmax(-1))
    return Viterbi(path, scale + (chain.log_initial + entry[0]).amax(-1))


def sample_paths(chain: Chain, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior paths by inversion, and the log marginals."""
    chain = chain.detach()
    entry, free, scale = _backward(chain, _logsumexp)
    states = torch.arange(chain.log_initial.shape[-1], device=uniforms.device)

    def draw(logits: Tensor, t: int) -> Tensor:
        weights = (logits - logits.amax(-1, keepdim=True)).exp()
        cumulative = weights.cumsum(-1)
        # Where sums are taken in parallel, rounding may leave a state without weight a share.
        below = (uniforms[..., t, None] * cumulative[..., -1:] >= cumulative).sum(-1)
        return torch.minimum(below, (states * (weights > 0)).amax(-1))

    path = _walk(chain, entry, free, draw)
    return path, scale + _logsumexp(chain.log_initial + entry[0], -1)


def _backward(
    chain: Chain,
    combine: Callable[[Tensor, int], Tensor],
    entry_potential: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Log density of the rows from t on: given a visit starts at t, given a free row t.

    Parameters
    ----------
    chain : Chain
    combine : callable
        Log-sum-exp for densities, maximum for Viterbi.
    entry_potential : Tensor, optional
        (..., T, K), added whenever a visit to k starts at t: its derivative is P(entry).

    Returns
    -------
    entry, free : list of Tensor
        T tensors (..., K), less the largest log likelihood of every row from t on.
    scale : Tensor
        (...), the sum of what was taken off.
    """
    T, K = chain.log_likelihood.shape[-2:]
    rows = chain.log_likelihood.masked_fill(~chain.live[..., None], 0.0)
    # The peaks cancel in the result, so they need no derivative.
    peak = rows.detach().amax(-1, keepdim=True)
    peak = peak.masked_fill(peak.isneginf(), 0.0)
    rows = rows - peak
    window = _windows(rows, chain.dwell)
    if entry_potential is not None:
        window = window + entry_potential

    diagonal = torch.eye(K, dtype=torch.bool, device=rows.device)
    over = rows.new_zeros(*chain.batch, K)
    future = [over] * (T + max(chain.dwell))  # given a free row t, the rows after it
    entry, free = [over] * T, [over] * T
    for t in range(T - 1, -1, -1):
        entry[t] = window[..., t, :] + _at_end_of_dwell(future, t, chain.dwell)
        free[t] = rows[..., t, :] + future[t]
        if t:
            target = torch.where(diagonal, free[t][..., None, :], entry[t][..., None, :])
            before = combine(_step(chain, t - 1) + target, -1)
            future[t - 1] = torch.where((t < chain.lengths)[..., None], before, over)
    return entry, free, peak.sum((-2, -1))


def _windows(rows: Tensor, dwell: tuple[int, ...]) -> Tensor:
    """Add up the ``dwell[k]`` rows from t on; (..., T, K). Rows past the last count zero.

    Rows are cut into blocks of w: the rows t..t+w are a block's suffix and the prefix of the next
    (van Herk 1992; Gil and Werman 1993). No difference of cumulative sums is ever taken, so -inf
    and outliers stay inside their own windows.
    """
    T = rows.shape[-2]
    columns = []
    for k, d in enumerate(dwell):
        column, w = rows[..., k], d - 1
        if w:
            blocks = -(-T // w) + 1
            block = pad(column, (0, blocks * w - T)).unflatten(-1, (blocks, w))
            suffix = block.flip(-1).cumsum(-1).flip(-1)
            total = suffix[..., :-1, :] + block.cumsum(-1)[..., 1:, :]
            column = total.flatten(-2)[..., :T]
        columns.append(column)
    return torch.stack(columns, -1)


def _at_end_of_dwell(future: list[Tensor], t: int, dwell: tuple[int, ...]) -> Tensor:
    """Future of a visit to k that starts at t, from the last row of its dwell on."""
    if len(set(dwell)) == 1:
        return future[t + dwell[0] - 1]
    return torch.stack([future[t + d - 1][..., k] for k, d in enumerate(dwell)], -1)


def _step(chain: Chain, t: int) -> Tensor:
    """Log transition from row t to t + 1; zeros where the run has ended."""
    if not chain.per_step:
        return chain.log_transition[..., 0, :, :]
    over = t + 1 >= chain.lengths
    return chain.log_transition[..., t, :, :].masked_fill(over[..., None, None], 0.0)


def _walk(
    chain: Chain,
    entry: list[Tensor],
    free: list[Tensor],
    choose: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Walk forward on backward messages: choose at free rows, stay through every dwell."""
    T, K = chain.log_likelihood.shape[-2:]
    dwell = torch.tensor(chain.dwell, device=chain.log_likelihood.device)
    state = choose(chain.log_initial + entry[0], 0)
    settled = dwell[state]  # first row whose state is chosen anew
    path = [state]
    for t in range(1, T):
        here = one_hot(state, K).bool()
        step = _step(chain, t - 1).expand(*state.shape, K, K)
        logits = step[here].reshape(*state.shape, K) + torch.where(here, free[t], entry[t])
        chosen = torch.where(t < settled, state, choose(logits, t))
        settled = torch.where(chosen == state, settled, t + dwell[chosen])
        state = chosen
        path.append(state)
    return torch.stack(path, -1).masked_fill(~chain.live, -1)


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    """Log-sum-exp whose derivative over nothing but -inf is 0, not NaN."""
    nothing = x.detach().amax(dim, keepdim=True).isneginf()
    return x.masked_fill(nothing, 0.0).logsumexp(dim).masked_fill(nothing.squeeze(dim), -torch.inf)
