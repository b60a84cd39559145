"""What a reader of other people's logs returns, and what readers share."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bayeshmm.tidy import is_bookkeeping

_OF_TRAINERS = re.compile(
    r"(.*/)?(epoch|global_step|lr(-.+)?|learning_rate|total_flos|num_input_tokens_seen"
    r"|(\w+_)?(runtime|\w+_per_second|preparation_time|compilation_time))"
    r"|DeviceStatsMonitor\..*"
)


class Imported(NamedTuple):
    """The runs of a source, before they are checked and arranged.

    Attributes
    ----------
    rows : DataFrame
        A row per run and step, the steps of a run increasing: ``run`` (str), ``step`` (training
        steps) and one float64 column per metric. NaN means missing; a value that was logged and is
        not finite, NaN included, is infinite.
    attributes : DataFrame
        What is known of each run as a whole: a row per run, indexed by its name.
    left_out : tuple of str
        What the source holds and the rows do not, in words for the user:
        ``"12 images (tags 'samples/*')"``.
    caveats : tuple of str
        Where the rows are not what was written, or not what they look like. `bayeshmm.Runs.read`
        warns of these: ``"'loss' is the mean since the last row, not the value at its step"``.
    """

    rows: pd.DataFrame
    attributes: pd.DataFrame
    left_out: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


def is_of_the_trainer(name: str) -> bool:
    """Whether a trainer logs this column by itself, of its schedule and its speed.

    Such columns are kept for display, as bookkeeping is: ``learning_rate``, ``lr-AdamW``,
    ``train/epoch``, ``eval_runtime``, ``eval_samples_per_second``, ...
    """
    return is_bookkeeping(name) or _OF_TRAINERS.fullmatch(name) is not None


def files_below(folder: Path) -> list[Path]:
    """Return the files at any depth, sorted, without hidden folders: sweeps train in one."""
    files: list[Path] = []
    for place, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        files += (Path(place, name) for name in names)
    return sorted(files)


def last_written(logged: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Merge the rows that one run logged at the same step, restarts within the log included.

    Parameters
    ----------
    logged : DataFrame
        Rows in the order of writing: ``step`` and other columns, missing where a row has none.

    Returns
    -------
    rows : DataFrame
        A row per step, by step. Where the steps at which a column was logged go back, what was
        written before no longer counts from there on: a restart takes the place of all that it
        repeats, and of several values at one step the last counts.
    caveats : tuple of str
        What to say of values that are lost by it, if any.
    """
    kept: dict[str, pd.Series] = {}
    lost: Counter[str] = Counter()
    for name, column in logged.set_index("step").items():
        written = column.dropna()
        steps = written.index.to_numpy()
        still_to_come = np.minimum.accumulate(steps[::-1])[::-1]
        counts = np.append(steps[:-1] < still_to_come[1:], True)[: len(steps)]
        kept[str(name)] = written[counts]
        if not (counts.all() or is_of_the_trainer(str(name))):
            other = written[~counts]
            now = written[counts].reindex(other.index)
            lost[str(name)] = int((other.to_numpy() != now.to_numpy()).sum())
    rows = pd.DataFrame(kept).sort_index().rename_axis("step").reset_index()
    return rows, replaced(lost)


def replaced(lost: Counter[str]) -> tuple[str, ...]:
    """Return the caveat that these numbers of values, by column, do not count; none if none."""
    if not lost.total():
        return ()
    of = ", ".join(f"{count} of {name!r}" for name, count in lost.most_common(3) if count)
    return (
        "values were logged again, or lie beyond the step of a restart: the last written count "
        f"({of})",
    )


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as attributes: ``config.<key>``, nested keys joined by dots, lists as JSON.

    Parameters
    ----------
    given : mapping
        Settings by name, the values plain or nested mappings and lists.
    """
    flat: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, Mapping):
            below = {f"{key}.{name}": held for name, held in value.items()}
            flat |= settings(below)
        else:
            plain = value is None or isinstance(value, str | int | float)
            flat[f"config.{key}"] = value if plain else json.dumps(value, default=str)
    return flat


def attributes_of(run: str, known: Mapping[str, Any]) -> pd.DataFrame:
    """Return what is known of one run as the attributes of `Imported`."""
    return pd.DataFrame([dict(known)], index=pd.Index([run], name="run"))
