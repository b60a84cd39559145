"""Statistics of all weights, gradients and updates, from a few sums over every tensor."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.metrics.measure import Floats, Measure, Weight
from training.metrics.sums import squares, weight_sums
from training.processes import local, share


@dataclass(frozen=True)
class Sums:
    """Sums over the elements of some tensors.

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

    count: float
    weight_l1: float
    weight_square: float
    weight_sum: float
    grad_square: float
    update_square: float


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
        Its value for some tensors.
    positive
        Names of the sums without which it has no value. Where one of them is 0 (no gradient yet, a
        batch without any loss, a learning rate of 0) it is left out of the row.
    """

    kind: Literal["weight", "grad", "update"]
    stat: str
    definition: str
    value: Callable[[Sums], float]
    positive: tuple[str, ...]

    def key(self, tensor: str = "_all") -> str:
        """Return the name under which it is logged for a tensor, or for all of them."""
        return f"{self.kind}/{tensor}/{self.stat}"


def _std(s: Sums) -> float:
    mean = s.weight_sum / s.count
    variance = s.weight_square / s.count - mean * mean
    return math.sqrt(max(variance, 0.0))  # a NaN stays one


CORE = (
    Metric(
        "weight",
        "log_l2",
        "log(sqrt(sum w^2))",
        lambda s: 0.5 * math.log(s.weight_square),
        positive=("weight_square",),
    ),
    Metric(
        "weight",
        "l1_l2",
        "sum |w| / sqrt(sum w^2)",
        lambda s: s.weight_l1 / math.sqrt(s.weight_square),
        positive=("weight_square",),
    ),
    Metric("weight", "mean", "sum w / n", lambda s: s.weight_sum / s.count, positive=("count",)),
    Metric("weight", "std", "sqrt(sum (w - mean)^2 / n)", _std, positive=("count",)),
    Metric(
        "grad",
        "log_l2",
        "log(sqrt(sum g^2)), g as the optimizer used it",
        lambda s: 0.5 * math.log(s.grad_square),
        positive=("grad_square",),
    ),
    Metric(
        "update",
        "log_ratio",
        "log(sqrt(sum (w - w_before)^2) / sqrt(sum w^2)), over one step",
        lambda s: 0.5 * (math.log(s.update_square) - math.log(s.weight_square)),
        positive=("update_square", "weight_square"),
    ),
)
"""What ``metrics="core"`` logs, over all weights (biases too) and their gradients.

