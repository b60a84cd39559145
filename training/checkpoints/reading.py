"""Read the tensors of a checkpoint; nothing in it is ever executed."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.checkpoints.layouts import Checkpoint
from training.checkpoints.names import has_weights
from training.parameters import plain_name

WRAPPINGS = ("state_dict", "model_state_dict", "model", "module", "net", "network")
"""Entries under which a checkpoint may hold the state dict of its model."""


class State(NamedTuple):
    """What a checkpoint holds of a model.

    Attributes
    ----------
    tensors
        Parameters and buffers by name, without what wrappers add to it.
    left_out
        The other entries of the file.
    """

    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]


def read_state(checkpoint: Checkpoint) -> State:
    """Read the state dict of a checkpoint.

    Parameters
    ----------
    checkpoint
        The checkpoint.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If a file is corrupt, needs classes other than torch's to be read, or holds no state dict.
    ImportError
        If a safetensors file is to be read and that library is missing.
    """
    tensors: dict[str, Tensor] = {}
    left_out: list[str] = []
    for path in checkpoint.files:
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: the weights are not complete without it")
        state = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
        tensors |= state.tensors
        left_out += state.left_out
    if all(name.startswith("module.") for name in tensors):  # DataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return State({plain_name(name): tensor for name, tensor in tensors.items()}, tuple(left_out))


def _safetensors(path: Path) -> State:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs safetensors: pip install 'bayeshmm[readers]'"
        ) from error
    try:
        return State(load_file(path), ())
    except SafetensorError as error:
        raise ValueError(f"{path} is corrupt: {error}") from error


def _torch(path: Path) -> State:
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if needed := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{path} holds an object of {needed[1]}, and could run any code if that were "
                "loaded: where you trust it, export its weights once, by torch.save("
                f"torch.load({path.name!r}, weights_only=False)['state_dict'], ...) or as "
                "they are called in it"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} is corrupt, or no file of torch.save: {reason}") from error
    return _state(content, path)


def _state(content: Any, path: Path) -> State:
    """Return the one state dict within what a file holds, and what else is there."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, and no state dict")
    nested = [name for name, value in content.items() if _holds_state_dict(value)]
    models = [name for name in nested if name in WRAPPINGS]
    models = models or [name for name in nested if has_weights(str(name))]
    if len(models) == 1:
        inside = _state(content[models[0]], path)
        others = tuple(str(name) for name in content if name != models[0])
        return State(inside.tensors, others + inside.left_out)
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if models or not tensors:
        raise ValueError(
            f"{path} holds {list(content)}, and not one state dict, bare or under a name such as "
            f"{', '.join(WRAPPINGS)}: save that of the model in a file of its own"
        )
    return State(tensors, tuple(str(name) for name in content if name not in tensors))


def _holds_state_dict(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(each, Tensor) or _holds_state_dict(each) for each in value.values())
