"""Small Pyro models whose posteriors are known by other means."""

from functools import cached_property

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import bayeshmm as bh
from bayeshmm.inference.unconstrained import Unconstrained, isolated


def of(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


class TwoUnknowns:
    """Two sticky levels, of which the higher one and the persistence are unknown.

    Two unknowns only, so that posterior moments are sums over a grid in unconstrained space.
    """

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        state = (np.arange(60) // 12) % 2
        self.rows = torch.from_numpy(3.0 * state + rng.standard_normal(60))

    def __call__(self):
        stay = pyro.sample("stay", dist.Beta(of(2.0)[0], of(2.0)[0]))
        level = pyro.sample("level", dist.Normal(of(0.0)[0], of(5.0)[0]))
        leave = torch.stack([1.0 - stay, stay], -1)
        matrix = torch.stack([leave.flip(-1), leave], -2)
        means = torch.stack([torch.zeros_like(level), level], -1)
        law = bh.HiddenMarkov(of(0.0, 0.0), matrix.log(), dist.Normal(means, 1.0))
        pyro.sample("rows", law, obs=self.rows)

    @cached_property
    def moments(self):
        """Means and standard deviations of (stay, level), by quadrature."""
        space = Unconstrained(self)
        axes = [torch.linspace(low, high, 240, dtype=torch.float64) for low, high in GRID]
        points = torch.cartesian_prod(*axes)
        with isolated(0), torch.no_grad():
            law = space.log_density(points).softmax(0)
        values = both(space, points)
        mean = law @ values
        return mean, (law @ (values - mean) ** 2).sqrt()


GRID = [(-1.0, 6.0), (0.0, 6.0)]
"""Of logit stay and of the level: the posterior has nothing beyond."""


def both(space, points):
    """Values of (stay, level), (S, 2)."""
    values = space.values(points)
    return torch.stack([values["stay"], values["level"]], -1)


class Normal:
    """A normal posterior with a known covariance: nothing to sum out, nothing approximate."""

    def __init__(self, size=4, correlation=0.95):
        covariance = (1.0 - correlation) * torch.eye(size) + correlation
        scale = torch.arange(1.0, size + 1.0)
        self.covariance = (covariance * scale * scale[:, None]).double()
        self.mean = torch.arange(size).double()

    def __call__(self):
        pyro.sample("x", dist.MultivariateNormal(self.mean, self.covariance))