L1 / L2 falls as weights concentrate on few: it is sqrt(n) where all are equally large. A statistic
without a value is left out of the row (`Metric.positive`); a NaN or an infinity is kept as such.
"""


class Statistics(Measure):
    """Measures what `CORE` says, and the fingerprint of the weights.

    The fingerprint ``log/fingerprint/0`` to ``3`` are the sums over quarters of all weights (of
    every tensor by position, turned from tensor to tensor): four numbers that are equal for equal
    weights and near for near ones. An audit of runs tells from them that one went back to an
    earlier state. Where weights are sharded every process cuts its own part, so that a restart on
    another number of processes changes them.

    Parameters
    ----------
    weights
        The weights of the model.
    included
        Those whose statistics are logged one by one too.
    shared
        Whether the sums of all processes are added up.
    """

    summed: ClassVar[bool] = True

    def __init__(
        self, weights: Sequence[Weight], included: Sequence[Weight] = (), *, shared: bool = False
    ) -> None:
        self._parameters = [weight.parameter for weight in weights]
        counts = [float(parameter.numel()) for parameter in self._parameters]
        self._groups = {"_all": (slice(None), sum(counts))}
        for i in map(list(weights).index, included):
            self._groups[weights[i].name] = slice(i, i + 1), counts[i]
        # the fingerprint turns from tensor to tensor, so that two of them do not cancel
        self._turns = (np.add.outer(np.arange(len(weights)), np.arange(4)) % 4).ravel()
        self._shares: Tensor | None = None
        if shared:
            shares = [[share(parameter)] for parameter in self._parameters]
            device = local(self._parameters[0]).device
            self._shares = torch.tensor(shares, dtype=torch.float64, device=device)
        self._copies: dict[int, Tensor] = {}
        self._before: dict[int, Tensor] = {}
        self._gradients: list[_Squares] = []
        self._updates: list[_Squares] = []

    def definitions(self) -> dict[str, str]:
        """Return the formula of every metric by its key."""
        return {metric.key(): metric.definition for metric in CORE}

    def before(self, stepping: Iterable[int]) -> None:
        """Remember weights before their optimizer steps.

        Parameters
        ----------
        stepping
            The weights that it holds, by index; those that are not trained are left out.
        """
        for i in stepping:
            if self._parameters[i].requires_grad:
                self._before[i] = self._copy(i, local(self._parameters[i]))

    def after(self, stepping: Iterable[int]) -> None:
        """Measure gradients and updates right after that step, before anything changes them.

        Parameters
        ----------
        stepping
            As for `before`.
        """
        gradients = {i: g for i in stepping if (g := self._parameters[i].grad) is not None}
        if gradients:
            sums = squares([local(g) for g in gradients.values()])
            self._gradients.append(_Squares(list(gradients), sums))
        if moved := {i: self._before.pop(i) for i in stepping if i in self._before}:
            after = [local(self._parameters[i]) for i in moved]
            sums = squares(after, minus=list(moved.values()))
            self._updates.append(_Squares(list(moved), sums))

    def collect(self) -> list[Tensor]:
        """Return this process's sums of every weight, gradient and update: (tensors, 8)."""
        rows = weight_sums([local(parameter) for parameter in self._parameters])
        gradients, updates = (
            _column(measured, rows).to(rows) for measured in (self._gradients, self._updates)
        )
        self._gradients, self._updates = [], []
        table = torch.cat([rows, gradients[:, None], updates[:, None]], dim=1)
        return [table if self._shares is None else table * self._shares]

    def evaluate(self, arrays: Sequence[Floats]) -> dict[str, float]:
        """Return the metrics by key, and the fingerprint.

        Parameters
        ----------
        arrays
            What `collect` returned, added up over all processes.
        """
        (table,) = arrays
        row: dict[str, float] = {}
        for group, (members, count) in self._groups.items():
            l1, square, *quarters, grad, update = table[members].sum(axis=0).tolist()
            of = Sums(count, l1, square, sum(quarters), grad, update)
            for metric in CORE:
                if all(getattr(of, name) != 0 for name in metric.positive):
                    row[metric.key(group)] = metric.value(of)
        for j, total in enumerate(np.bincount(self._turns, table[:, 2:6].ravel())):
            # its last digits depend on the order of summation, which other machines choose anew
            row[f"log/fingerprint/{j}"] = float(f"{total:.10g}")
        return row

    def _copy(self, i: int, values: Tensor) -> Tensor:
        wide = torch.promote_types(values.dtype, torch.float32)
        if values.device.type != "cpu":  # whose memory is scarce, and as good when it is new
            return values.to(wide, copy=True)
        if i not in self._copies:
            self._copies[i] = torch.empty_like(values, dtype=wide)
        return self._copies[i].copy_(values)


class _Squares(NamedTuple):
    """Sums of squares of some of the tensors."""

    members: list[int]
    sums: Tensor


def _column(measured: list[_Squares], rows: Tensor) -> Tensor:
    """Return the sums of every tensor, the latest of several and 0 without any."""
    if len(measured) == 1 and measured[0].members == list(range(len(rows))):
        return measured[0].sums
    latest = {i: x for members, sums in measured for i, x in zip(members, sums, strict=True)}
    return torch.stack([latest.get(i, rows.new_zeros(())) for i in range(len(rows))])
