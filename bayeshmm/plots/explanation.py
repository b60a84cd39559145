"""What changes at a change: the metrics of all runs around it, with what each says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from bayeshmm import defaults
from bayeshmm.attribution.explanation import explain_transition
from bayeshmm.plots.style import FAINT, INK, MUTED, phase_colours
from bayeshmm.tidy import chosen

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

SHOWN = 6
"""Metrics that are drawn by default."""

AROUND = 3
"""Rows that are drawn on each side of a change, in windows."""


def explanation(
    posterior: Posterior,
    source: int | str,
    target: int | str,
    metrics: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    level: float = 0.9,
    window: int = defaults.MINIMUM_DWELL,
) -> Axes | NDArray[np.object_]:
    """Draw the metrics of all runs around a change from one phase to another.

    Runs lie on top of each other, each placed by the median of its change, in the colours of the
    two phases; the dark line is their median. Above each metric stands the share of the evidence
    for the change that it carries, with its interval: see `Posterior.explain_transition`. The rows
    that the evidence is of are shaded.

    Parameters
    ----------
    posterior : Posterior
        A fitted model.
    source, target : int or str
        The phases, by number or name.
    metrics : str or sequence of str, optional
        What to draw; default: the (at most six) metrics with the largest shares.
    ax : Axes, optional
        Where to draw a single metric; default: that with the largest share.
    level, window
        As in `Posterior.explain_transition`.

    Returns
    -------
    Axes or ndarray of Axes
        For one metric its Axes, for several an array of these.

    Raises
    ------
    ValueError
        If no run makes the change, a metric is unknown, or `ax` is given for several.
    """
    table = explain_transition(posterior, source, target, level=level, window=window)
    home = table.set_index("metric")["group"]
    ranked = [metric for metric in home.index if metric in posterior.metrics]
    default = ranked[: SHOWN if ax is None else 1]
    names = chosen("metric", default if metrics is None else metrics, posterior.metrics)
    if ax is not None and len(names) > 1:
        raise ValueError(f"ax holds one metric, not {len(names)}; choose one, or leave out ax")
    ends = [table.attrs["source"], table.attrs["target"]]
    colours = [phase_colours(posterior.palette)[posterior.state_names.index(end)] for end in ends]
    rows = _around(posterior, ends[0], ends[1], AROUND * window)
    shaded = rows.loc[rows["row"] == window, "step"].median()
    parts = table.dropna(subset="share").set_index("group")
    panels = _grid(len(names)) if ax is None else np.array([ax], dtype=object)
    for name, panel in zip(names, panels, strict=True):
        for side, colour in zip((rows["row"] <= 0, rows["row"] >= 0), colours, strict=True):
            for _, line in rows[side].groupby("change"):
                panel.plot(line["step"], line[name], color=colour, lw=0.8, alpha=0.5, zorder=1)
        middle = rows.groupby("row")[["step", name]].median()
        panel.plot(middle["step"], middle[name], color=INK, lw=1.5, zorder=2)
        panel.axvspan(0, shaded, color=FAINT, alpha=0.2, lw=0, zorder=0)
        part = parts.loc[home[name]]
        share = f"{part['share']:.0%} ({part['share_lower']:.0%} to {part['share_upper']:.0%})"
        alike = "" if home[name] == name else ", with others"
        panel.set_title(name, loc="left", fontsize="medium")
        panel.set_title(share + alike, loc="right", fontsize="small", color=MUTED)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.margins(x=0)
        panel.tick_params(labelsize="small")
        panel.spines[["top", "right"]].set_visible(False)
        if ax is not None or panel in panels[-2:]:
            panel.set_xlabel("training steps from the change", fontsize="small")
    if ax is None:
        _legend(panels[0].figure, ends, colours)
    return panels[0] if len(names) == 1 else panels


def _around(posterior: Posterior, source: str, target: str, reach: int) -> pd.DataFrame:
    """All metrics around every change more probable than not: a row per ``change`` and ``row``."""
    runs, table = posterior.runs, posterior.transition_times()
    made = table.query("source == @source and target == @target and probability > 0.5")
    parts = []
    for change, (name, step) in enumerate(zip(made["run"], made["median"], strict=True)):
        n = runs.names.index(name)
        row = int((runs.steps[n] == step).argmax())
        some = slice(max(row - reach, 0), min(row + reach + 1, int(runs.lengths[n])))
        part = pd.DataFrame(runs.values[n, some], columns=list(runs.metrics))
        part.insert(0, "step", runs.steps[n, some] - int(step))
        part.insert(0, "row", np.arange(some.start, some.stop) - row)
        part.insert(0, "change", change)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _legend(figure: Figure | SubFigure, ends: Sequence[str], colours: Sequence[str]) -> None:
    handles = [
        *(
            Line2D([], [], color=colour, label=end)
            for end, colour in zip(ends, colours, strict=True)
        ),
        Line2D([], [], color=INK, label="median run"),
        Patch(color=FAINT, alpha=0.2, label="rows of the evidence"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)


def _grid(metrics: int) -> NDArray[np.object_]:
    """Axes of a new figure, two abreast."""
    columns = min(metrics, 2)
    rows = -(-metrics // columns)
    figure = plt.figure(figsize=(8.0, 0.5 + 1.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for surplus in axes[metrics:]:
        surplus.remove()
    return axes[:metrics]
