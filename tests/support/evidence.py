"""Evidences that are known without the package: by formula, by enumeration and by sampling."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import torch
from scipy.stats import multivariate_t
from torch import Tensor

from bayeshmm.emissions.design import Design
from bayeshmm.emissions.regression import Precisions
from bayeshmm.transitions import TransitionPrior


def log_evidence(
    design: Design,
    values: Precisions,
    noise_shape: float = 1.0,
    rows: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Evidence of one state by the marginal Student-t of every equation's responses.

    Parameters
    ----------
    design
        Rows without rounding; those that miss metrics must miss the last ones, or have no
        contrasts.
    values
        Known hyper-parameters, (1, G) and (1, D).
    rows
        Which rows the state has, bool (N, T); None: all.
    weights
        Of every row, (..., N, T): leading axes are those of the result.
    """
    layout = design.layout
    rows = torch.ones_like(design.complete) if rows is None else rows
    weights = torch.ones(rows.shape, dtype=torch.float64) if weights is None else weights
    total = torch.zeros(weights.shape[:-2], dtype=torch.float64)
    for j in range(layout.metrics):
        seen = rows & design.observed[..., j]
        if not seen.any():
            continue
        X, scale = design.past[:, :, j][seen], values.groups[0][layout.group_index[j]]
        if layout.full:
            assert (design.observed[..., : j + 1].all(-1) == design.observed[..., j]).all()
            X = torch.cat([X, design.response[seen][:, :j]], -1)
            scale = torch.cat([scale, values.scales[0, :j]])
        z = design.response[seen][:, j]
        kernel = X / scale @ X.T
        if layout.run_effects:
            run = seen.nonzero()[:, 0]
            kernel = kernel + (run[:, None] == run) / values.groups[0, -1]
        degrees = 2.0 * noise_shape + (j if layout.full else 0)
        noise = torch.diag_embed(1.0 / weights[..., seen])
        covariance = values.scales[0, j] / degrees * (noise + kernel)
        n = len(z)
        solved = torch.linalg.solve(covariance, z[:, None])[..., 0]
        total = total + (
            math.lgamma((degrees + n) / 2)
            - math.lgamma(degrees / 2)
            - 0.5 * n * math.log(degrees * math.pi)
            - 0.5 * torch.linalg.slogdet(covariance)[1]
            - 0.5 * (degrees + n) * torch.log1p((solved * z).sum(-1) / degrees)
        )
    return total


def feasible_paths(length: int, states: int, dwell: int) -> Iterator[tuple[int, ...]]:
    """Every path whose visits, the last one aside, last at least `dwell` rows."""
    for path in itertools.product(range(states), repeat=length):
        visits = [len(list(group)) for _, group in itertools.groupby(path)]
        if all(rows >= dwell for rows in visits[:-1]):
            yield path


def log_path_prior(paths: Sequence[Sequence[int]], prior: TransitionPrior) -> float:
    """Beta and Dirichlet-multinomial law of some runs' paths, summed over the grids."""
    first, moves = [0] * prior.states, [[0] * prior.states for _ in range(prior.states)]
    for path in paths:
        first[path[0]] += 1
        age = 1
        for old, new in itertools.pairwise(path):
            moves[old][new] += age >= prior.minimum_dwell
            age = age + 1 if new == old else 1
    return _log_law_of_counts(prior, tuple(first), tuple(map(tuple, moves)))


@cache
def _log_law_of_counts(
    prior: TransitionPrior, first: tuple[int, ...], moves: tuple[tuple[int, ...], ...]
) -> float:
    K, initial = prior.states, torch.tensor(first, dtype=torch.float64)
    counts = torch.tensor(moves, dtype=torch.float64)
    jumps = counts[~torch.eye(K, dtype=torch.bool)].view(K, K - 1)
    a, b = (part[:, None] for part in prior.exits.grid[:, 0].unbind(-1))
    exits = _log_beta(torch.stack([a + jumps.sum(1), b + counts.diagonal()], -1))
    exits = exits - _log_beta(torch.cat([a, b], -1))[:, None]
    total = (prior.exits.log_prior + exits.sum(-1)).logsumexp(0)
    cells = prior.jumps.grid
    ratio = _log_beta(cells + jumps) - _log_beta(cells)
    total = total + (prior.jumps.log_prior + ratio.sum(-1)).logsumexp(0)
    return float(total + _log_beta(1.0 + initial) + math.lgamma(K))


def _log_beta(parameters: Tensor) -> Tensor:
    """Log normaliser of a Dirichlet law, (..., C) to (...)."""
    return torch.lgamma(parameters).sum(-1) - torch.lgamma(parameters.sum(-1))


def path_log_joints(
    design: Design,
    transition: TransitionPrior,
    values: Precisions,
    weights: Tensor | None = None,
) -> tuple[list[tuple[tuple[int, ...], ...]], Tensor]:
    """All paths that the dwell allows, and their joint log density with the rows.

    Coefficients, variances, run effects and the chain are integrated out.

    Returns
    -------
    paths
        A tuple of paths, one a run, for each of M combinations.
    log_joints
        Shape (..., M), leading axes those of `weights`.
    """
    T = design.complete.shape[1]
    lengths = design.lengths.tolist()
    K = transition.states
    each = [list(feasible_paths(length, K, transition.minimum_dwell)) for length in lengths]
    combinations = list(itertools.product(*each))
    known: dict[bytes, Tensor] = {}

    def of_state(rows: Tensor) -> Tensor:
        key = rows.numpy().tobytes()
        if key not in known:
            known[key] = log_evidence(design, values, rows=rows, weights=weights)
        return known[key]

    joints = []
    for paths in combinations:
        labels = torch.tensor([[*path, *[-1] * (T - len(path))] for path in paths])
        rows = sum(of_state(labels == k) for k in range(K))
        joints.append(rows + log_path_prior(paths, transition))
    return combinations, torch.stack(joints, -1)


def bridge(
    log_density: Callable[[np.ndarray], np.ndarray], draws: np.ndarray, seed: int
) -> tuple[float, float]:
    """Log of the integral of a density, from draws of it: twice, by independent estimates.

    Half of the draws fit a multivariate t law; the other half and as many draws of that law make
    the bridge.

    Parameters
    ----------
    log_density
        Of points (S, dimensions), up to the constant that is sought.
    draws
        (S, dimensions), in an order without meaning.
    seed
        Of the draws of the t law.

    Returns
    -------
    bridge, importance
        Bridge estimate (Meng and Wong, 1996), and that by importance sampling from the t law alone.
    """
    fitted, held = draws[::2], draws[1::2]
    shape = np.cov(fitted.T)
    proposal = multivariate_t(fitted.mean(0), shape, df=12, seed=seed)
    proposed = proposal.rvs(len(held))
    inside = log_density(held) - proposal.logpdf(held)
    outside = log_density(proposed) - proposal.logpdf(proposed)
    importance = np.logaddexp.reduce(outside) - math.log(len(outside))
    estimate = importance
    for _ in range(200):
        estimate = np.logaddexp.reduce(
            outside - np.logaddexp(outside, estimate)
        ) - np.logaddexp.reduce(-np.logaddexp(inside, estimate))
    return float(estimate), float(importance)
