"""Metrics of single runs, coloured by phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from bayeshmm.phases import modal_path
from bayeshmm.plots.style import INK, phase_colours, phase_hatches, phase_patches
from bayeshmm.tidy import chosen

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior
    from bayeshmm.runs import Runs

_LINE_STYLES = ("-", (0, (3, 1.2)), (0, (1, 1)), (0, (5, 1.2, 1, 1.2)))
_STRIP_INCHES = 0.28


def phases(
    posterior: Posterior,
    run: str | Sequence[str] | None = None,
    metrics: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    level: float = 0.9,
) -> Axes | NDArray[np.object_]:
    """Draw the metrics of runs over training steps, coloured by phase.

    Lines and background have the colour of the most probable phase. Each change of phase that is
    more probable than not is a vertical line at its posterior median, in a band over its interval.
    The strip below each run stacks the smoothed probabilities of the phases.

    Parameters
    ----------
    posterior : Posterior
        A fitted model.
    run : name or sequence of names, optional
        The runs to draw; default: a run for each of the (at most four) most common routes, a route
        being the order in which a run's most probable phases follow each other.
    metrics : str or sequence of str, optional
        What to draw; default: the metrics whose names end in ``loss``, ``acc`` or ``accuracy``, or
        else the first two. Losses share a panel on a log scale, accuracies one on a linear scale;
        any other metric has its own.
    ax : Axes, optional
        Where to draw a single run; a second scale goes on its right-hand side. The strip takes the
        space just below, so the figure should have a constrained layout.
    level : float
        Probability inside the intervals of the changes.

    Returns
    -------
    Axes or ndarray of Axes
        For one run its Axes (of the topmost panel; the others are in ``.figure.axes``); for several
        an array of these, one per run.

    Raises
    ------
    ValueError
        If a run or a metric is unknown, or `ax` cannot hold what is asked for.
    """
    names = _representative(posterior) if run is None else chosen("run", run, posterior.runs.names)
    scales = _by_scale(posterior.runs, metrics)
    if ax is None:
        grid = _grid(len(names), len(scales))
    else:
        names = names[:1] if run is None else names
        if len(names) > 1 or len(scales) > 2:
            raise ValueError(
                f"ax holds one run and two scales, not {len(names)} and {len(scales)} "
                f"({', '.join(scales)}); choose fewer, or leave out ax"
            )
        grid = np.array([[ax] if len(scales) == 1 else [ax, ax.twinx()]], dtype=object)

    state_names = posterior.state_names
    runs = posterior.runs.subset(names)
    smoothed, changes = posterior.smooth(runs).to_numpy(), posterior.transition_times(level, runs)
    for n, (name, panels) in enumerate(zip(names, grid, strict=True)):
        rows = slice(runs.lengths[n])
        likely = changes[(changes["run"] == name) & (changes["probability"] > 0.5)]
        view = _Run(runs.steps[n, rows], smoothed[n, rows], likely, posterior.palette)
        lines: list[Line2D] = []
        for panel, (scale, members) in zip(panels, scales.items(), strict=True):
            values = {m: runs.column(m)[n, rows] for m in members}
            lines += _draw_metrics(
                panel, view, scale, values, start=0 if ax is None else len(lines)
            )
            if ax is None:
                _draw_phases(panel, view, state_names)
                if name == names[0]:
                    panel.legend(handles=lines[-len(members) :], loc="best")
        panels[0].set_title(str(name), loc="left", fontweight="bold")
        bottom = panels[-1] if ax is None else ax
        _draw_strip(bottom, view)
        bottom.set_xlabel("training steps")

    change = Patch(color=INK, alpha=0.35, lw=0, label=f"change, {level:.0%} interval")
    patches = [*phase_patches(state_names, posterior.palette), change]
    if ax is None:
        columns = min(len(patches), 5)
        grid[0, 0].figure.legend(
            handles=patches, loc="outside upper center", ncols=columns, frameon=False
        )
    else:
        _draw_phases(ax, view, state_names)
        right = (1.02 if len(scales) == 1 else 1.12, 1.0)
        ax.legend(handles=[*patches, *lines], loc="upper left", bbox_to_anchor=right, frameon=False)
    return grid[0, 0] if len(names) == 1 else grid[:, 0]


class _Run(NamedTuple):
    """What is known of the phases of one run, without padding."""

    steps: NDArray[np.int64]  # (T,)
    probabilities: NDArray[np.float64]  # (T, K)
    changes: pd.DataFrame  # rows of `transition_times` that are more probable than not
    palette: tuple[int, ...]


def _draw_metrics(
    panel: Axes, run: _Run, scale: str, values: dict[str, NDArray[np.float64]], start: int
) -> list[Line2D]:
    """Lines in the colours of the phases; returns the legend handles of the metrics."""
    colours = phase_colours(run.palette)
    handles = []
    for style, (metric, column) in zip(
        _LINE_STYLES[start:] * len(values), values.items(), strict=False
    ):
        present = np.flatnonzero(np.isfinite(column))
        phase = run.probabilities[present].argmax(axis=1)
        for k, first, last in _segments(phase):
            part = present[first : last + 2]  # one point more, which joins the segments
            panel.plot(run.steps[part], column[part], color=colours[k], ls=style, lw=1.6, zorder=3)
        handles.append(Line2D([], [], color=INK, ls=style, lw=1.6, label=metric))
    panel.set_ylabel(scale)
    everything = np.concatenate(list(values.values()))
    if scale == "loss" and np.nanmin(everything) >= 0 and np.nanmax(everything) > 0:
        panel.set_yscale("log", nonpositive="mask")
        panel.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        panel.yaxis.set_minor_formatter(lambda y, _: _between_decades(panel, y))
    panel.set_xlim(run.steps[0], run.steps[-1])
    panel.margins(y=0.08)
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.spines[["top", "right"]].set_visible(False)
    return handles


def _between_decades(panel: Axes, y: float) -> str:
    """Label of a minor tick: none on an axis of many decades, all on one of half a decade."""
    low, high = panel.get_ylim()
    labelled = high < 4 * low or (high < 50 * low and f"{y:e}"[0] in "235")
    return f"{y:g}" if labelled else ""


def _draw_phases(panel: Axes, run: _Run, state_names: Sequence[str]) -> None:
    """Background of the most probable phases, and the interval of every change."""
    colours = phase_colours(run.palette)
    ends = np.append(run.steps[1:], run.steps[-1])
    for k, first, last in _segments(run.probabilities.argmax(axis=1)):
        panel.axvspan(run.steps[first], ends[last], color=colours[k], alpha=0.13, lw=0, zorder=0)
    for change in run.changes.to_dict("records"):
        colour = colours[state_names.index(change["target"])]
        panel.axvspan(change["lower"], change["upper"], color=colour, alpha=0.35, lw=0, zorder=1)
        panel.axvline(change["median"], color=INK, lw=0.8, ls=(0, (4, 3)), zorder=2)


def _draw_strip(panel: Axes, run: _Run) -> None:
    """Stacked probabilities between the panel and its axis, which moves down to make room."""
    height = _STRIP_INCHES / (panel.get_window_extent().height / panel.figure.dpi)
    strip = panel.inset_axes((0, -1.2 * height, 1, height), sharex=panel)
    colours = phase_colours(run.palette)
    for area, hatch in zip(
        strip.stackplot(run.steps, run.probabilities.T, colors=colours, step="post", lw=0),
        phase_hatches(run.palette),
        strict=True,
    ):
        area.set_hatch(hatch)
    strip.set(ylim=(0, 1), yticks=[])
    strip.set_ylabel("P(phase)", rotation=0, ha="right", va="center", fontsize="small")
    strip.tick_params(bottom=False, labelbottom=False)
    strip.spines[:].set_visible(False)
    panel.spines["bottom"].set_position(("axes", -1.3 * height))


def _segments(phase: NDArray[np.int64]) -> Iterable[tuple[int, int, int]]:
    """Stretches of equal phase: (phase, first, last) position."""
    starts = np.flatnonzero(np.diff(phase, prepend=-1))
    for first, after in zip(starts, np.append(starts[1:], len(phase)), strict=True):
        yield int(phase[first]), int(first), int(after) - 1


def _grid(runs: int, scales: int) -> NDArray[np.object_]:
    """Make Axes of shape (runs, scales): scales of a run above each other, runs two abreast."""
    columns = min(runs, 2)
    rows = -(-runs // columns)
    size = (8.0, rows * (1.0 + (2.0 if columns == 1 else 1.5) * scales) + 0.4)
    figure = plt.figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows * scales, columns, squeeze=False)
    axes = axes.reshape(rows, scales, columns).swapaxes(1, 2).reshape(-1, scales)
    for surplus in axes[runs:].ravel():
        surplus.remove()
    for panels in axes[:runs]:
        for panel, first in zip(panels, axes[0], strict=True):
            if panel is not first:
                panel.sharey(first)
        for panel in panels[:-1]:
            panel.sharex(panels[-1])
            panel.tick_params(labelbottom=False)
    return axes[:runs]


def _representative(posterior: Posterior) -> list[str]:
    """Name the first run of each of the most common routes, most common first."""
    routes = [
        tuple(k for k, _ in groupby(path[path >= 0].tolist()))
        for path in modal_path(posterior.paths)
    ]
    return [posterior.runs.names[routes.index(r)] for r, _ in Counter(routes).most_common(4)]


def _by_scale(runs: Runs, metrics: str | Sequence[str] | None) -> dict[str, list[str]]:
    """Metrics grouped by the scale that they share, named as on the axis."""
    if metrics is None:
        metrics = [m for m in runs.columns if _scale(m) != m] or runs.metrics[:2]
    scales: dict[str, list[str]] = {}
    for metric in chosen("metric", metrics, runs.columns):
        scales.setdefault(_scale(metric), []).append(metric)
    return scales


def _scale(metric: str) -> str:
    name = metric.lower()
    if name.endswith("loss"):
        return "loss"
    return "accuracy" if name.endswith(("acc", "accuracy")) else metric
