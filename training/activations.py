"""Statistics of activations, gathered inside the forward pass by a few tensor operations."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from training.failures import warn
from training.metrics.measure import Floats, Measure

STATISTICS = {
    "mean": "mean of the output's elements",
    "rms": "root of the mean square of the output's elements",
    "zero": "share of the output's elements that are exactly 0",
}


class Activations(Measure):
    """Measures the outputs of modules in the last forward pass in training mode before a step.

    A forward hook writes into a tensor that was there before, and leaves nothing to Python: a
    compiled model keeps one graph. It costs a little in every forward pass, due or not. Under
    several processes the statistics are over all their batches.

    Parameters
    ----------
    modules
        The modules to measure, by name.
    device
        Where the model computes.
    """

    summed: ClassVar[bool] = True

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device) -> None:
        self._names = list(modules)
        self._rows = 0
        self._told = False
        self._hooks = [_Recorder(device) for _ in modules]
        self._handles: list[RemovableHandle] = [
            module.register_forward_hook(hook)
            for module, hook in zip(modules.values(), self._hooks, strict=True)
        ]

    def definitions(self) -> dict[str, str]:
        """Return what is measured by key."""
        return {
            f"act/{name}/{statistic}": definition
            for name in self._names
            for statistic, definition in STATISTICS.items()
        }

    def collect(self) -> list[Tensor]:
        """Return what the last forward pass left, of shape (modules, 4), and wipe it."""
        rows = torch.stack([hook.sums for hook in self._hooks])
        for hook in self._hooks:
            hook.sums.zero_()
        self._rows += 1
        return [rows]

    def evaluate(self, arrays: Sequence[Floats]) -> dict[str, float]:
        """Return the statistics by key; those of a module that did not run are left out.

        Parameters
        ----------
        arrays
            What `collect` returned, added up over all processes.
        """
        row: dict[str, float] = {}
        for name, (total, square, zero, count) in zip(self._names, arrays[0], strict=True):
            if count > 0:
                row[f"act/{name}/mean"] = float(total / count)
                row[f"act/{name}/rms"] = float(np.sqrt(square / count))
                row[f"act/{name}/zero"] = float(zero / count)
            elif self._rows > 1 and not self._told:  # before the first row nothing has run
                self._told = True
                warn(
                    f"activations of {name!r} were not seen before a logged step: it did not run "
                    "in training mode, or the model was compiled and run before the hook was made"
                )
        return row

    def close(self) -> None:
        """Take the hooks off the modules."""
        for handle in self._handles:
            handle.remove()


class _Recorder:
    """A forward hook that writes sums over the output into a tensor: x, x^2, x = 0, and 1."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, device=device)

    def __call__(self, module: nn.Module, _: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple | list) else output
        if not module.training or not isinstance(tensor, Tensor):
            return
        tensor = tensor.detach()
        values = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).float()
        means = [values.mean(), values.square().mean(), (values == 0).float().mean()]
        self.sums.copy_(torch.stack([*means, torch.ones_like(means[0])]) * values.numel())
