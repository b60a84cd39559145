"""A Gaussian hidden Markov model fitted by Baum-Welch, with hmmlearn's defaults."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from bayeshmm import messages

Covariance = Literal["full", "diag"]

COVARIANCE_PRIOR = 1e-2
"""Added to the scatter of every state; for a full covariance to all of its entries."""

MINIMUM_COVARIANCE = 1e-3
"""Added to the variances that EM starts from."""

JITTER = 1e-7
"""Added to the variances of a covariance that is not positive definite."""

TOLERANCE = 1e-2
"""Gain of log-likelihood, in nats, below which EM stops."""

FEWEST_ROWS = 1e-10
"""Expected rows of a state that has none, so that its mean and covariance exist."""


@dataclass(frozen=True)
class GaussianHMM:
    """Point estimates of a hidden Markov model whose states are Gaussian levels.

    Attributes
    ----------
    initial, transition
        Probabilities, (K,) and (K, K).
    mean, covariance
        Of a row in each state, (K, D) and (K, D, D).
    kind
        ``"full"`` or ``"diag"`` covariances.
    """

    initial: Tensor
    transition: Tensor
    mean: Tensor
    covariance: Tensor
    kind: Covariance = "full"

    @classmethod
    def start(
        cls,
        rows: Tensor,
        lengths: Tensor,
        states: int,
        kind: Covariance = "full",
        seed: int | list[int] = 0,
    ) -> GaussianHMM:
        """Random probabilities, means by k-means, everywhere the covariance of all rows.

        Parameters
        ----------
        rows
            (N, T, D), of which the first ``lengths`` (N,) of each run are read.
        lengths, states, kind
            Rows of each run; K; see `GaussianHMM`.
        seed
            Same seed, same start.
        """
        rng = np.random.default_rng(seed)
        flat = rows[torch.arange(rows.shape[1]) < lengths[:, None]]
        with warnings.catch_warnings():  # of a cluster without rows, which stays where it was
            warnings.simplefilter("ignore", UserWarning)
            mean, _ = kmeans2(flat.numpy(), states, minit="++", seed=rng)
        spread = torch.atleast_2d(torch.cov(flat.T))
        spread = spread + MINIMUM_COVARIANCE * torch.eye(flat.shape[1], dtype=torch.float64)
        if kind == "diag":
            spread = torch.diag(spread.diagonal())
        law = np.full(states, 1.0 / states)
        return cls(
            torch.from_numpy(rng.dirichlet(law)),
            torch.from_numpy(rng.dirichlet(law, size=states)),
            torch.from_numpy(mean),
            spread.expand(states, -1, -1).clone(),
            kind,
        )

    @property
    def states(self) -> int:
        """Number of states K."""
        return len(self.initial)

    @property
    def parameters(self) -> int:
        """Number of free parameters."""
        K, D = self.mean.shape
        return K * K - 1 + K * D + K * (D * (D + 1) // 2 if self.kind == "full" else D)

    @property
    def factor(self) -> Tensor:
        """Cholesky factors of the covariances, (K, D, D)."""
        factor, failed = torch.linalg.cholesky_ex(self.covariance)
        if failed.any():
            eye = torch.eye(self.mean.shape[1], dtype=torch.float64)
            raised = torch.linalg.cholesky(self.covariance + JITTER * eye)
            factor = torch.where((failed > 0)[:, None, None], raised, factor)
        return factor

    def log_density(self, rows: Tensor) -> Tensor:
        """Log density of every row in every state, (N, T, K), of rows (N, T, D)."""
        factor = self.factor
        residual = (rows.flatten(0, 1) - self.mean[:, None]).transpose(-1, -2)
        white = torch.linalg.solve_triangular(factor, residual, upper=False)
        constant = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = constant + 0.5 * self.mean.shape[1] * math.log(2.0 * math.pi)
        density = -0.5 * white.square().sum(-2) - constant[:, None]
        return density.T.unflatten(0, rows.shape[:2])

    def scores(self, rows: Tensor) -> Tensor:
        """Gradient of `log_density` with respect to the rows (..., D), (..., K, D)."""
        residual = self.mean - rows[..., None, :]
        return torch.cholesky_solve(residual[..., None], self.factor)[..., 0]

    def log_likelihood(self, rows: Tensor, lengths: Tensor) -> float:
        """Log-likelihood of all runs together, paths summed out."""
        return float(messages.log_marginal(*self._logs(rows), lengths=lengths).sum())

    def filter(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """``p(s_t | z_1:t)``, (N, T, K)."""
        return messages.filter(*self._logs(rows), lengths=lengths)

    def viterbi(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Most probable paths, (N, T); -1 beyond the end of a run."""
        return messages.viterbi(*self._logs(rows), lengths=lengths).path

    def bic(self, rows: Tensor, lengths: Tensor) -> float:
        """-2 log-likelihood + parameters x log rows."""
        size = self.parameters * math.log(int(lengths.sum()))
        return size - 2.0 * self.log_likelihood(rows, lengths)

    def step(self, rows: Tensor, lengths: Tensor) -> tuple[GaussianHMM, float]:
        """One iteration of EM: the next estimates, and the log-likelihood of these."""
        counts = messages.expected_counts(*self._logs(rows), lengths=lengths)
        weights, flat = counts.state.flatten(0, 1), rows.flatten(0, 1)
        size = weights.sum(0).clamp(min=FEWEST_ROWS)[:, None]
        mean = weights.T @ flat / size
        residual = weights.T.sqrt()[..., None] * (flat - mean[:, None])
        scatter = residual.transpose(-1, -2) @ residual + COVARIANCE_PRIOR
        covariance = scatter / size[..., None]
        if self.kind == "diag":
            covariance = covariance.diagonal(dim1=-2, dim2=-1).diag_embed()
        initial, changes = counts.initial.sum(0), counts.transition.sum(0)
        total = changes.sum(-1, keepdim=True)
        transition = torch.where(total > 0, changes / total, self.transition)
        following = GaussianHMM(initial / initial.sum(), transition, mean, covariance, self.kind)
        return following, float(counts.log_marginal.sum())

    def fit(self, rows: Tensor, lengths: Tensor, iterations: int) -> tuple[GaussianHMM, bool]:
        """Iterate from here; the estimates, and whether EM stopped by itself."""
        model, before = self, -math.inf
        for _ in range(iterations):
            model, likelihood = model.step(rows, lengths)
            if likelihood - before < TOLERANCE:
                return model, True
            before = likelihood
        return model, False

    def relabelled(self, order: np.ndarray) -> GaussianHMM:
        """The same model with ``order[i]`` as state i."""
        index = torch.from_numpy(order)
        return GaussianHMM(
            self.initial[index],
            self.transition[index][:, index],
            self.mean[index],
            self.covariance[index],
            self.kind,
        )

    def _logs(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.initial.log(), self.transition.log(), self.log_density(rows)
