"""Rules that choose the number of states from a table of scores, and how often they are right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from unittest.mock import patch

import pandas as pd

from bayeshmm import defaults
from bayeshmm.comparison.choice import choose
from benchmarks.state_counts.cells import DRIFT, Cache, Task
from benchmarks.state_counts.worlds import (
    DRIFT_METRICS,
    FAMILIES,
    METRICS,
    RUNS,
    SEEDS,
    WORLDS,
    drift,
    true_phases,
)


class Rule(NamedTuple):
    """The rule of `bayeshmm.compare`, with other numbers if wanted.

    Attributes
    ----------
    per_metric
        Price of a state, nats per row and metric, at least.
    share
        Price of a state as a share of what all states but the first are worth.
    tie
        Nats per row and metric by which families differ that predict alike.
    """

    per_metric: float = defaults.PRICE_PER_METRIC
    share: float = defaults.PRICE_SHARE
    tie: float = defaults.TIE_PER_METRIC

    def choose(self, table: pd.DataFrame, metrics: int) -> tuple[str, int]:
        """Family and number of states, from a table by (emission, states)."""
        with patch.multiple(
            defaults,
            PRICE_PER_METRIC=self.per_metric,
            PRICE_SHARE=self.share,
            TIE_PER_METRIC=self.tie,
        ):
            return choose(table, metrics)


def counted(cache: Cache, rule: Rule, sets: Iterable[int], restarts: int) -> pd.DataFrame:
    """What the rule makes of every set with phases for which there are tables.

    Parameters
    ----------
    cache
        Of tables.
    rule
        Which chooses.
    sets
        Numbers of the sets that count.
    restarts
        Of the searches.

    Returns
    -------
    DataFrame
        A row per set: ``world, number, true`` states, the ``states`` that the right family alone
        is given, and, where all families were compared, the ``family`` and the states ``offered``
        that are chosen among them.
    """
    records = []
    for number in sets:
        for name, world in WORLDS.items():
            alone = cache.comparison(Task.families(name, number, RUNS, restarts, [world.right]))
            every = cache.comparison(Task.families(name, number, RUNS, restarts))
            if alone is not None:
                _, states = rule.choose(alone, METRICS)
                family, offered = (None, None) if every is None else rule.choose(every, METRICS)
                records.append((name, number, true_phases(number), states, family, offered))
    columns = ["world", "number", "true", "states", "family", "offered"]
    return pd.DataFrame(records, columns=columns)


def drifting(
    cache: Cache, rule: Rule, sets: Iterable[int], restarts: int, names: Iterable[str] = FAMILIES
) -> pd.DataFrame:
    """What the rule makes of every set without phases for which all tables are there.

    Parameters
    ----------
    cache, rule, sets, restarts
        As for `counted`.
    names
        Families that are offered.

    Returns
    -------
    DataFrame
        A row per set: ``world``, ``number``, and a column for each number of runs: states chosen.
    """
    records = []
    for number in sets:
        tables = [
            cache.comparison(Task.families(DRIFT, number, runs, restarts, names)) for runs in SEEDS
        ]
        complete = [table for table in tables if table is not None]
        if len(complete) == len(SEEDS):
            chosen = [rule.choose(table, DRIFT_METRICS)[1] for table in complete]
            records.append((drift(number), number, *chosen))
    return pd.DataFrame(records, columns=["world", "number", *SEEDS])
