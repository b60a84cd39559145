"""The tables, and whether the claims hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from bayeshmm import Autoregressive
from benchmarks.unseen_seeds.cells import Settings
from benchmarks.unseen_seeds.datasets import FOLDS, DataSet
from benchmarks.unseen_seeds.families import COUPLED, MINIMUM_DWELL

FALL = 1.0
"""Nats per row by which more states may lie below the best of fewer states."""

HEADER = """\
# Runs that a fit has not seen

`python -m benchmarks.unseen_seeds` repeats this. Log density of held-out runs, whole runs with
their first rows, in nats per row, by family and number of states, in units in which the training
runs have standard deviation 1. One run in {parts} is held out, in {folds} of {parts} ways to do so;
a search takes {restarts} starts (seed {seed}); a phase lasts at least {dwell} rows unless the
family says otherwise. The default is
`{default!r}`.

*t*: Student-t noise, else normal. *Run effects*: a shift of every run's own in every phase.
*Coupled*: a metric follows the past of all metrics, not its own alone. *Fall*: how far more states
lie below the best of fewer at most; {fall:g} is allowed.
"""


def document(found: Sequence[DataSet], tables: Sequence[pd.DataFrame], settings: Settings) -> str:
    """Everything, as a Markdown document.

    Parameters
    ----------
    found
        The data sets.
    tables
        Of each data set: nats per row by family and number of states.
    settings
        Of the search, and the number of folds.
    """
    header = HEADER.format(
        parts=FOLDS,
        dwell=MINIMUM_DWELL,
        default=Autoregressive(),
        fall=FALL,
        **settings._asdict(),
    )
    sections = [
        section(data, table, settings.folds) for data, table in zip(found, tables, strict=True)
    ]
    columns = {data.name: top(table) for data, table in zip(found, tables, strict=True)}
    order = dict.fromkeys(name for table in tables for name in table.index)
    best = pd.DataFrame(columns, list(order), dtype=str).fillna("")
    summary = f"## Best of each family\n\nIn brackets its number of states.\n\n{markdown(best)}"
    return "\n".join([header, summary, *sections])


def section(data: DataSet, table: pd.DataFrame, folds: int) -> str:
    """The tables and verdicts of one data set."""
    falls, differences = fall(table), gain(table)
    parts = [
        f"## {data.name}\n",
        units(data, folds),
        markdown(table.assign(fall=falls).map(_figure)),
        _verdict("More states", falls[falls > FALL], "no family falls by more than allowed"),
    ]
    if len(differences):
        worst = differences.min(axis=1)
        parts += [
            "Coupled less not coupled:\n",
            markdown(differences.map(_figure)),
            _verdict("Coupling", worst[worst < 0], "at least as good everywhere"),
        ]
    return "\n".join(parts)


def units(data: DataSet, folds: int) -> str:
    """What the figures are of, and what to add to have them in other units."""
    every = [data.fold(first) for first in range(folds)]
    rows = sum(fold.held_out.lengths.sum() for fold in every)

    def jacobian(pooled: bool) -> float:
        return sum(
            data.log_jacobian(held_out, data.runs if pooled else training).sum()
            for training, held_out in every
        )

    standard = jacobian(pooled=False)
    logs = "".join(f"; log({name} + {floor:g})" for name, floor in data.log.items())
    return (
        f"{len(data.runs)} runs, {sum(len(fold.held_out) for fold in every)} of them held out "
        f"({rows} rows); {', '.join(data.runs.metrics)}{logs}. Standardised by all runs every "
        f"figure is higher by {(standard - jacobian(pooled=True)) / rows:.2f}, in the units of the "
        f"data by {standard / rows:.2f}.\n"
    )


def top(table: pd.DataFrame) -> pd.Series:
    """Best figure of every family, and its number of states."""
    return table.max(axis=1).map(_figure) + table.idxmax(axis=1).map(" ({})".format)


def fall(table: pd.DataFrame) -> pd.Series:
    """How far more states lie below the best of fewer states, at most, by family."""
    return (table.cummax(axis=1) - table).max(axis=1)


def gain(table: pd.DataFrame) -> pd.DataFrame:
    """Every family with coupling less the one that differs from it in that alone."""
    other = {name: name.replace(COUPLED, "") for name in table.index if COUPLED in name}
    both = [name for name, uncoupled in other.items() if uncoupled in table.index]
    return table.loc[both] - table.loc[[other[name] for name in both]].to_numpy()


def kept(table: pd.DataFrame) -> bool:
    """Whether both claims hold, as far as there are figures."""
    return not ((fall(table) > FALL).any() or (gain(table) < 0).any(axis=None))


def _verdict(claim: str, missed: pd.Series, otherwise: str) -> str:
    listed = "; ".join(f"{name} ({_figure(worst)})" for name, worst in missed.items())
    return f"{claim}: {f'missed by {listed}' if listed else otherwise}.\n"


def _figure(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.2f}"


def markdown(table: pd.DataFrame) -> str:
    """A table of texts, its columns aligned."""
    titles = [str(table.index.name or ""), *map(str, table.columns)]
    rows = [[str(name), *map(str, row)] for name, *row in table.itertuples()]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        first, *others = (text.rjust(width) for text, width in zip(cells, widths, strict=True))
        return f"| {' | '.join([cells[0].ljust(len(first)), *others])} |\n"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "".join(map(line, [titles, rule, *rows]))
