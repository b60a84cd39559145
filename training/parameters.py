"""The parameters of a model by the names that its author gave them, whatever has wrapped it."""

import re

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DataParallel, DistributedDataParallel

from training.metrics.measure import Weight

_INNER = re.compile(r"\b(?:_orig_mod|_checkpoint_wrapped_module)\.")


def bare(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of ``torch.compile`` and data parallelism.

    Parameters
    ----------
    model
        The model, wrapped or not.

    Raises
    ------
    ValueError
        If it is sharded by ``FullyShardedDataParallel``, which leaves no parameter whole.
    """
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(inside := getattr(model, "_orig_mod", None), nn.Module):
            model = inside
        else:
            break
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise ValueError(
            "the model is sharded by FullyShardedDataParallel, whose flat parameters cannot be "
            "measured one by one: shard it by torch.distributed.fsdp.fully_shard (FSDP2) instead"
        )
    return model


def plain_name(name: str) -> str:
    """Return the name of a parameter or module without what wrappers within the model add."""
    return _INNER.sub("", name)


def weights_of(model: nn.Module) -> list[Weight]:
    """Return the floating-point parameters of a model; a tied one once, with its other names.

    Parameters
    ----------
    model
        The model without outer wrappers (`bare`).

    Raises
    ------
    ValueError
        If it has none.
    """
    names: dict[torch.Tensor, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            names.setdefault(parameter, []).append(plain_name(name))
    if not names:
        raise ValueError("the model has no floating-point parameter to measure")
    return [Weight(first, parameter, tuple(rest)) for parameter, (first, *rest) in names.items()]
