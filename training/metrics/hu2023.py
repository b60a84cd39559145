"""The metrics of ``"hu2023"``: the 14 of Hu et al. 2023, as their code computes them."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from training.metrics.measure import Floats, Measure, Weight
from training.metrics.roles import Role, roles
from training.metrics.singular_values import gram, in_float64, singular_values
from training.patterns import Patterns

CUT = 1e-5
"""Singular values below this count as 0 in their mean and variance."""

MATRIX = {
    "l1": "sum |w|",
    "l2": "sqrt(sum w^2)",
    "code_sparsity": "l1 / l2",
    "trace": "sum w_ii, also of a matrix that is not square",
    "spectral": "largest singular value",
    "computational_sparsity": "trace / spectral",
    "mean_lambda": f"mean of the k = min(m, n) singular values, those below {CUT:g} as 0",
    "variance_lambda": "sum (s - mean_lambda)^2 / (k - 1)",
}
"""Measured of every matrix."""

KERNELS = ("l1", "l2", "code_sparsity")
"""Measured of a convolution: of every (out, in) kernel, then averaged."""

POOLED = {
    "mean": "sum {0} / n",
    "median": "median of {0}, the lower one of an even number",
    "var": "sum ({0} - mean_{0})^2 / (n - 1)",
}
"""Measured of all weights together, and of all biases."""


class Hu2023(Measure):
    """Measures what Hu et al. 2023 (arXiv:2308.09543, Appendix B) give to their HMM.

    Logged as ``hu2023/_all/<name>`` under the names of the paper's tables. The matrix metrics are
    plain means over matrices, where every attention head's part of the queries, keys and values is
    a matrix of its own; the last six pool all weights, or all biases, that count. The definitions
    are those of the paper's code (github.com/michahu/modeling-training, src/metrics.py and
    src/utils.py), which differs from its text:

    * All variances are divided by n - 1. The median of an even number is the lower one.
    * Singular values below `CUT` count as 0 in their mean and variance, but not as the largest.
    * `variance_lambda` leaves out the matrices of a single row or column, which have none.
    * The trace is taken of matrices that are not square too.
    * A convolution adds one value to the means of l1, l2 and code_sparsity, and nothing to those of
      the other five, which are then those of the linear layers alone; its weights are pooled.
    * In transformers (see `roles`) the queries, keys, values, outputs and MLP matrices of the
      layers count, and of the biases the MLP's alone; embeddings, positions, unembedding and norms
      do not. The code takes the heads apart in its own transformer, and not in BERT; here they are
      apart wherever the model says how many there are.
    * In other networks all linear and convolutional layers count, with their biases; batch and
      layer norms do not, nor the convolutions on shortcuts.

    Where the code drops a matrix that is not finite, or fails, its metrics are NaN here, and so are
    the means; the pooled ones are what arithmetic makes of it. A ratio 0 / 0 is NaN. The
    arithmetic is in float64, and all singular values are computed, whatever the size of a matrix:
    see `training.metrics.singular_values.EXACT` for what that costs.

    Attributes
    ----------
    KEYS
        The metrics over all matrices, weights and biases.

    Parameters
    ----------
    model
        The model.
    weights
        Its floating-point parameters.
    included
        Those whose own matrix metrics are logged as well, averaged over their heads.
    matrices, biases, heads
        In place of the rules by which parameters count; see `roles`. In a list of metrics these are
        given by ``functools.partial(Hu2023, heads={"*.query": (4, 1)})``.

    Raises
    ------
    ValueError
        If no weight counts, or a choice does not fit the model.
    """

    KEYS: ClassVar[tuple[str, ...]] = (
        *(f"hu2023/_all/{stat}" for stat in MATRIX),
        *(f"hu2023/_all/{stat}_{letter}" for letter in "wb" for stat in POOLED),
    )

    def __init__(
        self,
        model: nn.Module,
        weights: Sequence[Weight],
        included: Sequence[Weight],
        *,
        matrices: Patterns | None = None,
        biases: Patterns | None = None,
        heads: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self._roles = roles(model, weights, matrices=matrices, biases=biases, heads=heads)
        kinds = {weight.name: self._roles[weight.name].kind for weight in weights}
        self._weights = [w for w in weights if kinds[w.name] in ("matrix", "kernels")]
        self._biases = [weight for weight in weights if kinds[weight.name] == "bias"]
        self._stats = {weight.name: self._measured_of(weight) for weight in self._weights}
        self._included = {weight.name for weight in included}
        if not self._weights:
            raise ValueError(
                "'hu2023' needs a matrix or a convolution that counts: the model has none"
            )

    def definitions(self) -> dict[str, str]:
        """Return the formula of every metric by its key, and with `mean_w` all roles."""
        texts = {}
        for stat, formula in MATRIX.items():
            having = [name for name, stats in self._stats.items() if stat in stats]
            if having:
                convolved = any(self._roles[name].kind == "kernels" for name in having)
                texts[f"hu2023/_all/{stat}"] = f"{formula}; mean over matrices" + (
                    " and the means over the kernels of each convolution" if convolved else ""
                )
            for name in having:
                if name in self._included:
                    texts[f"hu2023/{name}/{stat}"] = f"{formula}; {_average(self._roles[name])}"
        for letter, pooled in (("w", self._weights), ("b", self._biases)):
            if pooled:
                which = "weights" if letter == "w" else "biases"
                for stat, formula in POOLED.items():
                    texts[f"hu2023/_all/{stat}_{letter}"] = f"{formula.format(letter)}, all {which}"
        as_what: dict[str, list[str]] = {}
        for name, role in self._roles.items():
            as_what.setdefault(str(role), []).append(name)
        parts = (f"{role} ({', '.join(names)})" for role, names in as_what.items())
        texts["hu2023/_all/mean_w"] += "; parameters count as " + ", ".join(parts)
        return texts

    def collect(self) -> list[Tensor]:
        """Return a product and sums per matrix, norms per convolution, and the pooled moments."""
        tensors = []
        flat = []
        for weight in self._weights:
            values = weight.whole()
            flat.append(values.flatten())
            role = self._roles[weight.name]
            if role.kind == "kernels":
                tensors.append(_kernel_norms(values))
            else:
                stack = in_float64(role.stack(values))
                sums = [stack.abs().sum((1, 2)), stack.diagonal(dim1=1, dim2=2).sum(1)]
                tensors += [gram(stack), torch.stack(sums)]
        tensors.append(_moments(flat))
        if self._biases:
            tensors.append(_moments([bias.whole().flatten() for bias in self._biases]))
        return tensors

    def evaluate(self, arrays: Sequence[Floats]) -> dict[str, float]:
        """Return the metrics by key."""
        row: dict[str, float] = {}
        every: dict[str, list[Floats]] = {}
        rest = iter(arrays)
        for weight in self._weights:
            if self._roles[weight.name].kind == "kernels":
                stats = dict(zip(KERNELS, next(rest)[:, None], strict=True))
            else:
                stats = _matrix_metrics(singular_values(next(rest)), *next(rest))
            for stat in self._stats[weight.name]:
                every.setdefault(stat, []).append(stats[stat])
                if weight.name in self._included:
                    row[f"hu2023/{weight.name}/{stat}"] = float(stats[stat].mean())
        row |= {f"hu2023/_all/{stat}": float(np.concatenate(v).mean()) for stat, v in every.items()}
        for letter, pooled in (("w", self._weights), ("b", self._biases)):
            if pooled:
                mean, squares, median = next(rest)
                n = sum(weight.parameter.numel() for weight in pooled)
                values = (mean, median, squares / (n - 1) if n > 1 else np.nan)
                for stat, value in zip(POOLED, values, strict=True):
                    row[f"hu2023/_all/{stat}_{letter}"] = float(value)
        return row

    def _measured_of(self, weight: Weight) -> list[str]:
        """Return the metrics that a weight has."""
        role = self._roles[weight.name]
        if role.kind == "kernels":
            return list(KERNELS)
        shape = role.stack(torch.empty(weight.parameter.shape, device="meta")).shape
        return [stat for stat in MATRIX if stat != "variance_lambda" or min(shape[1:]) > 1]


def _average(role: Role) -> str:
    if role.kind == "kernels":
        return "mean over kernels"
    return f"mean over {role.matrices} matrices" if role.matrices > 1 else "of the matrix"


def _matrix_metrics(s: Floats, l1: Floats, trace: Floats) -> dict[str, Floats]:
    """Return the metrics of a stack of matrices, from their singular values and sums."""
    finite = np.isfinite(s[:, 0])
    l1, trace = np.where(finite, l1, np.nan), np.where(finite, trace, np.nan)
    l2 = np.sqrt((s**2).sum(1))
    kept = np.where(s < CUT, 0.0, s)
    with np.errstate(invalid="ignore"):
        return {
            "l1": l1,
            "l2": l2,
            "code_sparsity": l1 / l2,
            "trace": trace,
            "spectral": s[:, 0],
            "computational_sparsity": trace / s[:, 0],
            "mean_lambda": kept.mean(1),
            "variance_lambda": kept.var(1, ddof=min(1, s.shape[1] - 1)),
        }


def _kernel_norms(values: Tensor) -> Tensor:
    kernels = in_float64(values).flatten(2)
    l1, l2 = (torch.linalg.vector_norm(kernels, order, dim=2) for order in (1, 2))
    return torch.stack([l1.mean(), l2.mean(), (l1 / l2).mean()])


def _moments(flat: Sequence[Tensor]) -> Tensor:
    """Return mean, sum of squares about it, and lower median of all values together."""
    together = torch.cat([values.to(flat[0].device, non_blocking=True) for values in flat])
    wide = in_float64(together)
    mean = wide.mean()
    squares = torch.linalg.vector_norm(wide - mean) ** 2
    return torch.stack([mean, squares, together.median().to(wide)])
