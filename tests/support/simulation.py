"""Simulation of the model row by row, from its definition alone."""

import numpy as np

from bayeshmm.emissions.features import Memory
from bayeshmm.emissions.hyperpriors import Hyperpriors
from bayeshmm.emissions.layout import Layout


def simulate_parameters(rng, layout: Layout, states: int, runs: int, hyperpriors: Hyperpriors):
    """Hyper-parameters and parameters of the regressions, in units of one.

    Returns
    -------
    groups, scales
        Precisions ``lambda`` (G,) and ``psi`` (D,).
    coefficients, variance
        (K, D, R), those that an equation does not have at 0, and (K, D).
    effects
        (N, K, D), or None.
    """
    D, R = layout.metrics, layout.regressors
    kinds = [
        hyperpriors.run_effects if group == "run" else hyperpriors.shrinkage
        for group in layout.group_names
    ]
    groups = np.array([rng.gamma(shape, 1 / rate) for shape, rate in kinds])
    scales = rng.gamma(hyperpriors.scale[0], 1 / hyperpriors.scale[1], D)
    variance, coefficients = np.empty((states, D)), np.zeros((states, D, R))
    for j in range(D):
        shape = hyperpriors.noise_shape + (0.5 * j if layout.full else 0.0)
        variance[:, j] = 0.5 * scales[j] / rng.gamma(shape, size=states)
        precision = groups[layout.group_index[j].numpy()]
        if layout.full:
            precision = np.concatenate([precision, scales[:j]])
        deviation = np.sqrt(variance[:, j, None] / precision)
        coefficients[:, j, : len(precision)] = deviation * rng.standard_normal(deviation.shape)
    effects = None
    if layout.run_effects:
        shape = (runs, states, D)
        effects = np.sqrt(variance / groups[-1]) * rng.standard_normal(shape)
    return groups, scales, coefficients, variance, effects


def simulate_paths(rng, initial, transition, lengths, minimum_dwell, gaps=None):
    """State paths (N, T), -1 beyond the end: visits last at least `minimum_dwell` rows.

    The transition matrix (K, K), or one for each run, is that of a base step, of which `gaps`
    (N, T-1) tells how many lie between rows; with a minimum dwell there is at most one change.
    """
    N, T, K = len(lengths), max(lengths), len(initial)
    matrices = np.broadcast_to(transition, (N, K, K))
    paths = np.full((N, T), -1)
    for n, length in enumerate(lengths):
        state, age = rng.choice(K, p=initial), 1
        for t in range(length):
            paths[n, t] = state
            new = state
            ruled = age >= minimum_dwell and t < length - 1
            for _ in range(0 if not ruled else 1 if gaps is None else gaps[n][t]):
                new = rng.choice(K, p=matrices[n, new])
                if minimum_dwell > 1 and new != state:
                    break
            age = age + 1 if new == state else 1
            state = new
    return paths


def simulate_values(
    rng,
    family,
    coefficients,
    variance,
    paths,
    observed,
    first,
    scale,
    effects=None,
    degrees=None,
):
    """Values (N, T, D), NaN where `observed` is False or beyond the end.

    Parameters
    ----------
    coefficients, variance
        (K, D, R) and (K, D), of the recursive regressions in units of 1.
    first
        (N, D), the first row of dynamic families.
    scale
        (D, F) of the features.
    effects
        (N, K, D) of the runs.
    degrees
        Of freedom, of Student-t noise.
    """
    N, T = paths.shape
    D = variance.shape[1]
    coupled = family.coupling == "full"
    values = np.full((N, T, D), np.nan)
    memory = Memory((N, D), getattr(family, "lags", 1), getattr(family, "half_lives", ()))
    for t in range(T):
        if family.dynamic and t == 0:
            row = first.copy()
        else:
            reference, x = np.zeros((N, D)), np.ones((N, D, 1))
            if family.dynamic:
                reference = memory.reference
                x = np.concatenate([x, memory.features()], -1)
            x = x / scale
            if coupled:
                every = np.concatenate([x[:, 0, :1], x[:, :, 1:].reshape(N, -1)], -1)
                x = np.repeat(every[:, None], D, axis=1)
            P = x.shape[-1]
            state = np.maximum(paths[:, t], 0)
            weight = np.ones(N) if degrees is None else rng.gamma(degrees / 2, 2 / degrees, N)
            z = np.zeros((N, D))
            for j in range(D):
                b = coefficients[state, j]
                noise = np.sqrt(variance[state, j] / weight) * rng.standard_normal(N)
                z[:, j] = (b[:, :P] * x[:, j]).sum(-1) + noise
                if effects is not None:
                    z[:, j] += effects[np.arange(N), state, j]
                if family.covariance == "full":
                    z[:, j] += (b[:, P : P + j] * z[:, :j]).sum(-1)
            row = reference + z
        row = np.where(observed[:, t] & (paths[:, t] >= 0)[:, None], row, np.nan)
        values[:, t] = row
        memory.observe(row)
    return values
