"""Sums over the elements of tensors, without waiting for a device.

On an accelerator they are a few operations on all tensors. On a CPU they are one pass of compiled
code over each: after a step of training the caches are cold, and many small operations, or new
memory, would take several times as long.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from training.metrics.compiled_sums import add_weights, square_distance, square_sum
from training.metrics.measure import Floats

PIECE = 2**16
"""Elements that a CPU reduces at once: where they have to be widened, the copy fits its cache."""


def weight_sums(tensors: Sequence[Tensor]) -> Tensor:
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
    return _on_each_device(_weight_sums, tensors)


def squares(tensors: Sequence[Tensor], minus: Sequence[Tensor] | None = None) -> Tensor:
    """Return the sum of ``x**2`` of every tensor, or of its difference to another.

    Parameters
    ----------
    tensors
        Tensors; they may be sparse.
    minus
        What is subtracted from each, in at least float32; it is used up.

    Returns
    -------
    Tensor
        Of shape (tensors,).
    """
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    return _on_each_device(_squares, dense, *([] if minus is None else [minus]))


def _weight_sums(tensors: Sequence[Tensor]) -> Tensor:
    if _on_cpu(tensors[0]):
        rows = np.zeros((len(tensors), 6))
        for row, tensor in zip(rows, tensors, strict=True):
            for piece in _pieces(tensor):
                add_weights(piece, row)
        return torch.from_numpy(rows)
    wide = _accumulator(tensors[0])
    norms = torch.stack([_norms(tensors, 1, wide), _norms(tensors, 2, wide).square()], dim=1)
    return torch.cat([norms, torch.stack([_quarters(t) for t in tensors])], dim=1)


def _squares(tensors: Sequence[Tensor], minus: Sequence[Tensor] | None = None) -> Tensor:
    if not _on_cpu(tensors[0]):
        if minus is not None:
            for tensor, other in zip(minus, tensors, strict=True):
                tensor -= other
            tensors = minus
        return _norms(tensors, 2, _accumulator(tensors[0])).square()
    if minus is None:
        sums = [sum(map(square_sum, _pieces(tensor))) for tensor in tensors]
    else:
        pairs = zip(tensors, minus, strict=True)
        sums = [sum(map(square_distance, _pieces(t), _pieces(other))) for t, other in pairs]
    return torch.tensor(sums, dtype=torch.float64)


def _pieces(tensor: Tensor) -> Iterator[Floats]:
    """Yield the pieces of a tensor, in at least float32."""
    flat = tensor.detach().flatten()
    narrow = flat.dtype not in (torch.float32, torch.float64)
    for start in range(0, len(flat), PIECE):
        piece = flat[start : start + PIECE]
        yield (piece.float() if narrow else piece).numpy()


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


def _quarters(tensor: Tensor) -> Tensor:
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
