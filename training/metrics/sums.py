"""Sums over the elements of tensors, without waiting for a device."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy.linalg.blas import dasum
from torch import Tensor

from training.metrics.measure import Floats

PIECE = 2**16
"""Elements that a CPU reduces at once: their float64 copy still fits its cache."""


class Summation:
    """Sums up tensors, each for itself.

    On an accelerator it is a few operations on all tensors. On a CPU, NumPy sums up float64 copies
    of pieces in a space that is kept: after a step of training the caches are cold, and new memory,
    or many small operations of torch, would take several times as long.
    """

    def __init__(self) -> None:
        self._space: Tensor | None = None

    def weights(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return sums of ``|x|``, of ``x**2`` and of the quarters of every tensor.

        The quarters are cut by position: their sums differ between states of the same total.

        Parameters
        ----------
        tensors
            Tensors.

        Returns
        -------
        Tensor
            Of shape (tensors, 6), the quarters last.
        """
        return _on_each_device(self._weights, tensors)

    def squares(self, tensors: Sequence[Tensor], minus: Sequence[Tensor] | None = None) -> Tensor:
        """Return the sum of ``x**2`` of every tensor, or of its difference to another.

        Parameters
        ----------
        tensors
            Tensors; they may be sparse.
        minus
            What is subtracted from each, and is the difference then.

        Returns
        -------
        Tensor
            Of shape (tensors,).
        """
        dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
        return _on_each_device(self._squares, dense, *([] if minus is None else [minus]))

    def _weights(self, tensors: Sequence[Tensor]) -> Tensor:
        if _on_cpu(tensors[0]):
            rows = np.zeros((len(tensors), 6))
            for row, tensor in zip(rows, tensors, strict=True):
                for piece in self._pieces(tensor):
                    row[0] += dasum(piece)
                    row[1] += piece @ piece
                    row[2:] += _quarters(piece)
            return torch.from_numpy(rows)
        wide = _accumulator(tensors[0])
        norms = torch.stack([_norms(tensors, 1, wide), _norms(tensors, 2, wide).square()], dim=1)
        return torch.cat([norms, torch.stack([_quarters_on_device(t) for t in tensors])], dim=1)

    def _squares(self, tensors: Sequence[Tensor], minus: Sequence[Tensor] | None = None) -> Tensor:
        if minus is not None:
            for tensor, other in zip(minus, tensors, strict=True):
                tensor -= other
            tensors = minus
        if not _on_cpu(tensors[0]):
            return _norms(tensors, 2, _accumulator(tensors[0])).square()
        if max(t.numel() for t in tensors) <= PIECE:  # the norm of so few is right to some 1e-6
            wide = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
            return _norms(tensors, 2, wide).double().square()
        sums = [sum(float(piece @ piece) for piece in self._pieces(tensor)) for tensor in tensors]
        return torch.tensor(sums, dtype=torch.float64)

    def _pieces(self, tensor: Tensor) -> Iterator[Floats]:
        """Yield float64 copies of the pieces of a tensor, each in the place of the one before."""
        if self._space is None:
            self._space = torch.empty(PIECE, dtype=torch.float64)
        flat = tensor.flatten()
        for start in range(0, len(flat), PIECE):
            piece = flat[start : start + PIECE]
            yield self._space[: len(piece)].copy_(piece).numpy()


def _on_each_device(reduce: Callable[..., Tensor], *lists: Sequence[Tensor]) -> Tensor:
    """Return the results of a reduction of tensors on several devices, on that of the first."""
    devices = [tensor.device for tensor in lists[0]]
    if len(set(devices)) == 1:
        return reduce(*lists)
    rows: dict[int, Tensor] = {}
    for device in dict.fromkeys(devices):
        there = [i for i, other in enumerate(devices) if other == device]
        values = reduce(*([tensors[i] for i in there] for tensors in lists))
        rows |= zip(there, values.to(devices[0], non_blocking=True).unbind(), strict=True)
    return torch.stack([rows[i] for i in range(len(devices))])


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _quarters(values: Floats) -> Floats:
    rest = len(values) % 4
    quarters = values[rest:].reshape(4, len(values) // 4).sum(axis=1)
    if rest:
        quarters[0] += values[:rest].sum()
    return quarters


def _quarters_on_device(tensor: Tensor) -> Tensor:
    values, dtype = tensor.flatten(), _accumulator(tensor)
    rest = len(values) % 4
    quarters = values[rest:].unflatten(0, (4, len(values) // 4)).sum(dim=1, dtype=dtype)
    if rest:
        quarters[0] += values[:rest].sum(dtype=dtype)
    return quarters


def _norms(tensors: Sequence[Tensor], order: int, dtype: torch.dtype) -> Tensor:
    with contextlib.suppress(AttributeError, RuntimeError):  # private to torch
        return torch.stack(torch._foreach_norm(list(tensors), order, dtype=dtype))
    return torch.stack([torch.linalg.vector_norm(t, order, dtype=dtype) for t in tensors])


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64  # which Apple's lack
