"""Conditions: groups of runs that share the value of an attribute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm.runs import Runs
from bayeshmm.tidy import listed


def condition_index(
    runs: Runs, by: str, known: Sequence[str] | None = None
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Name the conditions, and tell which run belongs to which.

    Parameters
    ----------
    runs
        The N runs.
    by
        The attribute whose values are the conditions.
    known
        The names, in their order, where they are those of other runs; then the runs may be of one
        condition. None: the values that occur, in increasing order.

    Returns
    -------
    names
        Name of every condition.
    index
        Of every run's condition, (N,).

    Raises
    ------
    ValueError
        If there is no such attribute, a run lacks it, all runs have one value or, with `known`
        conditions, a run is of another. The message names the run and the mend.
    """
    attributes = runs.attributes
    if by not in attributes and by in runs.columns:
        raise ValueError(
            f"{by!r} is a numeric column: name it in Runs.from_dataframe(df, attributes=[{by!r}]) "
            "if it is constant within every run"
        )
    if by not in attributes:
        raise ValueError(
            f"unknown attribute {by!r}: those that differ between runs are "
            f"{listed(_differing(attributes)) or 'none'}, the others "
            f"{listed(attributes.columns.difference(_differing(attributes)))}"
        )
    values = attributes[by]
    if (missing := values.isna().to_numpy()).any():
        raise ValueError(
            f"run {runs.names[missing.argmax()]!r} has no {by!r}: give every run one, or leave "
            "those without out with runs.subset([...])"
        )
    own = [_written(value) for value in values]
    if known is None:
        known = _ordered(values.unique().tolist())
        if len(known) == 1:
            raise ValueError(
                f"{by!r} is {known[0]!r} in every run: there is nothing to compare. Choose an "
                f"attribute that differs ({listed(_differing(attributes)) or 'there is none'}), or "
                "leave conditions out with transition=Dirichlet()"
            )
    for name, condition in zip(runs.names, own, strict=True):
        if condition not in known:
            raise ValueError(
                f"run {name!r}: the model knows no condition {by}={condition!r}, only "
                f"{listed(known)}: fit it to runs of this condition too, or leave the run out with "
                "runs.subset([...])"
            )
    return tuple(known), np.array([known.index(condition) for condition in own], dtype=np.int64)


def _ordered(values: list[Any]) -> list[str]:
    """Names of values, in increasing order of what they can be ordered by."""
    try:
        values = sorted(values)
    except TypeError:
        values = sorted(values, key=str)
    return list(dict.fromkeys(map(_written, values)))


def _written(value: Any) -> str:
    """Write a value; numbers that are equal are written alike."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def _differing(attributes: pd.DataFrame) -> list[str]:
    """Attributes with more values than one."""
    return [str(name) for name in attributes if attributes[name].astype(str).nunique() > 1]
