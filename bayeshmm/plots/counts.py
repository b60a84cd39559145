"""Held-out score against the number of phases."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from bayeshmm.plots.style import INK, MUTED

if TYPE_CHECKING:
    from bayeshmm.comparison import Comparison

_FAMILY_STYLES = (
    *(("#3B0F70", "o", "-"), ("#B5432A", "s", "--"), ("#5E8C31", "D", "-.")),
    *(("#6B6B6B", "^", ":"), ("#882255", "v", "-"), ("#0A6A8A", "P", "--")),
)
_LABELS = {
    "elpd": (
        "log density of held-out runs",
        " (bars: paired SE of the difference from the best)",
    ),
    "step_ahead": ("one-step-ahead log density of later rows", ""),
}
_INTERESTING = 6.0  # how far below the best, in distances from the best to its family's median
_COMPRESS = 3.0  # the scale is compressed if the rest would be this many times as high
_COMPRESSED = 0.3  # share of the height that the rest gets then


def state_counts(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Draw the score that decides against the number of phases, a line per family.

    That is the log density of held-out runs, or of later rows where the runs are too few. The bars
    are one paired standard error of the difference from the best model: what the choice goes by.
    Models so far below the best that the others could not be told apart any more are drawn on a
    compressed scale, in the shaded part.

    Parameters
    ----------
    comparison : Comparison
        Its ``table``, ``score`` and ``best_key`` are drawn.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    table, score = comparison.table.sort_index(), comparison.score
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    errors = table["diff_se"].fillna(0.0)
    curves = [
        ax.errorbar(
            rows.index.get_level_values(1),
            rows[score],
            yerr=errors[rows.index],
            label=str(emission),
            color=colour,
            marker=marker,
            linestyle=line,
            markersize=5,
            capsize=3,
        )
        for (emission, rows), (colour, marker, line) in zip(
            table.groupby(level=0), cycle(_FAMILY_STYLES), strict=False
        )
    ]
    family, states = comparison.best_key
    ax.axvline(states, color=MUTED, linewidth=0.8, linestyle=":", zorder=0)
    own = table[score].xs(family, level=0)
    ring = ax.scatter(states, own[states], s=170, facecolors="none", edgecolors=INK, zorder=3)
    ring.set_label(f"chosen: {states} phases")
    _compress(ax, table[score], errors, own)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    what, bars = _LABELS[score]
    ax.set_xlabel("number of phases" + bars)
    ax.set_ylabel(f"{what}\n(nats per row)")
    ax.legend(
        handles=[*curves, ring],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=1 if max(len(str(curve.get_label())) for curve in curves) > 30 else 2,
        frameon=False,
    )
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _compress(
    ax: Axes, scores: pd.Series[float], errors: pd.Series[float], own: pd.Series[float]
) -> None:
    """Give the models near the best most of the height, if others lie far below them.

    The scale is linear in two pieces; the lower one is shaded and says that it is compressed.
    """
    best = scores.max()
    near = scores >= best - _INTERESTING * (best - own.median())
    bottom, top = (scores - errors)[near].min(), (scores + errors)[near].max()
    margin = 0.12 * (top - bottom)
    least, bend, most = scores.min(), bottom - margin, top + margin
    if not (bottom < top and bend - least > _COMPRESS * (most - bend)):
        return
    least -= 0.2 * (bend - least)
    scores_at, heights = [least, bend, most], [0.0, _COMPRESSED, 1.0]
    ax.set_yscale(
        "function",
        functions=(
            lambda y: _piecewise(y, scores_at, heights),
            lambda height: _piecewise(height, heights, scores_at),
        ),
    )
    ax.set_ylim(least, most)
    above = np.asarray(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(bend, most))
    below = np.asarray(MaxNLocator(3, steps=[1, 2, 5, 10]).tick_values(least, bend))
    apart = (below > least) & (below < bend - 0.2 * (bend - least))
    ax.yaxis.set_major_locator(FixedLocator([*below[apart], *above[above > bend]]))
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    ax.axhspan(least, bend, color="#F1F1F1", linewidth=0, zorder=-1)
    ax.text(
        *(0.99, 0.02, "compressed scale"),
        transform=ax.transAxes,
        ha="right",
        va="bottom",
        fontsize="small",
        color=MUTED,
    )


def _piecewise(
    x: NDArray[np.float64], knots: list[float], values: list[float]
) -> NDArray[np.float64]:
    """Linear interpolation between three knots, continued beyond them."""
    x = np.asarray(x, dtype=np.float64)
    slopes = np.diff(values) / np.diff(knots)
    return values[1] + (x - knots[1]) * np.where(x < knots[1], slopes[0], slopes[1])
