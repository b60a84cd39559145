"""The law of a chain with a minimum dwell, by listing every path: the oracle of these tests.

Written from the definition of the law alone: no recursion, one run, plain numbers.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Path:
    states: tuple[int, ...]
    entries: tuple[tuple[int, int], ...]  # (row, state) where a visit starts
    stays: tuple[tuple[int, int], ...]  # (row, state) after which the state chose to stay
    jumps: tuple[tuple[int, int, int], ...]  # (row, source, target)
    log_weight: float


@dataclass(frozen=True)
class Posterior:
    paths: list[Path]
    probability: np.ndarray  # (paths,)
    log_marginal: float
    initial: np.ndarray  # (K,)
    transition: np.ndarray  # (T-1, K, K)
    state: np.ndarray  # (n, K)
    entry: np.ndarray  # (n, K)


def list_paths(log_initial, log_transition, log_likelihood, dwell) -> list[Path]:
    """Paths that the minimum dwell allows; log_transition is per step, (T-1, K, K)."""
    n, K = log_likelihood.shape
    paths = []
    for states in itertools.product(range(K), repeat=n):
        changes = [t for t in range(1, n) if states[t] != states[t - 1]]
        starts, ends = [0, *changes], [*changes, n]
        complete = list(zip(starts, ends, strict=True))[:-1]
        if any(end - start < dwell[states[start]] for start, end in complete):
            continue
        stays = []
        for start, end in zip(starts, ends, strict=True):
            k = states[start]
            stays += [(t, k) for t in range(start + dwell[k] - 1, end - 1)]
        jumps = [(t - 1, states[t - 1], states[t]) for t in changes]
        terms = [log_initial[states[0]]]
        terms += [log_likelihood[t, k] for t, k in enumerate(states)]
        terms += [log_transition[t, k, k] for t, k in stays]
        terms += [log_transition[t, k, j] for t, k, j in jumps]
        weight = -math.inf if -math.inf in terms else math.fsum(terms)
        entries = tuple((t, states[t]) for t in starts)
        paths.append(Path(states, entries, tuple(stays), tuple(jumps), weight))
    return paths


def posterior(log_initial, log_transition, log_likelihood, dwell) -> Posterior:
    n, K = log_likelihood.shape
    paths = list_paths(log_initial, log_transition, log_likelihood, dwell)
    top = max(path.log_weight for path in paths)
    weights = [math.exp(path.log_weight - top) if top > -math.inf else 0.0 for path in paths]
    total = math.fsum(weights)
    log_marginal = top + math.log(total) if total > 0 else -math.inf
    probability = np.array(weights) / (total or 1.0)
    initial = np.zeros(K)
    transition = np.zeros((len(log_transition), K, K))
    state, entry = np.zeros((n, K)), np.zeros((n, K))
    for path, p in zip(paths, probability, strict=True):
        initial[path.states[0]] += p
        state[range(n), path.states] += p
        for t, k in path.entries:
            entry[t, k] += p
        for t, k in path.stays:
            transition[t, k, k] += p
        for t, k, j in path.jumps:
            transition[t, k, j] += p
    return Posterior(paths, probability, log_marginal, initial, transition, state, entry)


def filtered(log_initial, log_transition, log_likelihood, dwell) -> np.ndarray:
    """Law of the last row's state in every prefix of the run, (n, K)."""
    prefixes = [log_likelihood[: t + 1] for t in range(len(log_likelihood))]
    return np.array(
        [posterior(log_initial, log_transition, prefix, dwell).state[-1] for prefix in prefixes]
    )


def best(paths: list[Path]) -> Path:
    """Best path; paths are listed in lexicographic order, and the first of equals is taken."""
    return max(paths, key=lambda path: path.log_weight)


def conditional(law: Posterior, prefix: tuple[int, ...]) -> np.ndarray:
    """P(next state | states so far, all rows), (K,)."""
    t = len(prefix)
    shares = np.zeros(len(law.initial))
    for path, p in zip(law.paths, law.probability, strict=True):
        if path.states[:t] == prefix:
            shares[path.states[t]] += p
    return shares / shares.sum()


def invert(law: Posterior, uniforms) -> tuple[int, ...]:
    """z_t = min { l : u_t < P(z_t <= l | earlier states, all rows) }."""
    states: tuple[int, ...] = ()
    for t in range(len(law.state)):
        cumulative = conditional(law, states).cumsum()
        states += (int(np.argmax(uniforms[t] < cumulative)),)
    return states
