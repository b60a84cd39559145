"""The metrics of ``"spectral"``: norms and ranks from the singular values of every matrix."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import entr
from torch import Tensor, nn

from training.metrics.measure import Floats, Measure, Weight
from training.metrics.singular_values import EXACT, PowerIteration, gram, largest, singular_values

FORMULAS = {
    "spectral_norm": "s_1, the largest singular value",
    "sv_mean": "sum s_i / k, over the k = min(m, n) singular values",
    "sv_var": "sum (s_i - sv_mean)^2 / k",
    "stable_rank": "sum s_i^2 / s_1^2, 0 for a zero matrix",
    "effective_rank": "exp(-sum p_i log p_i), p_i = s_i / sum s, 0 for a zero matrix "
    "(Roy & Vetterli 2007)",
}
"""The statistics of one matrix."""

FOLLOWED = ("spectral_norm", "stable_rank")
"""Those of a matrix that is too large for all its singular values."""


class Spectral(Measure):
    """Measures every weight whose matrix has two sides above 1.

    A weight of more than two dimensions is reshaped to (first side, all others), which makes of a
    convolution's kernels the matrix (out, in * height * width). The singular values are exact to
    rounding where the short side is at most `EXACT`; a larger matrix has the `FOLLOWED` statistics
    alone, by a power iteration that goes on from row to row, and the largest relative error of a
    row is logged as ``log/spectral_error``.

    Attributes
    ----------
    KEYS
        The metrics over all matrices.

    Parameters
    ----------
    model
        The model.
    weights
        Its floating-point parameters.
    included
        Those whose own statistics are logged as well as the unweighted mean over all matrices.

    Raises
    ------
    ValueError
        If no weight is a matrix.
    """

    KEYS: ClassVar[tuple[str, ...]] = tuple(f"weight/_all/{stat}" for stat in FORMULAS)

    def __init__(
        self, model: nn.Module, weights: Sequence[Weight], included: Sequence[Weight]
    ) -> None:
        short = {weight: _short_side(weight.parameter) for weight in weights}
        self._exact = [weight for weight in weights if 1 < short[weight] <= EXACT]
        self._large = {weight: PowerIteration() for weight in weights if short[weight] > EXACT}
        self._included = {weight.name for weight in included}
        if not self._exact and not self._large:
            raise ValueError("'spectral' needs a weight with two sides above 1: the model has none")

    def definitions(self) -> dict[str, str]:
        """Return the formula of every metric by its key."""
        texts = {}
        for stat, formula in FORMULAS.items():
            followed = list(self._large) if stat in FOLLOWED else []
            matrices = self._exact + followed
            limit = f" and the short one at most {EXACT}" if self._large and not followed else ""
            if matrices:
                texts[f"weight/_all/{stat}"] = (
                    f"{formula}; mean over the {len(matrices)} weights reshaped to (first side, "
                    f"others) with both sides above 1{limit}"
                )
            for weight in matrices:
                if weight.name in self._included:
                    way = "; by power iteration" if weight in followed else ""
                    texts[f"weight/{weight.name}/{stat}"] = formula + way
        if self._large:
            names = ", ".join(weight.name for weight in self._large)
            texts["log/spectral_error"] = (
                f"largest relative error of s_1 by power iteration, of {names}"
            )
        return texts

    def collect(self) -> list[Tensor]:
        """Return the products of the exact matrices, then block and norm of the large ones."""
        tensors = [gram(_matrix(weight)) for weight in self._exact]
        for weight, iteration in self._large.items():
            matrix = _matrix(weight)
            wide = torch.promote_types(matrix.dtype, torch.float32)
            tensors += [iteration.collect(matrix), torch.linalg.vector_norm(matrix, dtype=wide)]
        return tensors

    def evaluate(self, arrays: Sequence[Floats]) -> dict[str, float]:
        """Return the metrics by key."""
        row: dict[str, float] = {}
        values: dict[str, list[float]] = {}
        errors = []

        def add(weight: Weight, stats: dict[str, float]) -> None:
            for stat, value in stats.items():
                values.setdefault(stat, []).append(value)
                if weight.name in self._included:
                    row[f"weight/{weight.name}/{stat}"] = value

        for weight, product in zip(self._exact, arrays, strict=False):
            add(weight, _statistics(singular_values(product)))
        followed = arrays[len(self._exact) :]
        for weight, block, norm in zip(self._large, followed[::2], followed[1::2], strict=True):
            first, error = largest(block)
            errors.append(error)
            rank = (float(norm) / first) ** 2 if first != 0.0 else 0.0
            add(weight, {"spectral_norm": first, "stable_rank": rank})
        row |= {f"weight/_all/{stat}": float(np.mean(each)) for stat, each in values.items()}
        return row | ({"log/spectral_error": float(np.max(errors))} if errors else {})

    def state_dict(self) -> dict[str, Any]:
        """Return the vectors of the power iterations by the names of their weights."""
        bases = {weight.name: iteration.basis for weight, iteration in self._large.items()}
        return {name: basis.cpu() for name, basis in bases.items() if basis is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the vectors of an earlier session.

        Parameters
        ----------
        state
            As `state_dict` returned it.
        """
        for weight, iteration in self._large.items():
            iteration.basis = state.get(weight.name)


def _short_side(parameter: Tensor) -> int:
    first, *others = parameter.shape or (0,)
    return min(first, int(np.prod(others)))


def _matrix(weight: Weight) -> Tensor:
    return weight.whole().flatten(1)


def _statistics(s: Floats) -> dict[str, float]:
    zero = s[0] == 0.0
    return {
        "spectral_norm": float(s[0]),
        "sv_mean": float(s.mean()),
        "sv_var": float(s.var()),
        "stable_rank": 0.0 if zero else float((s**2).sum() / s[0] ** 2),
        "effective_rank": 0.0 if zero else float(np.exp(entr(s / s.sum()).sum())),
    }
