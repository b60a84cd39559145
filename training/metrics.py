"""The metrics that a hook can log of a model: what they are, and how they are chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats: TypeAlias = npt.NDArray[np.float64]
ModelFunction: TypeAlias = Callable[[torch.nn.Module], Tensor | float]
MetricChoice: TypeAlias = str | Sequence[str | ModelFunction]


@dataclass(frozen=True)
class Sums:
    """Sums over elements; every array has one entry per group of tensors.

    Attributes
    ----------
    count
        Number of weights.
    weight_l1, weight_square, weight_sum
        Sums of ``|w|``, ``w**2`` and ``w``, after the step.
    grad_square
        Sum of ``g**2``, with the gradient as the optimizer used it; 0 without any.
    update_square
        Sum of ``(w - w_before)**2`` over that one step; 0 without any.
    """

    count: Floats
    weight_l1: Floats
    weight_square: Floats
    weight_sum: Floats
    grad_square: Floats
    update_square: Floats


@dataclass(frozen=True)
class Metric:
    """A statistic logged as ``<kind>/<tensor path or _all>/<stat>``.

    Attributes
    ----------
    kind
        What it is a statistic of.
    stat
        Its name.
    definition
        Its formula, recorded in ``run.json``.
    value
        Its value for every group of tensors.
    positive
        Names of the sums without which it has no value. Where one of them is 0 (no gradient yet, a
        batch without any loss, a learning rate of 0) it is left out of the row.
    """

    kind: Literal["weight", "grad", "update"]
    stat: str
    definition: str
    value: Callable[[Sums], Floats]
    positive: tuple[str, ...]

    def key(self, tensor: str = "_all") -> str:
        """Return the name under which it is logged for a tensor, or for all of them."""
        return f"{self.kind}/{tensor}/{self.stat}"


def _std(s: Sums) -> Floats:
    variance = s.weight_square / s.count - (s.weight_sum / s.count) ** 2
    return np.sqrt(np.maximum(variance, 0.0))


CORE = (
    Metric(
        "weight",
        "log_l2",
        "log(sqrt(sum w^2))",
        lambda s: 0.5 * np.log(s.weight_square),
        positive=("weight_square",),
    ),
    Metric(
        "weight",
        "l1_l2",
        "sum |w| / sqrt(sum w^2)",
        lambda s: s.weight_l1 / np.sqrt(s.weight_square),
        positive=("weight_square",),
    ),
    Metric("weight", "mean", "sum w / n", lambda s: s.weight_sum / s.count, positive=("count",)),
    Metric("weight", "std", "sqrt(sum (w - mean)^2 / n)", _std, positive=("count",)),
    Metric(
        "grad",
        "log_l2",
        "log(sqrt(sum g^2)), g as the optimizer used it",
        lambda s: 0.5 * np.log(s.grad_square),
        positive=("grad_square",),
    ),
    Metric(
        "update",
        "log_ratio",
        "log(sqrt(sum (w - w_before)^2) / sqrt(sum w^2)), over one step",
        lambda s: 0.5 * (np.log(s.update_square) - np.log(s.weight_square)),
        positive=("update_square", "weight_square"),
    ),
)
"""What ``metrics="core"`` logs, over all weights (biases too) and their gradients.

L1 / L2 falls as weights concentrate on few: it is sqrt(n) where all are equally large. A statistic
without a value is left out of the row (`Metric.positive`); a NaN or an infinity is kept as such.
"""

PRESETS: dict[str, tuple[Metric, ...]] = {"core": CORE}


def choose(metrics: MetricChoice) -> tuple[tuple[Metric, ...], dict[str, ModelFunction]]:
    """Return the statistics and the functions that a choice of metrics names.

    Parameters
    ----------
    metrics
        A preset, or a list of presets, single metrics (``"weight/_all/log_l2"``) and functions of
        the model, each logged under its own name.

    Raises
    ------
    ValueError
        If a name is not known, or a function has none.
    """
    chosen: dict[str, Metric] = {}
    functions: dict[str, ModelFunction] = {}
    single = {metric.key(): (metric,) for preset in PRESETS.values() for metric in preset}
    for item in [metrics] if isinstance(metrics, str) else metrics:
        if callable(item):
            name = getattr(item, "__name__", "<lambda>")
            if name == "<lambda>":
                raise ValueError(f"{item!r} has no name to log it under: define it by `def`")
            functions[name] = item
        elif item in PRESETS or item in single:
            chosen |= {metric.key(): metric for metric in PRESETS.get(item) or single[item]}
        else:
            raise ValueError(
                f"unknown metrics {item!r}: presets are {sorted(PRESETS)}, single metrics "
                f"{sorted(single)}; anything else is a function of the model in a list"
            )
    return tuple(chosen.values()), functions
