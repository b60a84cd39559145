"""Recursions in 80-bit arithmetic, whose exp reaches e^-11355, and data that need them."""

from dataclasses import dataclass

import numpy as np

Real = np.longdouble
WIDE = np.finfo(Real).eps < 1e-18  # whether this machine has such arithmetic
SMALL = np.exp(Real(-9000)) if WIDE else 0  # sums outside SMALL to 1 / SMALL are taken in logs


@dataclass(frozen=True)
class Answer:
    log_marginal: Real
    added: float  # the sum of the sizes of what adds up to it
    state: np.ndarray  # (T, K)
    entry: np.ndarray  # (T, K)
    transition: np.ndarray  # (K, K), summed over the steps


def recurse(log_initial, log_transition, rows, dwell: int) -> Answer:
    """Backward in logarithms, then forward in posterior probabilities.

    ``free[t]`` and ``entry[t]`` are the log densities of the rows from t on, given that row t
    continues a visit past its dwell, or starts one; relative to ``scale[t:].sum()``. The rows of a
    whole dwell are added one by one.
    """
    T, K = rows.shape
    w = dwell - 1
    initial, steps, fit = (np.asarray(x, Real) for x in (log_initial, log_transition, rows))
    jump, diagonal = np.exp(steps), np.diag_indices(K)
    stay = jump[diagonal].copy()
    jump[diagonal] = 0
    whole = fit.copy()
    for age in range(1, dwell):
        whole[: T - age] += fit[age:]
    scale = np.zeros(T + dwell, Real)
    future = np.zeros((T, K), Real)
    free, entry = np.empty((T, K), Real), np.empty((T, K), Real)

    def exp(x):
        """Exponential, without the slow way of the processor to zero."""
        return np.exp(x, where=x > -11_000, out=np.zeros_like(x))

    def moves(t):
        """Weights of the moves from row t, (K, K), relative to the levels, (K,), in logs."""
        level = np.full(K, entry[t + 1].max())
        weight = jump * exp(entry[t + 1] - level)
        weight[diagonal] = stay * exp(free[t + 1] - level)
        total = weight.sum(1)
        far = np.flatnonzero(~((total > SMALL) & (total < 1 / SMALL)))
        if len(far):
            score = steps[far] + entry[t + 1]
            score[range(len(far)), far] = steps[far, far] + free[t + 1, far]
            level[far] = score.max(1)
            weight[far] = exp(score - level[far, None])
        return level, weight

    with np.errstate(over="ignore"):
        for t in range(T - 1, -1, -1):
            if t < T - 1:
                level, weight = moves(t)
                future[t] = level + np.log(weight.sum(1))
            free[t] = fit[t] + future[t]
            entry[t] = whole[t] + future[min(t + w, T - 1)] - scale[t + 1 : t + dwell].sum()
            scale[t] = max(free[t].max(), entry[t].max())
            free[t] -= scale[t]
            entry[t] -= scale[t]

        first = initial + entry[0]
        total = first.max() + np.log(np.exp(first - first.max()).sum())
        entered, state = np.zeros((T, K), Real), np.zeros((T, K), Real)
        entered[0] = np.exp(first - total)
        stayed, transition = np.zeros(K, Real), np.zeros((K, K), Real)
        for t in range(T):
            settled = stayed + (entered[t - w] if t >= w else 0)
            state[t] = settled + entered[max(0, t - w + 1) : t + 1].sum(0) if w else settled
            if t < T - 1:
                _, weight = moves(t)
                moved = (settled / weight.sum(1))[:, None] * weight
                transition += moved
                stayed = moved[diagonal].copy()
                moved[diagonal] = 0
                entered[t + 1] = moved.sum(0)
    return Answer(
        log_marginal=scale.sum() + total,
        added=float(np.abs(scale).sum() + np.abs(total)),
        state=state.astype(float),
        entry=entered.astype(float),
        transition=transition.astype(float),
    )


def data(kind: str, T: int, K: int) -> np.ndarray:
    """Log likelihoods, (T, K), of five kinds that break different shortcuts."""
    g = np.random.default_rng(0)
    moderate = 3 * g.standard_normal((T, K))
    if kind == "far from zero":
        return moderate - 1e4
    if kind == "shared noise":  # phases of 500 rows, whose fit all states have in common
        phase = np.arange(T)[:, None] // 500 % K == np.arange(K)
        return moderate + 2 * phase + g.uniform(-1e4, 1e4, (T, 1))
    if kind == "hopeless, then not":  # the first state, over the first 60% of the rows
        moderate[: int(0.6 * T), 0] -= 9000
        return moderate
    if kind == "independent":
        return g.uniform(-1e4, 1e4, (T, K))
    assert kind == "moderate"
    return moderate


KINDS = ["moderate", "far from zero", "shared noise", "hopeless, then not", "independent"]


def parameters(K: int) -> tuple[np.ndarray, np.ndarray]:
    """Visits last 20 rows and more; a tenth of the moves is barred."""
    g = np.random.default_rng(1)
    jump = g.dirichlet(np.ones(K), size=K) * (g.random((K, K)) < 0.9) + 1e-3 * np.eye(K, k=1)
    jump[-1, 0] += 1e-3
    np.fill_diagonal(jump, 0)
    transition = 0.05 * jump / jump.sum(1, keepdims=True) + 0.95 * np.eye(K)
    with np.errstate(divide="ignore"):
        return np.log(g.dirichlet(np.ones(K))), np.log(transition)


def expand(log_initial, log_transition, rows, dwell: list[int]):
    """Log marginal, smoothed and filtered states by an ordinary chain whose states carry ages.

    An exact log-sum-exp per entry: nothing in common with the code under test.
    """
    T, K = rows.shape
    expanded = [(k, age) for k in range(K) for age in range(1, dwell[k] + 1)]
    S = len(expanded)
    start = np.full(S, -np.inf, dtype=Real)
    move = np.full((S, S), -np.inf, dtype=Real)
    for a, (k, age) in enumerate(expanded):
        if age == 1:
            start[a] = log_initial[k]
        for b, (j, other) in enumerate(expanded):
            if age < dwell[k]:
                move[a, b] = 0.0 if (j, other) == (k, age + 1) else -np.inf
            elif j == k and other == dwell[k]:
                move[a, b] = log_transition[k, k]
            elif j != k and other == 1:
                move[a, b] = log_transition[k, j]
    fit = rows.astype(Real)[:, [k for k, _ in expanded]]

    def logsumexp(x, axis):
        top = x.max(axis, keepdims=True)
        top = np.where(np.isneginf(top), 0, top)
        with np.errstate(divide="ignore"):
            return np.log(np.exp(x - top).sum(axis)) + top.squeeze(axis)

    forward, backward = np.empty((T, S), Real), np.zeros((T, S), Real)
    forward[0] = start + fit[0]
    for t in range(1, T):
        forward[t] = logsumexp(forward[t - 1][:, None] + move, 0) + fit[t]
    for t in range(T - 2, -1, -1):
        backward[t] = logsumexp(move + (fit[t + 1] + backward[t + 1])[None], 1)
    log_marginal = logsumexp(forward[-1], 0)
    member = np.array([[float(k == j) for j in range(K)] for k, _ in expanded])
    smoothed = np.exp(forward + backward - log_marginal) @ member
    filtered = np.exp(forward - logsumexp(forward, 1)[:, None]) @ member
    return log_marginal, smoothed, filtered
