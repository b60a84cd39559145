"""Training on several processes: who writes, and what a process holds of a sharded tensor."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


def world() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among those that train together."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, detached."""
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        return tensor
    # a sum over processes that has not been carried out yet has no parts
    return tensor.full_tensor() if _is_pending(tensor) else tensor.to_local()


def share(tensor: Tensor) -> float:
    """Return what counts once when all processes add up sums over their `local` parts.

    It is one over the number of processes that hold the same elements.
    """
    if not isinstance(tensor, DTensor) or _is_pending(tensor):
        return 1 / world()
    sizes = zip(tensor.device_mesh.shape, tensor.placements, strict=True)
    return math.prod(size for size, placement in sizes if placement.is_shard()) / world()


def _is_pending(tensor: DTensor) -> bool:
    return any(placement.is_partial() for placement in tensor.placements)


def is_sharded(tensor: Tensor) -> bool:
    """Whether processes hold different parts of a tensor."""
    return isinstance(tensor, DTensor)


def add_up(tensors: list[Tensor]) -> list[Tensor]:
    """Return the sums of tensors over all processes, by one reduction.

    Parameters
    ----------
    tensors
        The shares of this process: the same shapes in every process, all on one device.
    """
    flat = torch.cat([tensor.flatten().double() for tensor in tensors])
    dist.all_reduce(flat)
    sizes = [tensor.numel() for tensor in tensors]
    return [
        part.view(tensor.shape) for part, tensor in zip(flat.split(sizes), tensors, strict=True)
    ]


def check_alike(what: Any) -> None:
    """Make sure that all processes measure the same, before they add it up.

    Parameters
    ----------
    what
        What this process measures.

    Raises
    ------
    ValueError
        If another measures something else, on every process.
    """
    every: list[Any] = [None] * world()
    dist.all_gather_object(every, what)
    if different := [i for i, other in enumerate(every) if other != every[0]]:
        raise ValueError(
            f"processes 0 and {different[0]} hold different models, or measure different metrics: "
            "a hook measures a model that is sharded over all processes alike, and no pipeline"
        )
