"""Nested named tuples and dictionaries of tensors, some parts None: parameters, laws, draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply `function` to every tensor."""
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {name: mapped(function, part) for name, part in tree.items()}
    parts = [mapped(function, part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def take(tree: Any, index: int | slice | Tensor) -> Any:
    """Index the leading axis of every tensor."""
    return mapped(lambda tensor: tensor[index], tree)


def expanded(tree: Any, size: int) -> Any:
    """Give every tensor a new leading axis of `size`."""
    return mapped(lambda tensor: tensor.expand(size, *tensor.shape), tree)


def batched(value: Tensor, event: int) -> Tensor:
    """`value`, with an axis of runs before its `event` axes if it has no batch axis."""
    return value if value.ndim > event else value[None]


def stacked(trees: Sequence[Any], dim: int) -> Any:
    """Stack trees of one shape along a new axis."""
    first = trees[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.stack(list(trees), dim)
    if isinstance(first, dict):
        return {name: stacked([tree[name] for tree in trees], dim) for name in first}
    parts = [stacked(part, dim) for part in zip(*trees, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
