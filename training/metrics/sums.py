"""Sums over the elements of tensors, in float64 and without waiting for a device."""

import contextlib
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from training.metrics.measure import Floats

PIECE = 2**16
"""Elements that a CPU reduces at once: their float64 copy still fits its cache."""


def _on_every_device(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a reduction of tensors take tensors on several."""

    @functools.wraps(reduce)
    def reduced(*lists: Sequence[Tensor]) -> Tensor:
        devices = [tensor.device for tensor in lists[0]]
        if len(set(devices)) == 1:
            return reduce(*lists)
        rows: dict[int, Tensor] = {}
        for device in dict.fromkeys(devices):
            there = [i for i, other in enumerate(devices) if other == device]
            values = reduce(*([tensors[i] for i in there] for tensors in lists))
            rows |= zip(there, values.to(devices[0], non_blocking=True).unbind(), strict=True)
        return torch.stack([rows[i] for i in range(len(devices))])

    return reduced


@_on_every_device
def weight_sums(tensors: Sequence[Tensor]) -> Tensor:
    """Return sums of ``|x|``, of ``x**2`` and of the quarters of every tensor.

    The quarters are cut by position, so that their sums differ between states of the same total.

    Parameters
    ----------
    tensors
        Tensors.

    Returns
    -------
    Tensor
        Of shape (tensors, 6), the quarters last.
    """
    if _on_cpu(tensors[0]):
        return _sums_of_pieces(tensors)
    dtype = _accumulator(tensors[0])
    quarters = torch.stack([_quarters(tensor.flatten(), dtype) for tensor in tensors])
    norms = torch.stack([_norms(tensors, 1), _norms(tensors, 2).square()], dim=1)
    return torch.cat([norms, quarters], dim=1)


@_on_every_device
def square_sums(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of ``x**2`` of every tensor.

    Parameters
    ----------
    tensors
        Tensors; they may be sparse.

    Returns
    -------
    Tensor
        Of shape (tensors,).
    """
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    return _norms(dense, 2).square()


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _sums_of_pieces(tensors: Sequence[Tensor]) -> Tensor:
    """Return what `weight_sums` does, from float64 copies that fit a CPU's cache.

    They are summed up by NumPy, which takes less time than torch where there is little to sum.
    """
    space = torch.empty(min(PIECE, max(t.numel() for t in tensors)), dtype=torch.float64)
    values = space.numpy()
    rows = np.zeros((len(tensors), 6))
    for row, tensor in zip(rows, tensors, strict=True):
        flat = tensor.flatten()
        for start in range(0, len(flat), PIECE):
            piece = flat[start : start + PIECE]
            space[: len(piece)].copy_(piece)
            copy = values[: len(piece)]
            row[1] += copy @ copy
            row[2:] += _quarters_of(copy)
            row[0] += np.abs(copy, out=copy).sum()
    return torch.from_numpy(rows)


def _quarters(values: Tensor, dtype: torch.dtype) -> Tensor:
    rest = len(values) % 4
    quarters = values[rest:].unflatten(0, (4, (len(values) - rest) // 4)).sum(dim=1, dtype=dtype)
    if rest:
        quarters[0] += values[:rest].sum(dtype=dtype)
    return quarters


def _quarters_of(values: Floats) -> Floats:
    rest = len(values) % 4
    quarters = values[rest:].reshape(4, -1).sum(axis=1) if len(values) > rest else np.zeros(4)
    quarters[0] += values[:rest].sum()
    return quarters


def _norms(tensors: Sequence[Tensor], order: int) -> Tensor:
    dtype = _accumulator(tensors[0])
    with contextlib.suppress(AttributeError, RuntimeError):  # private to torch
        return torch.stack(torch._foreach_norm(list(tensors), order, dtype=dtype))
    return torch.stack([torch.linalg.vector_norm(t, order, dtype=dtype) for t in tensors])


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64  # which Apple's lack
