"""What measures a model: on its device at once, on the host when the numbers have arrived."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.distributed.tensor import DTensor

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Weight:
    """A floating-point parameter of the model.

    Attributes
    ----------
    name
        Its name without the prefixes of wrappers.
    parameter
        The parameter; a DTensor where it is sharded over processes.
    aliases
        Its other names, where it is tied.
    """

    name: str
    parameter: Tensor
    aliases: tuple[str, ...] = ()

    def whole(self) -> Tensor:
        """Return all of its values; where it is sharded, every process has to ask."""
        values = self.parameter.detach()
        return values.full_tensor() if isinstance(values, DTensor) else values


class Measure(ABC):
    """Measures a model in two moves, so that training never waits for a number.

    `collect` runs right after a step and leaves tensors on their device; the hook has them copied
    while training goes on, and hands them to `evaluate` on the host when the row is closed.

    Attributes
    ----------
    summed
        Whether the tensors of `collect` are the share of this process, to be summed over all.
    """

    summed: ClassVar[bool] = False

    @abstractmethod
    def definitions(self) -> dict[str, str]:
        """Return the formula of every metric by its key, for the record in ``run.json``."""

    @abstractmethod
    def collect(self) -> list[Tensor]:
        """Return fresh tensors of any shapes, on any device, computed without waiting for one."""

    @abstractmethod
    def evaluate(self, arrays: Sequence[Floats]) -> dict[str, float]:
        """Return the metrics by key; one without a value is left out, NaN and infinities are kept.

        Parameters
        ----------
        arrays
            The tensors that `collect` returned, in float64 on the host.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what later measurements depend on besides the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Parameters
        ----------
        state
            As returned.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state: {sorted(state)}")
