"""The slice sampler against laws that are known.

Many chains start at one point and are advanced together; where they end is a sample of independent
draws, compared with the law by Kolmogorov and Smirnov's test at level 1e-4: four tests, so that a
right sampler fails once in 2500 seeds. Against the errors tried (no stepping out, intervals centred
on the chain, slices too low) p-values are below 1e-11.
"""

import math

import pytest
import torch
from scipy import stats

from bayeshmm.transitions.slices import slice_sample

LEVEL = 1e-4


def advance(log_density, start, sweeps, seed, width=1.0):
    generator = torch.Generator().manual_seed(seed)
    point = start
    for _ in range(sweeps):
        point = slice_sample(log_density, point, generator, width)
    return point


@pytest.mark.parametrize("width", [0.1, 30.0])
def test_gamma_on_the_log_scale_whatever_the_width(width):
    shape = torch.tensor([0.7, 5.0], dtype=torch.float64)[:, None]

    def log_density(point):  # each element of the batch has its own law
        return (shape * point[..., 0]) - point[..., 0].exp()

    draws = advance(log_density, torch.zeros(2, 2000, 1, dtype=torch.float64), 12, 0, width).exp()
    for a, sample in zip((0.7, 5.0), draws[..., 0], strict=True):
        assert stats.kstest(sample.numpy(), stats.gamma(a).cdf).pvalue > LEVEL / 4


def test_two_modes_are_visited_as_often_as_they_should_be():
    log_weight = torch.tensor([0.25, 0.75], dtype=torch.float64).log()
    mean = torch.tensor([-2.0, 2.0], dtype=torch.float64)

    def log_density(point):
        return (log_weight - 0.5 * (point - mean) ** 2 / 0.64).logsumexp(-1)

    def cdf(x):
        return 0.25 * stats.norm(-2, 0.8).cdf(x) + 0.75 * stats.norm(2, 0.8).cdf(x)

    start = torch.full((3000, 1), -2.0, dtype=torch.float64)
    draws = advance(log_density, start, 60, 1, width=3.0)[:, 0]
    assert stats.kstest(draws.numpy(), cdf).pvalue > LEVEL


def test_dependent_coordinates():
    def log_density(point):  # normal, correlation 0.8
        x, y = point.unbind(-1)
        return -0.5 * (x**2 - 1.6 * x * y + y**2) / 0.36

    draws = advance(log_density, torch.full((3000, 2), 3.0, dtype=torch.float64), 25, 2)
    along = torch.stack([draws.sum(-1) / math.sqrt(3.6), draws.diff(dim=-1)[:, 0] / math.sqrt(0.4)])
    for sample in along:
        assert stats.kstest(sample.numpy(), stats.norm.cdf).pvalue > LEVEL / 2


def test_a_chain_does_not_see_the_others():
    def log_density(point):
        return -0.5 * point[..., 0] ** 2

    alone = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)[:, None]
    moved = alone.clone()
    moved[0] = 40.0
    first, second = (advance(log_density, start, 1, 3) for start in (alone, moved))
    assert not torch.equal(first[0], second[0])
    assert first.shape == alone.shape
    assert torch.equal(alone, torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)[:, None])


def test_a_start_outside_the_support_is_an_error():
    with pytest.raises(ValueError, match="not finite where a chain stands"):
        advance(lambda point: point[..., 0].log(), -torch.ones(2, 1, dtype=torch.float64), 1, 0)
