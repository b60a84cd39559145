"""What each phase is: level and drift of the metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bayeshmm.attribution.profiles import phase_profiles
from bayeshmm.phases import modal_path
from bayeshmm.phases.visits import visits_by_run
from bayeshmm.plots.style import FAINT, INK, MUTED, phase_colours
from bayeshmm.tidy import chosen

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior


def profiles(
    posterior: Posterior,
    metrics: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    level: float = 0.9,
) -> Axes | NDArray[np.object_]:
    """Draw what each phase is: where every metric lies in it, and where it goes.

    A point with a bar is the posterior median and interval of `Posterior.profiles`: the mean of
    the metric over the rows of the phase, and the drift of its law (of the metric's logarithm where
    that is modelled). Ticks are the means of single
    runs, of those rows that are most probably in the phase.

    Parameters
    ----------
    posterior : Posterior
        A fitted model.
    metrics : str or sequence of str, optional
        What to draw; default: all metrics that the model sees.
    ax : Axes, optional
        Where to draw a single metric: its levels alone.
    level : float
        Probability inside the intervals.

    Returns
    -------
    Axes or ndarray of Axes
        Of the levels: for one metric its Axes, for several an array of these. Drifts, which a
        model of levels has not, are in ``.figure.axes``.

    Raises
    ------
    ValueError
        If a metric is unknown or the model does not see it, or `ax` is given for several.
    """
    names = chosen("metric", posterior.metrics if metrics is None else metrics, posterior.metrics)
    if ax is not None and len(names) > 1:
        raise ValueError(f"ax holds one metric, not {len(names)}; choose one, or leave out ax")
    K, dynamic = posterior.states, posterior.hmm.dynamic
    table = phase_profiles(posterior, level).set_index("metric")
    steps = _typical_steps(posterior)
    scales = {"level": 1, "drift": steps} if dynamic and ax is None else {"level": 1}
    of_runs, colours = _of_runs(posterior), phase_colours(posterior.palette)
    if ax is None:
        grid = _grid(len(names), len(scales), K)
        grid[0, 0].figure.legend(
            handles=_marks(level), loc="outside upper center", ncols=2, frameon=False
        )
    else:
        grid = np.array([[ax]], dtype=object)
    captions = ["mean in the phase", f"drift per {steps:,} steps"]
    abreast = grid[0, 0].get_gridspec().ncols // len(scales) if ax is None else 1
    for i, (name, panels) in enumerate(zip(names, grid, strict=True)):
        for (quantity, scale), panel, caption in zip(
            scales.items(), panels, captions, strict=False
        ):
            columns = [quantity, f"{quantity}_lower", f"{quantity}_upper"]
            intervals = table.loc[[name], columns].to_numpy() * scale
            _draw(panel, intervals, of_runs[quantity][name] * scale, colours)
            if i + abreast >= len(names):  # nothing is below
                panel.set_xlabel(caption, fontsize="small")
        if len(scales) > 1:
            panels[1].axvline(0.0, color=FAINT, lw=0.8, zorder=0)
            if name in posterior.encoding.scaling.floors:
                panels[1].set_title("of its log", loc="right", fontsize="small", color=MUTED)
        if ax is not None or panels[0].get_subplotspec().is_first_col():
            panels[0].set_yticks(range(K), posterior.state_names)
        panels[0].set_title(name, loc="left", fontsize="medium")
    return grid[0, 0] if len(names) == 1 else grid[:, 0]


def _marks(level: float) -> list[Line2D]:
    """Legend handles."""
    interval = Line2D([], [], color=INK, marker="o", ms=5, mec="white", mew=0.6, lw=2.2)
    interval.set_label(f"posterior median and {level:.0%} interval")
    return [interval, Line2D([], [], color=INK, marker="|", ms=7, ls="", label="single runs")]


def _draw(
    panel: Axes,
    intervals: NDArray[np.float64],
    of_runs: pd.Series[float],
    colours: Sequence[str],
) -> None:
    """Intervals (K, 3) and, by state, the values of single runs; phases from top to bottom."""
    for k, (colour, (median, lower, upper)) in enumerate(zip(colours, intervals, strict=True)):
        runs = of_runs[of_runs.index.get_level_values("state") == k]
        panel.plot(runs, [k] * len(runs), "|", color=colour, ms=7, alpha=0.45, zorder=1)
        panel.plot([lower, upper], [k, k], color=colour, lw=2.2, zorder=2)
        panel.plot(median, k, "o", color=colour, ms=5, mec="white", mew=0.6, zorder=3)
    panel.set(ylim=(len(colours) - 0.4, -0.6), yticks=[])
    panel.margins(x=0.08)
    panel.xaxis.set_major_locator(MaxNLocator(3))
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:.4g}")
    panel.tick_params(labelsize="small")
    panel.spines[["top", "right"]].set_visible(False)


def _of_runs(posterior: Posterior) -> dict[str, pd.DataFrame]:
    """Mean level and mean increment a step of every run, by (run, state), in its modal path."""
    runs, scaling = posterior.runs, posterior.encoding.scaling
    run, row = np.nonzero(runs.steps >= 0)
    keys = [
        pd.Series(run, name="run"),
        pd.Series(modal_path(posterior.paths)[run, row], name="state"),
    ]
    values = pd.DataFrame(scaling.logged(runs)[run, row], columns=list(runs.metrics))
    steps = pd.Series(runs.steps[run, row]).groupby(run).diff()
    drifts = values.groupby(run).diff().div(steps, axis=0)
    levels = values.groupby(keys).mean()
    levels[:] = scaling.unlogged(levels.to_numpy())
    return {"level": levels, "drift": drifts.groupby(keys).mean()}


def _typical_steps(posterior: Posterior) -> int:
    """The power of ten below the median length of a visit, in training steps."""
    spans = []
    for visits, steps in zip(
        visits_by_run(posterior.paths[:1].astype(np.int64)), posterior.runs.steps, strict=True
    ):
        ends = np.append(steps[visits.row[1:]], steps.max())
        spans.extend(ends - steps[visits.row])
    return 10 ** max(0, math.floor(math.log10(max(float(np.median(spans)), 1.0))))


def _grid(metrics: int, panels: int, states: int) -> NDArray[np.object_]:
    """Axes of shape (metrics, panels), the panels of a metric side by side."""
    abreast = min(metrics, 4) // panels if metrics > 3 else 1
    rows = -(-metrics // abreast)
    figure = plt.figure(figsize=(8.0, 0.6 + rows * (0.55 + 0.17 * states)), layout="constrained")
    grid = figure.subplots(rows, abreast * panels, squeeze=False)
    grid = grid.reshape(rows * abreast, panels)
    for surplus in grid[metrics:].ravel():
        surplus.remove()
    return grid[:metrics]
