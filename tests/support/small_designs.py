"""Small designs, and the regressions written out without any of the package's shortcuts."""

import numpy as np
import torch

from bayeshmm.emissions import families
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.layout import Layout
from bayeshmm.emissions.likelihood import Law, Moments


def random_values(runs=3, rows=12, metrics=3, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((runs, rows, metrics)).cumsum(axis=1)
    values[rng.random(values.shape) < missing] = np.nan
    return values


def design_of(values, emission, lengths=None, resolution=0.0) -> Design:
    N, T, D = values.shape
    lengths = np.full(N, T) if lengths is None else np.asarray(lengths)
    values = np.where(np.arange(T)[None, :, None] < lengths[:, None, None], values, np.nan)
    return families.design(
        emission,
        values,
        lengths,
        np.ones(D),
        np.full(D, resolution),
        families.regressor_scale(emission, values),
    )


def random_law(layout, states, seed=0, batch=(1,)) -> Law:
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, states, layout.metrics)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    root = 0.3 * normal(*shape, layout.regressors, layout.regressors)
    active = layout.active[:, :, None] & layout.active[:, None, :]
    eye = torch.eye(layout.regressors, dtype=torch.float64)
    covariance = torch.where(active, root @ root.transpose(-1, -2) + 0.1 * eye, 0.0)
    coefficients = 0.5 * normal(*shape, layout.regressors) * layout.active
    variance = normal(*shape).exp()
    return Law(coefficients, 1 / variance, variance.log(), covariance)


def regressors(design: Design) -> torch.Tensor:
    """Regressors and response of every equation, (D, N*T, R+1); zero in incomplete rows."""
    layout = design.layout
    D, P, R = layout.metrics, layout.past, layout.regressors
    present = design.response.reshape(-1, D)
    columns = torch.zeros(D, len(present), R + 1, dtype=torch.float64)
    columns[:, :, :P] = design.past.reshape(-1, D, P).transpose(0, 1)
    columns[:, :, P:R] = present[:, : R - P]
    columns[:, :, :R] *= layout.active[:, None, :]
    columns[:, :, R] = present.T
    return columns * design.complete.reshape(1, -1, 1)


def by_equation(statistics: Moments, layout: Layout) -> Moments:
    """The same with the moments of every equation written out, where one matrix holds them all."""
    joint = statistics.products
    D, P, R = layout.metrics, layout.past, layout.regressors
    if joint.shape[-3] == D:
        return statistics
    products = torch.zeros(*joint.shape[:-3], D, R + 1, R + 1, dtype=torch.float64)
    for j in range(D):
        places = torch.tensor([*range(P + j), R])
        products[..., j, places[:, None], places] = joint[..., 0, : P + j + 1, : P + j + 1]
    return statistics._replace(products=products)


def columns(design: Design, n: int, t: int, j: int) -> torch.Tensor:
    """Regressors of equation j in one row, inactive ones left out."""
    past = design.past[n, t, j]
    return torch.cat([past, design.response[n, t, :j]]) if design.layout.full else past


def active(layout, values: torch.Tensor, j: int) -> torch.Tensor:
    """The active regressors' part of the last axis (or the last two, for a matrix)."""
    size = layout.past + (j if layout.full else 0)
    return values[:size, :size] if values.ndim == 2 else values[:size]
