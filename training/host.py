"""Copy numbers to the host without waiting for the device that computes them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.metrics.measure import Floats


class HostCopy:
    """Tensors on their way to the host, by one copy from each device.

    On CUDA the copy goes into pinned memory behind the work that was queued before; `arrays` waits
    for it, and by then it has usually arrived.

    Parameters
    ----------
    tensors
        Tensors that nothing will write to any more.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._shapes = [tensor.shape for tensor in tensors]
        self._parts: list[tuple[list[int], Tensor]] = []
        self._events: list[torch.cuda.Event] = []
        for device in dict.fromkeys(tensor.device for tensor in tensors):
            there = [i for i, tensor in enumerate(tensors) if tensor.device == device]
            # Apple's GPUs lack float64
            dtype = torch.float32 if device.type == "mps" else torch.float64
            flat = torch.cat([tensors[i].detach().flatten().to(dtype) for i in there])
            self._parts.append((there, self._start(flat)))

    def _start(self, flat: Tensor) -> Tensor:
        if flat.device.type != "cuda":
            return flat.cpu()
        pinned = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
        pinned.copy_(flat, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(flat.device))
        self._events.append(event)
        return pinned

    def arrays(self) -> list[Floats]:
        """Return the tensors as float64 arrays, in their order."""
        for event in self._events:
            event.synchronize()
        arrays = [np.empty(0)] * len(self._shapes)
        for there, flat in self._parts:
            numbers, start = flat.double().numpy(), 0
            for i in there:
                end = start + self._shapes[i].numel()
                arrays[i] = numbers[start:end].reshape(self._shapes[i])
                start = end
        return arrays
