"""The tables, and whether the claims hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from benchmarks.calibration.datasets import Effort, Ranks
from benchmarks.calibration.ranks import Array, band, coverage, distance

NOMINAL = (0.5, 0.9)

FALSE_ALARM = 0.01
"""Probability that an exact sampler misses the claims about bands, and those about coverage."""

HEADER = """\
# Do intervals mean what they say?

`python -m benchmarks.calibration` repeats this. Parameters, paths and runs are drawn from the
prior, {datasets} data sets of {runs} runs of {rows} rows and 2 metrics for each family, with 3
phases that overlap; each is fitted as the library fits, search and all ({starts} starts, {chains}
chains of {sweeps} draws after {warmup}). An interval of 90 % must then hold the truth 90 % of the
time: in brackets how many standard errors it is off, data sets being the units. *Distance*: the
largest deviation of the ranks of the truth among the draws from a uniform law, in units of
sqrt(p (1 - p)), over all places p and all quantities of a kind; *band*: what it stays below in 99 %
of repetitions.

States are compared in the order of a parameter, of their level or of their variance, in the truth
as in every draw, so that nothing is matched to the truth and exact draws must pass.
"""

MISMATCHED = """\
## When the model is wrong

Entry times alone, in fits of another family than that of the data, their phases matched to the
true ones by the rows that they share; {datasets} data sets each. Nothing is claimed.
"""


def pooled(results: Sequence[Ranks]) -> dict[tuple[str, str], Array]:
    """Ranks (datasets, components, alike) of many data sets by engine and class of quantities."""
    return {key: np.stack([ranks[key] for ranks in results]) for key in results[0]}


def judged(ranks: Mapping[tuple[str, str], Array], level: float = 0.99) -> pd.DataFrame:
    """Coverage and distance by engine and class of quantities, the band at `level`."""
    rows = []
    for (engine, name), values in ranks.items():
        row: dict[str, object] = {"engine": engine, "quantities": name}
        for nominal in NOMINAL:
            found = coverage(values, nominal)
            row |= {f"{nominal:.0%}": found.share, f"z {nominal:.0%}": found.z}
        rows.append(row | {"distance": distance(values), "band": band(values, level)})
    return pd.DataFrame(rows).set_index(["quantities", "engine"])


def misses(
    ranks: Mapping[tuple[str, str], Array], engine: str = "gibbs", comparisons: int | None = None
) -> list[str]:
    """Where the ranks of an engine are not those of exact draws; empty if nowhere.

    Parameters
    ----------
    ranks
        From `pooled`.
    engine
        Which.
    comparisons
        Classes of quantities in all families together, for Bonferroni's correction: each kind of
        claim then fails for exact draws with probability `FALSE_ALARM`. By default, these.
    """
    mine = {key: values for key, values in ranks.items() if key[0] == engine}
    number = comparisons or len(mine)
    datasets = len(next(iter(mine.values())))
    furthest = student_t.isf(FALSE_ALARM / (2 * len(NOMINAL) * number), datasets - 1)
    table = judged(mine, 1 - FALSE_ALARM / number)
    found = []
    for (name, _), row in table.iterrows():
        for nominal in NOMINAL:
            if abs(row[f"z {nominal:.0%}"]) > furthest:
                found.append(
                    f"{name}: intervals of {nominal:.0%} cover {row[f'{nominal:.0%}']:.3f}, "
                    f"{row[f'z {nominal:.0%}']:.1f} standard errors away"
                )
        if row["distance"] > row["band"]:
            found.append(f"{name}: ranks {row['distance']:.2f} from uniform > {row['band']:.2f}")
    return found


def document(
    results: Mapping[str, Sequence[Ranks]],
    mismatched: Mapping[str, Sequence[Ranks]],
    effort: Effort,
) -> str:
    """Everything, as a Markdown document."""
    count = len(next(iter(results.values())))
    parts = [HEADER.format(datasets=count, **effort._asdict())]
    for family, ranks in results.items():
        parts.append(f"## {family}\n\n{_markdown(judged(pooled(ranks)))}\n")
    if mismatched:
        count = len(next(iter(mismatched.values())))
        tables = {case: judged(pooled(ranks)) for case, ranks in mismatched.items()}
        together = pd.concat(
            [table.rename({"entry times": case}) for case, table in tables.items()]
        )
        parts.append(MISMATCHED.format(datasets=count) + "\n" + _markdown(together) + "\n")
    return "\n".join(parts)


def _markdown(table: pd.DataFrame) -> str:
    """A row per class of quantities, the exact sampler beside the conjugate posterior."""
    lines = [
        "| | exact: 50 % | 90 % | distance (band) | conjugate: 50 % | 90 % | distance (band) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in table.index.unique(0):
        cells = [name]
        for engine in ("gibbs", "conjugate"):
            row = table.loc[(name, engine)]
            cells += [f"{row[f'{p:.0%}']:.3f} ({row[f'z {p:.0%}']:+.1f})" for p in NOMINAL]
            cells.append(f"{row['distance']:.2f} ({row['band']:.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
