"""Evidence of one state, written out as the marginal Student-t of every equation."""

import math

import torch
from small_designs import regressors

from bayeshmm.emissions.design import Design
from bayeshmm.emissions.regression import Precisions


def log_evidence(design: Design, values: Precisions, noise_shape: float = 1.0) -> float:
    """Evidence of one state by the marginal Student-t of every equation's responses."""
    total = 0.0
    rows = design.complete.reshape(-1)
    layout = design.layout
    for j in range(layout.metrics):
        size = layout.past + (j if layout.full else 0)
        X = regressors(design)[j][rows][:, :size]
        z = regressors(design)[j][rows][:, -1]
        past = values.groups[0][layout.group_index]
        scale = torch.cat([past, values.scales[0, :j]])[:size]
        a = noise_shape + (0.5 * j if layout.full else 0.0)
        psi = values.scales[0, j]
        covariance = (
            psi
            / (2 * a)
            * (torch.eye(len(z), dtype=torch.float64) + X @ torch.diag(1 / scale) @ X.T)
        )
        n, nu = len(z), 2 * a
        distance = z @ torch.linalg.solve(covariance, z)
        total += (
            math.lgamma((nu + n) / 2)
            - math.lgamma(nu / 2)
            - 0.5 * n * math.log(nu * math.pi)
            - 0.5 * torch.linalg.slogdet(covariance)[1]
            - 0.5 * (nu + n) * torch.log1p(distance / nu)
        )
    return float(total)
