"""Simulation of the model row by row, from its definition alone."""

import numpy as np
import torch

from bayeshmm.emissions.features import Memory


def simulate_paths(rng, initial, transition, lengths, minimum_dwell):
    """State paths (N, T), -1 beyond the end: visits last at least `minimum_dwell` rows."""
    T = max(lengths)
    paths = np.full((len(lengths), T), -1)
    for n, length in enumerate(lengths):
        state, age = rng.choice(len(initial), p=initial), 1
        for t in range(length):
            paths[n, t] = state
            if age >= minimum_dwell:
                new = rng.choice(len(initial), p=transition[state])
                age = age + 1 if new == state else 1
                state = new
            else:
                age += 1
    return paths


def simulate_values(rng, family, coefficients, variance, paths, observed, first, scale):
    """Values (N, T, D), NaN where `observed` is False or beyond the end.

    Parameters
    ----------
    coefficients, variance
        (K, D, R) and (K, D), of the recursive regressions in units of 1.
    first
        (N, D), the first row of dynamic families.
    scale
        (D, P) of the regressors.
    """
    N, T = paths.shape
    D, P = variance.shape[1], scale.shape[1]
    values = np.full((N, T, D), np.nan)
    memory = Memory((N, D), getattr(family, "lags", 1), getattr(family, "half_lives", ()))
    for t in range(T):
        if family.dynamic and t == 0:
            row = first.copy()
        else:
            if family.dynamic:
                reference = memory.reference
                x = np.concatenate([np.ones((N, D, 1)), memory.features()], -1) / scale
            else:
                reference, x = np.zeros((N, D)), np.ones((N, D, 1)) / scale
            state = np.maximum(paths[:, t], 0)
            z = np.zeros((N, D))
            for j in range(D):
                b = coefficients[state, j]
                z[:, j] = (b[:, :P] * x[:, j]).sum(-1) + np.sqrt(
                    variance[state, j]
                ) * rng.standard_normal(N)
                if family.covariance == "full":
                    z[:, j] += (b[:, P : P + j] * z[:, :j]).sum(-1)
            row = reference + z
        row = np.where(observed[:, t] & (paths[:, t] >= 0)[:, None], row, np.nan)
        values[:, t] = row
        memory.observe(row)
    return values


def numpy(tensor: torch.Tensor) -> np.ndarray:
    return np.asarray(tensor)
