"""Metrics of one's own: functions of the model, or of each of its weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn

from training.metrics.measure import Floats, Measure, Weight

Function: TypeAlias = Callable[[Any], Tensor | float]
MakeMeasure: TypeAlias = Callable[[nn.Module, Sequence[Weight], Sequence[Weight]], Measure]


@dataclass(frozen=True)
class CustomMetric:
    """A function that is logged; calling it calls the function.

    Attributes
    ----------
    function
        Returns a number or a 0-d tensor.
    name
        What it is logged as.
    definition
        Recorded in ``run.json``.
    of
        Whether it is a function of the model or of a weight.
    ndim
        The number of dimensions of the weights it is a function of; None: all.
    """

    function: Function
    name: str
    definition: str
    of: Literal["model", "weight"] = "model"
    ndim: int | None = None

    def __call__(self, argument: Any) -> Tensor | float:
        """Return the function's value.

        Parameters
        ----------
        argument
            The model or a weight.
        """
        return self.function(argument)

    def measure(
        self, model: nn.Module, weights: Sequence[Weight], included: Sequence[Weight]
    ) -> Measure:
        """Return what measures a model.

        Parameters
        ----------
        model
            The model.
        weights
            Its floating-point parameters.
        included
            Those whose own values are logged.

        Raises
        ------
        ValueError
            If no weight has `ndim` dimensions.
        """
        if self.of == "model":
            return ModelFunction(self, model)
        return WeightFunction(self, weights, included)


def measure_of(item: Callable[..., Any]) -> tuple[str, MakeMeasure]:
    """Return what makes the measure of an item that is not a name, and what to call it.

    Parameters
    ----------
    item
        A custom metric, a plain function of the model, or a `Measure` class, which
        `functools.partial` may have given options.

    Raises
    ------
    ValueError
        If a function has no name.
    """
    kind = item.func if isinstance(item, partial) else item
    if isinstance(kind, type) and issubclass(kind, Measure):
        return kind.__name__.lower(), item
    custom = item if isinstance(item, CustomMetric) else metric(item)
    return f"{custom.name}({custom.of})", custom.measure


@overload
def metric(function: Function, /) -> CustomMetric: ...


@overload
def metric(
    *,
    name: str | None = None,
    definition: str | None = None,
    of: Literal["model", "weight"] = "model",
    ndim: int | None = None,
) -> Callable[[Function], CustomMetric]: ...


def metric(
    function: Function | None = None,
    /,
    *,
    name: str | None = None,
    definition: str | None = None,
    of: Literal["model", "weight"] = "model",
    ndim: int | None = None,
) -> CustomMetric | Callable[[Function], CustomMetric]:
    """Make a function a metric: ``@metric``, ``@metric(name="norm")``, ``@metric(of="weight")``.

    Parameters
    ----------
    function
        Returns a number or a 0-d tensor, on any device. It is called right after a logged step,
        without gradients; what it does to the model or to global random states stays done.
    name
        What it is logged as; by default the function's own name.
    definition
        Recorded in ``run.json``; by default where the function is defined.
    of
        ``"model"``: a function of the model, logged as ``name``. ``"weight"``: a function of the
        values of one weight, logged as ``weight/<tensor>/<name>`` for those included, and its
        mean over all weights as ``weight/_all/<name>``.
    ndim
        Only weights of this many dimensions.

    Raises
    ------
    ValueError
        If there is no name to log it under, or `ndim` is given for a function of the model.

    Examples
    --------
    >>> @metric(of="weight", ndim=2)
    ... def largest(weight):
    ...     return weight.abs().max()
    """

    def decorate(function: Function) -> CustomMetric:
        own = getattr(function, "__name__", "<lambda>")
        if name is None and own == "<lambda>":
            raise ValueError(
                f"{function!r} has no name to log it under: define it by `def`, or name it by "
                "`metric(name=...)`"
            )
        place = f"{getattr(function, '__module__', '')}.{own}"
        return CustomMetric(function, name or own, definition or place, of, ndim)

    if of == "model" and ndim is not None:
        raise ValueError(f'ndim={ndim} chooses weights: it needs of="weight"')
    return decorate if function is None else decorate(function)


class ModelFunction(Measure):
    """Measures a model by a function of it.

    Parameters
    ----------
    custom
        The function.
    model
        The model.
    """

    def __init__(self, custom: CustomMetric, model: nn.Module) -> None:
        self._custom = custom
        self._model = model

    def definitions(self) -> dict[str, str]:
        """Return the function's definition by its name."""
        return {self._custom.name: self._custom.definition}

    @torch.no_grad()
    def collect(self) -> list[Tensor]:
        """Return a copy of the function's value.

        Raises
        ------
        ValueError
            If it has dimensions.
        """
        return [_scalar(self._custom(self._model), f"{self._custom.name}(model)")]

    def evaluate(self, arrays: Sequence[Floats]) -> dict[str, float]:
        """Return the value by the function's name."""
        return {self._custom.name: float(arrays[0])}


class WeightFunction(Measure):
    """Measures a model by a function of each of its weights.

    Parameters
    ----------
    custom
        The function.
    weights
        The model's floating-point parameters.
    included
        Those whose own values are logged.

    Raises
    ------
    ValueError
        If no weight has the number of dimensions that the function is for.
    """

    def __init__(
        self, custom: CustomMetric, weights: Sequence[Weight], included: Sequence[Weight]
    ) -> None:
        ndim = custom.ndim
        self._custom = custom
        self._weights = [w for w in weights if ndim is None or w.parameter.dim() == ndim]
        self._included = {weight.name for weight in included}
        if not self._weights:
            raise ValueError(
                f"{custom.name} is for weights of {ndim} dimensions: the model has none"
            )

    def definitions(self) -> dict[str, str]:
        """Return the function's definition by the keys of its values."""
        definition = self._custom.definition
        texts = {self._key("_all"): f"{definition}; mean over {len(self._weights)} weights"}
        return texts | {
            self._key(w.name): definition for w in self._weights if w.name in self._included
        }

    @torch.no_grad()
    def collect(self) -> list[Tensor]:
        """Return copies of the function's values.

        Raises
        ------
        ValueError
            If one has dimensions.
        """
        name = self._custom.name
        return [_scalar(self._custom(w.whole()), f"{name}({w.name})") for w in self._weights]

    def evaluate(self, arrays: Sequence[Floats]) -> dict[str, float]:
        """Return the values by key."""
        row = {self._key("_all"): float(np.mean(arrays))}
        for weight, value in zip(self._weights, arrays, strict=True):
            if weight.name in self._included:
                row[self._key(weight.name)] = float(value)
        return row

    def _key(self, tensor: str) -> str:
        return f"weight/{tensor}/{self._custom.name}"


def _scalar(value: Tensor | float, call: str) -> Tensor:
    # a Python float keeps its digits, which torch's default dtype would round
    tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    if tensor.dim() > 0:
        raise ValueError(f"{call} has shape {tuple(tensor.shape)}: reduce it to 0-d")
    return tensor.clone()
