"""Measure a model on its own device, and read the numbers in one copy.

Reductions yield 0-d float64 tensors, one per parameter tensor (on a CPU one per piece of it). The
metrics are computed from them on the host: what spans several tensors is an exact sum over them,
and half precision is measured in float64.
"""

import contextlib
import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from training.metrics import Floats, MetricChoice, Sums, choose

PIECE = 2**16
"""Elements that a CPU reduces at once: their float64 copy still fits its cache."""

_WRAPPERS = re.compile(
    r"^module\.|\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)

_SUMS = tuple(field.name for field in dataclasses.fields(Sums))


Reduction: TypeAlias = tuple[str, int, Tensor]


class Reading(NamedTuple):
    """One measurement, whose numbers may still be on the device.

    Attributes
    ----------
    reductions
        The field of `Sums` and the index of the parameter tensor that a scalar belongs to.
    scalars
        One 0-d tensor per reduction, then one per function of the model; for `to_host`.
    """

    reductions: list[tuple[str, int]]
    scalars: list[Tensor]


class Probe:
    """Measures one model.

    Parameters
    ----------
    model
        Every floating-point parameter counts once, tied or not, trained or frozen.
    metrics
        See `choose`.
    include
        Patterns (as in `fnmatch`) of the parameters whose statistics are logged one by one too.

    Raises
    ------
    ValueError
        If a metric is not known, a pattern matches no parameter, or the model has none.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        metrics: MetricChoice = "core",
        include: str | Sequence[str] | None = None,
    ) -> None:
        self._model = model
        self._metrics, self._functions = choose(metrics)
        named = {
            _WRAPPERS.sub("", name): parameter
            for name, parameter in model.named_parameters()
            if parameter.is_floating_point()
        }
        if not named:
            raise ValueError("the model has no floating-point parameter to measure")
        self._names = list(named)
        self._parameters = list(named.values())
        self._included = _matching(self._names, include)

    def describe(self) -> dict[str, Any]:
        """Return what is measured, for the record: definitions and the shapes of parameters."""
        shapes = {
            name: list(p.shape) for name, p in zip(self._names, self._parameters, strict=True)
        }
        definitions = {metric.key(): metric.definition for metric in self._metrics}
        for name, function in self._functions.items():
            definitions[name] = f"{function.__module__}.{name}"
        return {
            "metrics": definitions,
            "include": [self._names[i] for i in self._included],
            "parameters": shapes,
        }

    def snapshot(self) -> dict[int, Tensor]:
        """Return copies of the trained parameters, by index: the state before a step."""
        return {i: p.detach().clone() for i, p in enumerate(self._parameters) if p.requires_grad}

    @torch.no_grad()
    def measure(
        self, *, gradients: bool = False, before: Mapping[int, Tensor] | None = None
    ) -> Reading:
        """Reduce the model's present state on its device, without waiting for the result.

        Parameters
        ----------
        gradients
            Whether the gradients belong to the step that led here.
        before
            The snapshot from before that step.
        """
        tensors = list(enumerate(self._parameters))
        reductions = _weight_sums((i, piece) for i, p in tensors for piece in _pieces(p))
        if gradients:
            grads = ((i, p.grad) for i, p in tensors if p.grad is not None)
            pieces = ((i, piece) for i, grad in grads for piece in _pieces(grad))
            reductions += _norms("grad_square", pieces, 2)
        if before is not None:
            moved = (
                (i, new.to(_wide(new)) - old)
                for i, copy in before.items()
                for new, old in zip(_pieces(self._parameters[i]), _pieces(copy), strict=True)
            )
            reductions += _norms("update_square", moved, 2)
        return Reading(
            [(name, i) for name, i, _ in reductions],
            [scalar for _, _, scalar in reductions] + self._call_functions(),
        )

    def evaluate(self, reading: Reading, numbers: Sequence[float]) -> dict[str, float]:
        """Return the metrics of a reading, by key; what it could not measure is left out.

        Parameters
        ----------
        reading
            The measurement.
        numbers
            The values of its scalars.
        """
        sums = {name: np.zeros(len(self._names)) for name in _SUMS}
        for (name, i), number in zip(reading.reductions, numbers, strict=False):
            sums[name][i] += number * number if name.endswith("square") else number
        sums["count"] = np.array([float(p.numel()) for p in self._parameters])
        totals = Sums(**{name: self._grouped(values) for name, values in sums.items()})
        groups = ["_all", *(self._names[i] for i in self._included)]
        row: dict[str, float] = {}
        with np.errstate(all="ignore"):  # values without meaning are left out below
            for metric in self._metrics:
                exists = np.all([getattr(totals, name) != 0 for name in metric.positive], axis=0)
                values = metric.value(totals)
                for group, value, there in zip(groups, values, exists, strict=True):
                    if there:
                        row[metric.key(group)] = float(value)
        return row | dict(zip(self._functions, numbers[len(reading.reductions) :], strict=True))

    def _call_functions(self) -> list[Tensor]:
        values = []
        for name, function in self._functions.items():
            value = torch.as_tensor(function(self._model)).clone()
            if value.dim() > 0:
                raise ValueError(f"{name}(model) has shape {tuple(value.shape)}: reduce it to 0-d")
            values.append(value)
        return values

    def _grouped(self, per_tensor: Floats) -> Floats:
        """Return the sum over all tensors, then that of every included one."""
        return np.append(per_tensor.sum(), per_tensor[self._included])


def to_host(scalars: Sequence[Tensor]) -> list[float]:
    """Return the values of 0-d tensors, by one copy from each device that holds some.

    Parameters
    ----------
    scalars
        Tensors of one element, on any device.
    """
    numbers = np.empty(len(scalars))
    for device in dict.fromkeys(scalar.device for scalar in scalars):
        there = [i for i, scalar in enumerate(scalars) if scalar.device == device]
        stacked = torch.stack([scalars[i].to(_accumulator(device)) for i in there])
        numbers[there] = stacked.cpu().numpy()
    return numbers.tolist()


def _matching(names: Sequence[str], patterns: str | Sequence[str] | None) -> list[int]:
    chosen: set[int] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns or []:
        hits = {i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern)}
        if not hits:
            raise ValueError(f"include={pattern!r} matches no parameter; there are {list(names)}")
        chosen |= hits
    return sorted(chosen)


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    whole = tensor.numel() <= PIECE or not _on_cpu(tensor)
    return (tensor,) if whole else tensor.flatten().split(PIECE)


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _accumulator(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # which Apple's GPUs lack


def _weight_sums(pieces: Iterable[tuple[int, Tensor]]) -> list[Reduction]:
    """Return all sums in float64: the standard deviation is a small difference of large ones."""
    reductions: list[Reduction] = []
    elsewhere = []
    for i, piece in pieces:
        if not _on_cpu(piece):
            elsewhere.append((i, piece))
            continue
        wide = piece.double()  # several times faster on a CPU than reducing with dtype=float64
        reductions += [
            ("weight_l1", i, torch.linalg.vector_norm(wide, 1)),
            ("weight_square", i, torch.linalg.vector_norm(wide)),
            ("weight_sum", i, wide.sum()),
        ]
    reductions += _norms("weight_l1", elsewhere, 1) + _norms("weight_square", elsewhere, 2)
    reductions += [("weight_sum", i, p.sum(dtype=_accumulator(p.device))) for i, p in elsewhere]
    return reductions


def _norms(name: str, pieces: Iterable[tuple[int, Tensor]], order: int) -> list[Reduction]:
    """Return the norm of every piece, fused over those on an accelerator."""
    reductions: list[Reduction] = []
    elsewhere = []
    for i, piece in pieces:
        if _on_cpu(piece):
            norm = torch.linalg.vector_norm(piece, order, dtype=_wide(piece))
            reductions.append((name, i, norm))
        else:
            elsewhere.append((i, piece))
    if elsewhere:
        norms = _fused_norms([piece for _, piece in elsewhere], order)
        reductions += [(name, i, norm) for (i, _), norm in zip(elsewhere, norms, strict=True)]
    return reductions


def _fused_norms(tensors: list[Tensor], order: int) -> Sequence[Tensor]:
    dtype = _accumulator(tensors[0].device)
    with contextlib.suppress(AttributeError, RuntimeError):  # private to torch
        return torch._foreach_norm(tensors, order, dtype=dtype)
    return [torch.linalg.vector_norm(tensor, order, dtype=dtype) for tensor in tensors]
