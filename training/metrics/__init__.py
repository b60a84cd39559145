"""The metrics that a hook can log of a model: what they are, and how they are chosen.

``"core"``
    a small set over all weights, gradients and updates (`training.metrics.statistics.CORE`);
``"spectral"``
    singular values of the weight matrices (`training.metrics.spectral.Spectral`);
``"hu2023"``
    the 14 metrics of Hu et al. 2023 by their own definitions (`training.metrics.hu2023.Hu2023`).

A list may hold these names, single metrics (``"weight/_all/log_l2"``), and functions of the model
or of a weight (`metric`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from training.metrics.custom import MakeMeasure, measure_of, metric
from training.metrics.hu2023 import Hu2023
from training.metrics.spectral import Spectral
from training.metrics.statistics import CORE

__all__ = ["MetricChoice", "choose", "metric"]

MetricChoice: TypeAlias = str | Callable[..., Any] | Sequence[str | Callable[..., Any]]

PRESETS: dict[str, tuple[str, ...]] = {
    "core": tuple(metric.key() for metric in CORE),
    "spectral": Spectral.KEYS,
    "hu2023": Hu2023.KEYS,
}
"""The keys of every preset, over all weights."""

MEASURES: dict[str, MakeMeasure] = {"spectral": Spectral, "hu2023": Hu2023}
"""What measures a preset; the core statistics are measured in any case."""


class Choice(NamedTuple):
    """What to measure.

    Attributes
    ----------
    makers
        What makes the measures besides the core statistics, by a name to tell failures by.
    unwanted
        Kind and statistic of what the measures of presets compute and nobody asked for.
    """

    makers: dict[str, MakeMeasure]
    unwanted: frozenset[tuple[str, str]]

    def wants(self, key: str) -> bool:
        """Whether a metric was asked for."""
        return _kind_and_statistic(key) not in self.unwanted


def choose(metrics: MetricChoice) -> Choice:
    """Return the measures that a choice of metrics needs.

    Parameters
    ----------
    metrics
        A preset, or a list of presets, single metrics (``"weight/_all/log_l2"``) and functions.

    Raises
    ------
    ValueError
        If a name is not known, or a function has none.
    """
    makers: dict[str, MakeMeasure] = {}
    chosen: set[str] = set()
    for item in [metrics] if isinstance(metrics, str) or callable(metrics) else metrics:
        if not isinstance(item, str):
            name, makers[name] = measure_of(item)
            chosen.update(PRESETS.get(name, ()))  # a preset with options of its own
            continue
        hits = [name for name, keys in PRESETS.items() if item == name or item in keys]
        if not hits:
            raise ValueError(
                f"unknown metrics {item!r}: presets are {sorted(PRESETS)}, single metrics "
                f"{sorted(key for keys in PRESETS.values() for key in keys)}; anything else is a "
                "function in a list"
            )
        for name in hits:
            chosen.update(PRESETS[name] if item == name else [item])
            if name in MEASURES:
                makers[name] = MEASURES[name]
    pairs = {_kind_and_statistic(key) for keys in PRESETS.values() for key in keys}
    return Choice(makers, frozenset(pairs - {_kind_and_statistic(key) for key in chosen}))


def _kind_and_statistic(key: str) -> tuple[str, str]:
    return key.partition("/")[0], key.rpartition("/")[2]
