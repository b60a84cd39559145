"""Which parameters the metrics of Hu et al. 2023 count, and as what."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from training.metrics.measure import Weight
from training.patterns import Patterns, matching

HEADS = ("num_heads", "n_heads", "n_head", "heads", "num_attention_heads", "nhead")
"""Attributes in which a module may say how many heads share its queries."""

HEAD_SIZES = ("head_dim", "attention_head_size", "key_value_proj_dim", "d_head", "dim_head")
"""Attributes in which it may say how wide a head is."""

_PROJECTION = re.compile(
    r"_*(?:(?:w|to|c|linear|lin|fc)_?)?(q|k|v|qkv|kv|query|key|value|query_key_value)"
    r"(?:_?(?:proj|projection|linear|lin|net|attn|w|weight))*|(in_proj_weight|c_attn)"
)
_OF = {"query": "q", "key": "k", "value": "v"} | dict.fromkeys(
    ("query_key_value", "in_proj_weight", "c_attn"), "qkv"
)
_BIAS = re.compile(r"(?:^|_)(?:b|bias)(?:_|$)")
_ATTENTION = re.compile(r"(?:^|[._])att(?:n|ention)(?:[._]|$)")
_BLOCK = re.compile(r"(?:.*?\.)?\d+(?=\.|$)")
_LAYER = re.compile(r"(?:layer|block)$")
_OUTSIDE = re.compile(
    r"(?:^|[._])(?:(?:un)?embed|wte|wpe|pooler|classifier"
    r"|(?:pos(?:ition(?:al)?)?|(?:lm_)?head|w_[eu])(?:[._]|$))"
)
_SHORTCUT = re.compile(r"(?:^|[._])(?:downsample|shortcut)(?:[._]|$)")
_NORM = re.compile(r"norm(?:act)?(?:\dd)?$|normalization$")


@dataclass(frozen=True)
class Role:
    """What a parameter counts as.

    Attributes
    ----------
    kind
        A matrix (or a stack of them), the kernels of a convolution, a bias, or nothing of these.
    matrices
        The number of matrices that it holds.
    dim
        The dimension in which those of a two-dimensional parameter lie side by side.
    reason
        Why it is left out.
    """

    kind: Literal["matrix", "kernels", "bias", "left out"]
    matrices: int = 1
    dim: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.kind == "matrix" and self.matrices > 1:
            return f"{self.matrices} matrices, cut from dimension {self.dim}"
        return f"left out: {self.reason}" if self.reason else self.kind

    def stack(self, values: Tensor) -> Tensor:
        """Return the matrices of a parameter, of shape (matrices, m, n).

        Parameters
        ----------
        values
            The parameter's values, of two or more dimensions.
        """
        if self.matrices == 1:
            return values.flatten(0, -2)[None]
        if values.dim() == 2:
            return values.unflatten(self.dim, (self.matrices, -1)).movedim(self.dim, 0)
        return values.flatten(0, -3)


def roles(
    model: nn.Module,
    weights: Sequence[Weight],
    *,
    matrices: Patterns | None = None,
    biases: Patterns | None = None,
    heads: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Role]:
    """Return the role of every parameter, by its name.

    The rules, by the first that applies:

    1. `nn.Embedding` and norms (the class name says so) are left out.
    2. In a transformer, what lies outside the layers that hold attention is left out (those are
       numbered, or of a class called ``...Layer`` or ``...Block``; without either it is the whole
       model), and what is called an embedding, a position, a head or a pooler.
    3. A parameter called ``bias`` or ``b`` is a bias; in a transformer not that of an attention.
    4. Vectors are left out, and so are convolutions on a shortcut (``downsample``, ``shortcut``).
    5. A convolution has kernels. What remains is a matrix; of more than two dimensions, a stack of
       matrices, but one matrix if it is an attention's output.

    A transformer is a model of which some module holds queries and keys, together or apart, by
    their names (``query``, ``q_proj``, ``W_Q``, ``qkv``, ``c_attn``, ``in_proj_weight``, ...).
    Those and the values are cut into heads along their output: the rows of modules called
    ``...Linear`` and of `nn.MultiheadAttention`, the columns of all others, which are taken to be
    used as ``x @ W``. The width of a head is what the module or one around it says (`HEAD_SIZES`),
    or the width of the queries over the number of heads (`HEADS`); keys and values that fewer heads
    share (grouped queries) are thereby cut into as many as there are. Without either they are
    whole, as are all other matrices.

    Parameters
    ----------
    model
        The model.
    weights
        Its parameters.
    matrices, biases
        Patterns (as in `fnmatch`) of the parameters that count as weights (those of two or more
        dimensions) and as biases, in place of rules 1 to 4.
    heads
        The number of heads that lie side by side in a parameter, and in which dimension, by
        pattern, in place of the rule: ``{"*.query": (4, 1)}``; ``(1, 0)`` leaves it whole.

    Raises
    ------
    ValueError
        If a pattern matches nothing, or heads do not divide a parameter.
    """
    architecture = _Architecture(model)
    found = {weight.name: architecture.role(weight.parameter) for weight in weights}
    shapes = {weight.name: tuple(weight.parameter.shape) for weight in weights}
    if matrices is not None:
        chosen = [name for name in matching("matrices", matrices, shapes) if len(shapes[name]) > 1]
        for weight in weights:
            if weight.name in chosen:
                found[weight.name] = architecture.weight_role(weight.parameter)
            elif found[weight.name].kind in ("matrix", "kernels"):
                found[weight.name] = Role("left out", reason="not among the chosen matrices")
    if biases is not None:
        chosen = matching("biases", biases, shapes)
        for name, role in found.items():
            if name in chosen and role.kind not in ("matrix", "kernels"):
                found[name] = Role("bias")
            elif role.kind == "bias":
                found[name] = Role("left out", reason="not among the chosen biases")
    for pattern, (number, dim) in (heads or {}).items():
        for name in matching("heads", pattern, shapes):
            sides = shapes[name]
            if len(sides) != 2 or dim not in (0, 1) or number < 1 or sides[dim] % number:
                raise ValueError(
                    f"heads={{{pattern!r}: ({number}, {dim})}} does not divide {name} of shape "
                    f"{sides}"
                )
            found[name] = Role("matrix", number, dim)
    return found


class _Place(NamedTuple):
    """Where a parameter is held: in which module, and under which name."""

    path: str
    local: str

    @property
    def full(self) -> str:
        return f"{self.path}.{self.local}".removeprefix(".").lower()

    @property
    def split(self) -> tuple[str, str]:
        """The module that uses it, and what that calls it: a linear layer is part of another."""
        if self.local not in ("weight", "bias"):
            return self.path, self.local.lower()
        scope, _, name = self.path.rpartition(".")
        return scope, name.lower()

    @property
    def projection(self) -> str | None:
        """Which of q, k and v its name says that it is."""
        match = _PROJECTION.fullmatch(self.split[1])
        of = match and (match[1] or match[2])
        return _OF.get(of, of) if of else None


class _Architecture:
    """What a model's modules and names say of its parameters."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._places: dict[int, list[_Place]] = {}
        scopes: dict[str, dict[str, tuple[_Place, Tensor]]] = {}
        for path, module in self._modules.items():
            for local, parameter in module.named_parameters(recurse=False):
                place = _Place(path, local)
                self._places.setdefault(id(parameter), []).append(place)
                if (of := place.projection) and parameter.dim() > 1:
                    scopes.setdefault(place.split[0], {})[of] = place, parameter
        self._attention = {
            scope: self._head_width(scope, held)
            for scope, held in scopes.items()
            if {"q", "k"} <= set("".join(held))
        }
        self._blocks = {scope: self._block(scope) for scope in self._attention}

    def role(self, parameter: Tensor) -> Role:
        """Return the role of a parameter by the rules; an embedding, wherever else it is tied."""
        each = [self._role(place, parameter) for place in self._places[id(parameter)]]
        return next((role for role in each if role.reason == "embedding"), each[0])

    def _role(self, place: _Place, parameter: Tensor) -> Role:
        module = self._modules[place.path]
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            return Role("left out", reason="embedding")
        if _NORM.search(self._class(place.path)):
            return Role("left out", reason="norm")
        if self._attention:
            if not any(_within(place.path, block) for block in self._blocks.values()):
                return Role("left out", reason="outside the layers")
            if _OUTSIDE.search(place.full):
                return Role("left out", reason="embedding, position or head")
        if _BIAS.search(place.local.lower()):
            return Role("left out", reason="attention") if self._attends(place) else Role("bias")
        if parameter.dim() < 2:
            return Role("left out", reason="vector")
        if isinstance(module, _ConvNd) and _SHORTCUT.search(place.full):
            return Role("left out", reason="shortcut")
        return self.weight_role(parameter)

    def weight_role(self, parameter: Tensor) -> Role:
        """Return the role of a parameter that is a weight."""
        place = self._places[id(parameter)][0]
        if isinstance(self._modules[place.path], _ConvNd):
            return Role("kernels")
        scope = place.split[0]
        projection = place.projection and scope in self._attention
        if parameter.dim() > 2:
            joined = self._attends(place) and not projection
            return Role("matrix", 1 if joined else parameter.shape[:-2].numel())
        width, dim = self._attention.get(scope, 0), self._output(place)
        if projection and width and parameter.shape[dim] % width == 0:
            return Role("matrix", parameter.shape[dim] // width, dim)
        return Role("matrix")

    def _attends(self, place: _Place) -> bool:
        """Return whether a parameter is part of an attention."""
        inner = any(_within(place.path, s) for s, block in self._blocks.items() if s != block)
        called = place.projection or _ATTENTION.search(place.full)
        return bool(self._attention) and (inner or bool(called))

    def _output(self, place: _Place) -> int:
        """Return the dimension of a matrix that its output has."""
        torch_attention = isinstance(self._modules[place.path], nn.MultiheadAttention)
        return 0 if torch_attention or "linear" in self._class(place.path) else 1

    def _block(self, scope: str) -> str:
        """Return the path of the layer that an attention is part of; the model's without any."""
        if numbered := _BLOCK.match(scope):
            return numbered[0]
        layers = [path for path in _around(scope) if _LAYER.search(self._class(path))]
        return layers[-1] if layers else ""

    def _class(self, path: str) -> str:
        return type(self._modules[path]).__name__.lower()

    def _head_width(self, scope: str, held: Mapping[str, tuple[_Place, Tensor]]) -> int:
        """Return how wide a head is that reads these queries; 0 where no module says it."""
        for module in (self._modules[path] for path in _around(scope)):
            if width := _first_int(module, HEAD_SIZES):
                return width
            if number := _first_int(module, HEADS):
                place, queries = held.get("q") or held["qkv"]
                output = self._output(place)
                side = queries.shape[output if "q" in held else 1 - output]
                return side // number if side % number == 0 else 0
        return 0


def _around(path: str) -> list[str]:
    """Return the path of a module, and those of all that contain it."""
    parts = path.split(".") if path else []
    return [".".join(parts[:n]) for n in range(len(parts), -1, -1)]


def _within(path: str, scope: str) -> bool:
    return not scope or path == scope or path.startswith(f"{scope}.")


def _first_int(module: nn.Module, names: Iterable[str]) -> int:
    return next((n for name in names if type(n := getattr(module, name, None)) is int), 0)
