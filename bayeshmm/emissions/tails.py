"""Student-t noise: a weight for every row, and learned degrees of freedom.

A row with weight u has residual covariance ``Sigma / u``, with ``u ~ Gamma(nu/2, nu/2)``: given the
state its responses are multivariate Student-t, and so are any of them. The degrees of freedom nu
are the same in all states; their law is discrete, on a grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayeshmm.emissions.law import Tail

LOWEST, HIGHEST, POINTS = 1.0, 200.0, 60
"""The grid of degrees of freedom, evenly spaced on the log scale."""

BLOCK = 1 << 17
"""Numbers formed together (a megabyte), so that they stay in the cache."""


class StudentT:
    """Prior of the degrees of freedom.

    Parameters
    ----------
    shape, rate
        Of the Gamma law that the grid takes its probabilities from.
    """

    def __init__(self, shape: float, rate: float) -> None:
        span = torch.linspace(math.log(LOWEST), math.log(HIGHEST), POINTS, dtype=torch.float64)
        self.grid = span.exp()
        self.log_prior = _normalised(shape * span - rate * self.grid)
        self._constant = self.value(self.grid).constant

    def law(self, batch: tuple[int, ...]) -> Tensor:
        """Prior log probabilities of the grid, with leading axes `batch`."""
        return self.log_prior.expand(*batch, -1)

    @staticmethod
    def value(degrees: Tensor) -> Tail:
        """The tail with known degrees of freedom, of any shape."""
        half = 0.5 * degrees
        return Tail(degrees, half * half.log() - torch.lgamma(half))

    def expected(self, log_law: Tensor) -> Tail:
        """Expectations under log probabilities (..., 1, points)."""
        law = log_law.exp()
        return Tail(law @ self.grid, law @ self._constant)

    def updated(self, rows: Tensor, total: Tensor) -> Tensor:
        """Log probabilities given the expected weights of the rows.

        Parameters
        ----------
        rows
            Number of rows with a weight, ().
        total
            Sum over them of ``E log u - E u``, (..., 1).
        """
        evidence = rows * self._constant + 0.5 * total[..., None] * self.grid
        return _normalised(self.log_prior + evidence)

    def divergence(self, log_law: Tensor) -> Tensor:
        """Kullback-Leibler divergence from the prior, (..., 1)."""
        return (log_law.exp() * (log_law - self.log_prior)).sum(-1)

    def sample(self, distance: Tensor, responses: Tensor, generator: torch.Generator) -> Tail:
        """Draw degrees of freedom given the rows' squared distances, the weights integrated out.

        Parameters
        ----------
        distance
            Squared residuals of every row under its state at a weight of one, (..., N, T).
        responses
            Observed responses of every row, (N, T); rows without any are left out.
        generator
            Source of randomness.

        Returns
        -------
        Tail
            Of shape (..., 1).
        """
        counts = torch.bincount(responses.flatten().long())
        counts[0] = 0
        sizes = torch.arange(len(counts), dtype=torch.float64)
        normaliser = torch.lgamma(0.5 * (self.grid[:, None] + sizes)) @ counts.double()
        seen = responses > 0
        distance, half = distance[..., None, seen], 0.5 * responses[seen]
        some = max(1, BLOCK // distance.numel())
        powers = [
            ((0.5 * nu + half) * torch.log(0.5 * (nu + distance))).sum(-1)
            for nu in self.grid[:, None].split(some)
        ]
        log_law = self.log_prior + counts.sum() * self._constant + normaliser
        law = _normalised(log_law - torch.cat(powers, -1))[..., None, :]
        return self.drawn(law, generator)

    def drawn(self, log_law: Tensor, generator: torch.Generator) -> Tail:
        """Draw from log probabilities (..., 1, points)."""
        flat = log_law.exp().reshape(-1, log_law.shape[-1])
        index = torch.multinomial(flat, 1, generator=generator)
        return self.value(self.grid[index].reshape(log_law.shape[:-1]))


def row_terms(tail: Tail, responses: Tensor, log_normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What Student-t noise makes of squared distances, and the law of the rows' weights.

    Parameters
    ----------
    tail
        Degrees of freedom, (..., 1).
    responses
        Observed responses of every row, (N, T).
    log_normal
        Minus half of the expected squared residuals at a weight of one, (..., N, T, K).

    Returns
    -------
    log_kernel
        Takes the place of `log_normal`; 0 in rows without a response.
    scale, log_scale
        Expected weight and its expected logarithm, the same shape.
    """
    counts = responses.long()
    seen = counts > 0
    sizes = torch.arange(int(counts.max()) + 1, dtype=torch.float64)
    table = 0.5 * (tail.degrees + sizes)
    degrees, constant = (part[..., None, None] for part in tail)

    def by_row(by_size: Tensor) -> Tensor:
        return by_size[..., counts, None]

    power = by_row(table)
    rate = 0.5 * degrees - log_normal
    log_rate = rate.log()
    start = torch.where(seen[..., None], constant + by_row(torch.lgamma(table)), 0.0)
    log_kernel = torch.addcmul(start, power * seen[..., None], log_rate, value=-1.0)
    with torch.no_grad():
        scale = power / rate
        log_scale = by_row(torch.digamma(table)) - log_rate
    return log_kernel, scale, log_scale


def _normalised(log_weights: Tensor) -> Tensor:
    return log_weights - log_weights.logsumexp(-1, keepdim=True)
