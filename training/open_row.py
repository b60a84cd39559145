"""A row that may still be added to, whose numbers may still be on their way to the host."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor
from torch.distributed.tensor import DTensor

from training.host import HostCopy
from training.probe import Reading

_RESERVED = re.compile(r"step|run|_.*")

Value: TypeAlias = int | float | Tensor


class Arriving(NamedTuple):
    """A number that is on its way to the host, and its place in the copy."""

    copy: HostCopy
    place: int


@dataclass(slots=True)
class OpenRow:
    """The row of a step that has been made, or is being made.

    Attributes
    ----------
    step
        Its step, unless that is skipped.
    due
        Whether it is to be written.
    reading
        The metrics of the model.
    values
        What was logged to it; of two values under one name the later.
    found_inf
        Whether a gradient scaler has the step skipped, if it is asked.
    stepped
        Whether the step has been made, or skipped.
    skipped
        Steps that were skipped since the row before.
    """

    step: int
    due: bool = True
    reading: Reading | None = None
    values: dict[str, int | float | Arriving] = field(default_factory=dict)
    found_inf: HostCopy | None = None
    stepped: bool = False
    skipped: int = 0

    def add(self, values: Mapping[str, Value]) -> None:
        """Add values; the copy of tensors to the host starts at once, since they may change.

        Parameters
        ----------
        values
            What `checked` returned, by name.
        """
        copy = HostCopy([value for value in values.values() if isinstance(value, Tensor)])
        places = count()
        for name, value in values.items():
            if isinstance(value, Tensor):
                self.values[name] = Arriving(copy, next(places))
            else:
                self.values[name] = value

    def numbers(self) -> dict[str, int | float]:
        """Return what was logged, having waited for what is still arriving."""
        return {
            name: float(value.copy.arrays()[value.place]) if isinstance(value, Arriving) else value
            for name, value in self.values.items()
        }

    def is_skipped(self) -> bool:
        """Whether a gradient scaler has the step skipped, having waited for the answer."""
        return self.found_inf is not None and bool(self.found_inf.arrays()[0] > 0)


def checked(name: str, value: Any) -> Value:
    """Return a value as it can be stored.

    Parameters
    ----------
    name, value
        As logged.

    Raises
    ------
    TypeError
        If it is neither a number nor a 0-d tensor.
    ValueError
        If the name is one of the row's own (``step``, ``run``, or with a leading underscore).
    """
    if _RESERVED.fullmatch(name):
        raise ValueError(f"{name!r} is a name of the run store: choose another")
    if isinstance(value, DTensor):
        if not all(placement.is_replicate() for placement in value.placements):
            raise TypeError(f"{name} is spread over processes: log value.full_tensor()")
        value = value.to_local()
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    if not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} is neither a number nor a 0-d tensor: reduce it first")
    return int(value) if isinstance(value, Integral) else float(value)
