"""What takes over the values of checkpoint after checkpoint to be measured: a model, or its shape.

Without a model there are the names and shapes in a state dict. Metrics ask of a model what its
modules are: embeddings, norms and convolutions are told by names and shapes, and are modules of
those classes; all others are plain ones. What modules say in attributes, as how many heads there
are, is not known.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

from torch import Tensor, nn

from training.checkpoints.layouts import Checkpoint
from training.checkpoints.reading import read_state
from training.parameters import bare, plain_name

LoadModel: TypeAlias = Callable[[Path], nn.Module]

_BUFFER = re.compile(
    r"(?:^|[._])(?:running_mean|running_var|num_batches_tracked|inv_freq|masked_bias|tril|mask"
    r"|(?:cos|sin)_cached|rotary_(?:cos|sin))$"
)
_EMBEDDING = re.compile(r"embed|^(?:wte|wpe|(?:\w*_)?emb)$", re.IGNORECASE)


class Model(Protocol):
    """A module that takes over the values of one checkpoint after another."""

    module: nn.Module
    left_out: list[str]
    """What the first checkpoint holds besides, in words."""

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over the values of another checkpoint."""


def model_of(given: nn.Module | LoadModel | None, first: Checkpoint) -> Model:
    """Return what holds the values of a run's checkpoints, those of the first to begin with.

    Parameters
    ----------
    given
        The model, a function that loads it from the path of a checkpoint, or None.
    first
        The first checkpoint.
    """
    if given is None:
        return Skeleton(first)
    return Given(given, first) if isinstance(given, nn.Module) else Loaded(given, first)


class Skeleton:
    """A module whose parameters are the tensors of a checkpoint, which cannot be called.

    Tensors that share their memory are one parameter.

    Parameters
    ----------
    first
        The first checkpoint.
    """

    def __init__(self, first: Checkpoint) -> None:
        tensors, others = read_state(first)
        weights = _without_buffers(tensors)
        buffers = Counter(name.rpartition(".")[2] for name in tensors if name not in weights)
        self.left_out = [*others, *(f"{count} buffers {kind!r}" for kind, count in buffers.items())]
        parameters: dict[Hashable, nn.Parameter] = {}
        for tensor in weights.values():
            parameters.setdefault(_memory(tensor), nn.Parameter(tensor, requires_grad=False))
        self.module = _module(
            "", {name: parameters[_memory(tensor)] for name, tensor in weights.items()}
        )
        self._layout = _layout(weights)
        self._first = first.path

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over the values of another checkpoint, without copying them.

        Parameters
        ----------
        checkpoint
            The checkpoint.

        Raises
        ------
        ValueError
            If it has other names or shapes than the first.
        """
        weights = _without_buffers(read_state(checkpoint).tensors)
        layout = _layout(weights)
        for name in self._layout | layout:
            here, there = (each.get(name, "not there") for each in (layout, self._layout))
            if here != there:
                raise ValueError(
                    f"{checkpoint.path}: {name} is {here}, but {there} in {self._first}: these are "
                    "not states of one model; give each run a folder of its own"
                )
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            parameter.data = weights[name]


class Given:
    """The user's model.

    Parameters
    ----------
    model
        The model, wrapped or not.
    first
        The first checkpoint.
    """

    def __init__(self, model: nn.Module, first: Checkpoint) -> None:
        self.module = bare(model)
        self.left_out = self._load(first)

    def load(self, checkpoint: Checkpoint) -> None:
        """Load another checkpoint.

        Buffers that the model has not are no matter, nor are the other names of a tied parameter
        that is there by one.

        Parameters
        ----------
        checkpoint
            The checkpoint.

        Raises
        ------
        ValueError
            If it does not fit.
        """
        self._load(checkpoint)

    def _load(self, checkpoint: Checkpoint) -> list[str]:
        tensors, others = read_state(checkpoint)
        own = {plain_name(name): name for name in self.module.state_dict()}
        named = {own.get(name, name): tensor for name, tensor in tensors.items()}
        try:
            missing, unexpected = self.module.load_state_dict(named, strict=False)
        except RuntimeError as error:  # of another shape
            reason = " ".join(str(error).split())
            raise ValueError(f"{checkpoint.path} does not fit the model: {reason}") from error
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        loaded = {id(parameter) for name, parameter in parameters.items() if name not in missing}
        lacking = [name for name in missing if id(parameters.get(name)) not in loaded]
        besides = [name for name in unexpected if not _is_buffer(name, named[name])]
        if lacking or besides:
            raise ValueError(
                f"{checkpoint.path} does not fit the model: it lacks {lacking}, and has {besides} "
                "besides; where a library renames parameters, give its function that loads a "
                "checkpoint: model=AutoModel.from_pretrained"
            )
        return list(others)


class Loaded:
    """What the user's function makes of a checkpoint.

    Parameters
    ----------
    load_model
        The function.
    first
        The first checkpoint.
    """

    def __init__(self, load_model: LoadModel, first: Checkpoint) -> None:
        self.module = bare(load_model(first.path))
        self.left_out: list[str] = []
        self._load_model = load_model

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over the values of another checkpoint.

        Parameters
        ----------
        checkpoint
            The checkpoint.
        """
        self.module.load_state_dict(bare(self._load_model(checkpoint.path)).state_dict())


def _is_buffer(name: str, tensor: Tensor) -> bool:
    """Return whether an entry of a state dict is taken for a buffer.

    Those are integers, what is called like a buffer of usual layers (running averages, rotary
    frequencies), and any ``bias`` of more than two dimensions, which is the mask of an attention.
    """
    mask = name.rpartition(".")[2] == "bias" and tensor.dim() > 2
    return not tensor.is_floating_point() or mask or bool(_BUFFER.search(name))


def _without_buffers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not _is_buffer(name, tensor)}


def _memory(tensor: Tensor) -> Hashable:
    """Return what is equal for tied tensors."""
    if tensor.numel() == 0:
        return id(tensor)
    start = tensor.untyped_storage().data_ptr()
    return start, tensor.storage_offset(), tensor.shape, tensor.stride()


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return what every tensor is, in words."""
    first: dict[Hashable, str] = {}
    return {
        name: f"of shape {tuple(tensor.shape)}"
        + ("" if (tied := first.setdefault(_memory(tensor), name)) == name else f", tied to {tied}")
        for name, tensor in tensors.items()
    }


def _module(name: str, held: Mapping[str, nn.Parameter]) -> nn.Module:
    """Return the module of a name, with parameters by their names within it."""
    own: dict[str, nn.Parameter] = {}
    below: dict[str, dict[str, nn.Parameter]] = {}
    for path, parameter in held.items():
        first, _, rest = path.partition(".")
        if rest:
            below.setdefault(first, {})[rest] = parameter
        else:
            own[first] = parameter
    module = _of_kind(name, own)
    for local, parameter in own.items():
        setattr(module, local, parameter)
    for child, parameters in below.items():
        setattr(module, child, _module(child, parameters))
    return module


def _of_kind(name: str, own: Mapping[str, Tensor]) -> nn.Module:
    """Return a module of the class that its name and parameters suggest, with none of its own."""
    sides = own["weight"].dim() if "weight" in own else 0
    if sides > 2:
        return nn.Conv1d(1, 1, 1, bias=False, device="meta")
    if sides == 2 and len(own) == 1 and _EMBEDDING.search(name):
        return nn.Embedding(1, 1, device="meta")
    if own.keys() - {"bias", "b"} and all(each.dim() == 1 for each in own.values()):
        return nn.LayerNorm(1, elementwise_affine=False)
    return nn.Module()
