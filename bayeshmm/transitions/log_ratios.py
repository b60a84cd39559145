"""The Dirichlet law in coordinates that do not run out of numbers."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import log_softmax, pad

from bayeshmm.transitions.chain import log_normaliser


class DirichletLogRatios(TorchDistribution):
    """Log ratios of the cells of a Dirichlet variable to its last cell.

    Where concentrations are far below one, as those of jumps to states without rows, cells are as
    small as ``exp(-1 / concentration)``: gradients on the simplex overflow there, and here do not.

    Parameters
    ----------
    concentration
        Positive, (..., C); the event has C - 1 elements.
    """

    arg_constraints = {  # noqa: RUF012, as torch has it
        "concentration": constraints.independent(constraints.positive, 1)
    }
    support = constraints.real_vector

    def __init__(self, concentration: Tensor, validate_args: bool | None = None) -> None:
        self.concentration = concentration
        *batch, cells = concentration.shape
        super().__init__(torch.Size(batch), torch.Size([cells - 1]), validate_args=validate_args)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw, in logarithms throughout."""
        shape = self.concentration.expand(*sample_shape, *self.concentration.shape).detach()
        logs = torch._standard_gamma(shape + 1.0).log() + torch.rand_like(shape).log() / shape
        return logs[..., :-1] - logs[..., -1:]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density with respect to the log ratios."""
        powers = (self.concentration * log_cells(value)).sum(-1)
        return log_normaliser(self.concentration) + powers


def log_cells(ratios: Tensor) -> Tensor:
    """Logarithms of the cells, (..., C - 1) -> (..., C)."""
    return log_softmax(pad(ratios, (0, 1)), -1)
