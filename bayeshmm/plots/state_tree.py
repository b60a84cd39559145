"""How phases split and merge as their number grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from numpy.typing import NDArray

from bayeshmm.aligned import align, runs_of_both, shared_rows
from bayeshmm.alignment import display_order, most_probable, overlap, phase_numbers
from bayeshmm.plots.style import INK, phase_colours, phase_hatches, phase_patches

if TYPE_CHECKING:
    from bayeshmm.comparison import Comparison
    from bayeshmm.posterior import Posterior

Array = NDArray[np.float64]

_BOX, _GAP = 0.44, 0.02  # width of a box, of the distance of columns; gap, of a column's height
_TEXT_SIZE, _WIDEST, _ENTRY = (
    7.0,
    18.0,
    80.0,
)  # points: of shares; width of "23%", of a legend's entry
_FEWEST = 0.004  # share of rows below which a flow is left out


def state_tree(
    source: Comparison | Sequence[Posterior] | Mapping[object, Posterior],
    emission: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw which phases become which as their number grows.

    A column for each number of phases, a box for each phase, as high as its share of the rows, the
    phase that is visited first on top. Bands join the phases of neighbouring columns that claim the
    same rows, and have the colour of the phase on their left. A phase that two numbers have in
    common has one colour in both: of the parts of a split, the largest keeps it.

    Parameters
    ----------
    source : Comparison, or sequence or mapping of Posterior
        The modes of a comparison, one family of it: nothing is drawn from their posteriors. Its
        best posterior has the same colours. Or posteriors, aligned to the first; string keys of a
        mapping are written below the columns.
    emission : str, optional
        Which family of the comparison; default: the chosen one.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the family was not compared, or the posteriors are not of the same runs.
    """
    if isinstance(source, Mapping | Sequence):
        if emission is not None:
            raise ValueError("emission= is for a comparison: give the posteriors of one family.")
        columns, flows = _of_posteriors(source)
    else:
        columns, flows = _of_comparison(source, emission)
    if ax is None:
        width = float(np.clip(1.0 + 0.9 * len(columns), 4.0, 8.0))
        _, ax = plt.subplots(figsize=(width, 4.2), layout="constrained")
    highest = 1.0 + _GAP * max(len(column.shares) - 1 for column in columns)
    ax.set(xlim=(-_BOX, len(columns) - 1 + _BOX), ylim=(-highest / 2, highest / 2), yticks=[])
    ax.set(xlabel="number of phases", ylabel="share of rows")
    ax.set_xticks(range(len(columns)), [column.label for column in columns])
    ax.tick_params(bottom=False)
    ax.spines[:].set_visible(False)
    figure = ax.figure.canvas.figure
    names = dict(sorted({pair for column in columns for pair in column.phases}))
    ax.legend(
        handles=phase_patches(list(names.values()), names),
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=int(np.clip(_points(ax)[0] // _ENTRY, 1, len(names))),
        frameon=False,
        fontsize="small",
    )
    figure.draw_without_rendering()  # lets a layout engine settle the size
    width, height = _points(ax) / (len(columns) - 1 + 2 * _BOX, highest)
    for x, (left, right, shared) in enumerate(zip(columns, columns[1:], flows, strict=False)):
        _draw_flows(ax, x, left, right, shared)
    for x, column in enumerate(columns):
        _draw_boxes(ax, x, column, height if width * _BOX > _WIDEST else 0.0)
    return ax


class _Column(NamedTuple):
    """The phases of one fit, from top to bottom."""

    label: str
    shares: Array  # of rows, (K,)
    phases: list[tuple[int, str]]  # number of the colour, and name

    @property
    def tops(self) -> Array:
        """Upper edges of the boxes, the whole column centred at 0."""
        height = self.shares.sum() + _GAP * (len(self.shares) - 1)
        above = np.concatenate([[0.0], np.cumsum(self.shares + _GAP)[:-1]])
        return height / 2 - above


def _of_comparison(
    comparison: Comparison, emission: str | None
) -> tuple[list[_Column], list[Array]]:
    """Columns of one family's modes, and the shares of rows that neighbouring phases share."""
    best, chosen = comparison.best_key
    emission = best if emission is None else emission
    counts = sorted(K for family, K in comparison.table.index if family == emission)
    if not counts:
        families = list(dict.fromkeys(family for family, _ in comparison.table.index))
        raise ValueError(f"{emission!r} was not compared: the families are {families}.")
    hot = [most_probable(comparison.states_of((emission, K))) for K in counts]
    reference = counts.index(chosen) if emission == best else 0
    numbers = phase_numbers(counts, lambda i, j: overlap(hot[i], hot[j]), reference)
    total = hot[0].sum()
    columns = [
        _Column(
            f"{K}\nchosen" if (emission, K) == comparison.best_key else str(K),
            states.sum((0, 1)) / total,
            [(k, f"phase {k}") for k in number.tolist()],
        )
        for K, states, number in zip(counts, hot, numbers, strict=True)
    ]
    return columns, [overlap(*pair) / total for pair in pairwise(hot)]


def _of_posteriors(
    posteriors: Sequence[Posterior] | Mapping[object, Posterior],
) -> tuple[list[_Column], list[Array]]:
    """The same of posteriors, once they are aligned."""
    keys = list(posteriors) if isinstance(posteriors, Mapping) else [None] * len(posteriors)
    fits = list(posteriors.values() if isinstance(posteriors, Mapping) else posteriors)
    runs = [runs_of_both(fits[0].runs, one.runs) for one in fits]
    if not fits or runs != [list(one.runs.names) for one in fits]:
        raise ValueError("the tree is of posteriors of the same runs, and at least one.")
    fits = align(fits)
    orders = [display_order(one.paths, one.states) for one in fits]
    columns = []
    for key, one, order in zip(keys, fits, orders, strict=True):
        rows = np.diag(shared_rows(one, one))[order]
        phases = list(zip(one.palette, one.state_names, strict=True))
        label = f"{one.states}\n{key}" if isinstance(key, str) else str(one.states)
        columns.append(_Column(label, rows / rows.sum(), [phases[k] for k in order]))
    flows = [shared_rows(one, other) for one, other in pairwise(fits)]
    return columns, [
        rows[np.ix_(*pair)] / rows.sum() for rows, pair in zip(flows, pairwise(orders), strict=True)
    ]


def _points(ax: Axes) -> Array:
    """Width and height of the Axes in points."""
    room = ax.get_window_extent()
    return np.array([room.width, room.height]) * 72 / ax.figure.dpi


def _draw_flows(ax: Axes, x: int, left: _Column, right: _Column, shared: Array) -> None:
    """Bands from the boxes at x to those at x + 1; `shared` are shares of rows, (K, L)."""
    tops = (
        left.tops[:, None] - np.cumsum(shared, 1) + shared,
        right.tops - np.cumsum(shared, 0) + shared,
    )
    ends = x + _BOX / 2, x + 0.5, x + 1 - _BOX / 2
    colours = phase_colours(number for number, _ in left.phases)
    for k, j in np.argwhere(shared > _FEWEST):
        (start, end), height = (edge[k, j] for edge in tops), shared[k, j]
        there = [(ends[0], start), (ends[1], start), (ends[1], end), (ends[2], end)]
        back = [(place, y - height) for place, y in reversed(there)]
        curve = [Path.CURVE4] * 3
        band = Path([*there, *back], [Path.MOVETO, *curve, Path.LINETO, *curve])
        ax.add_patch(PathPatch(band, facecolor=colours[k], alpha=0.35, linewidth=0, zorder=1))


def _draw_boxes(ax: Axes, x: int, column: _Column, points: float) -> None:
    """A box for each phase, with its share where there is room: all rows are `points` high."""
    palette = [number for number, _ in column.phases]
    for top, share, colour, hatch in zip(
        column.tops, column.shares, phase_colours(palette), phase_hatches(palette), strict=True
    ):
        box = Rectangle((x - _BOX / 2, top - share), _BOX, share)
        box.set(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0, zorder=2)
        ax.add_patch(box)
        if share * points > 1.2 * _TEXT_SIZE:
            dark = np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) < 0.5
            text = ax.text(x, top - share / 2, f"{share:.0%}", ha="center", va="center", zorder=3)
            text.set(color="white" if dark else INK, fontsize=_TEXT_SIZE)
