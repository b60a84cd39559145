"""What a model believes before it has seen any run."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from bayeshmm.plots.style import FAINT, INK, MUTED, phase_colours, phase_patches
from bayeshmm.prior_draws import PriorDraws, prior_draws

if TYPE_CHECKING:
    from bayeshmm.hmm import HMM

Array = NDArray[np.float64]
Limits = tuple[float, float]

_DRAWS = 1000
_SHOWN = 6  # runs that are drawn as lines
_FARTHEST = 1e6  # what lies beyond is counted, not drawn
_BANDS = ((0.05, "90 % of them", 0.25), (0.25, "half of them", 0.6))


def prior_predictive(
    hmm: HMM, rows: int = 200, runs: int = 100, seed: int = 0, ax: Axes | None = None
) -> Axes:
    """Draw what a model believes before it has seen any run.

    Above, one metric of simulated runs, each from parameters of its own: bands hold half and nine
    tenths of the runs in each row, and a few runs are drawn, coloured by phase, until they leave
    the picture (a cross). Below, what the priors say of a phase: its noise, its coefficients and
    run effects, how long a visit to it lasts, and the degrees of freedom of its noise.

    Values are in the units that a model gives to a metric: its increments (`Autoregressive`; here
    its levels too) have a root mean square of one, or its values a standard deviation of one
    (`Gaussian`).

    Parameters
    ----------
    hmm : HMM
        The model. Its minimum and expected dwell are those for runs with a row a step.
    rows : int
        Length of the simulated runs.
    runs : int
        Their number.
    seed : int
        Same seed, same picture.
    ax : Axes, optional
        Where to draw the simulated runs alone; default: a new figure of everything.

    Returns
    -------
    Axes
        Of the simulated runs; the others are in ``.figure.axes``.

    Raises
    ------
    ValueError
        If the emission is a user's own, or `rows` or `runs` is less than 2.
    """
    if rows < 2 or runs < 2:
        raise ValueError(f"rows and runs must be at least 2, not {rows} and {runs}.")
    drawn = prior_draws(hmm, rows, runs, max(runs, _DRAWS), seed)
    unit = "rms increments" if hmm.family.dynamic else "pooled sd"
    if ax is not None:
        _draw_runs(ax, drawn, unit)
        return ax
    laws = _laws(drawn, unit, "coefficient" if hmm.family.dynamic else "level")
    figure = plt.figure(figsize=(9.0, 5.4), layout="constrained")
    grid = figure.add_gridspec(2, len(laws), height_ratios=(1.6, 1.0))
    ax = figure.add_subplot(grid[0, :])
    _draw_runs(ax, drawn, unit)
    for place, (name, (values, limits)) in enumerate(laws.items()):
        panel = figure.add_subplot(grid[1, place])
        panel.set_title(name, fontsize="small")
        _draw_law(panel, values, limits)
    phases = "1 phase" if hmm.states == 1 else f"{hmm.states} phases"
    title = textwrap.fill(f"Before any run is seen: {phases}, {hmm.family!r}", 110)
    figure.suptitle(title, fontsize="small", color=MUTED)
    below = "below each: median (90 % interval) over draws of the parameters"
    figure.supxlabel(below, fontsize="small", color=MUTED)
    return ax


def _draw_runs(ax: Axes, drawn: PriorDraws, unit: str) -> None:
    """Bands over all simulated runs, and the first of them as lines."""
    K = drawn.noise.shape[1]
    row = np.arange(drawn.values.shape[1])
    values = np.clip(drawn.values, -1e3 * _FARTHEST, 1e3 * _FARTHEST)
    largest = np.quantile(abs(values), 0.95, axis=0).max()
    decades = int(np.ceil(np.log10(np.clip(largest, 10.0, _FARTHEST))))
    limit = 10.0**decades
    handles = []
    for tail, label, alpha in _BANDS:
        low, high = np.quantile(values, [tail, 1 - tail], axis=0)
        ax.fill_between(row, low, high, color=FAINT, alpha=alpha, lw=0)
        handles.append(Patch(color=FAINT, alpha=alpha, lw=0, label=label))
    colours = np.array(phase_colours(K))
    for line, path in zip(values[:_SHOWN], drawn.paths, strict=False):
        inside = np.logical_and.accumulate(abs(line) <= limit)
        last = min(int(inside.sum()), len(row) - 1)  # the first point outside, if there is one
        points = np.stack([row, np.clip(line, -limit, limit)], -1)[: last + 1]
        pairs = np.stack([points[:-1], points[1:]], 1)
        ax.add_collection(LineCollection(list(pairs), colors=colours[path[1:]], linewidths=1.3))
        if not inside.all():
            ax.plot(*points[-1], "x", color=colours[path[last]], clip_on=False)
    ax.set_yscale("symlog", linthresh=1.0, linscale=0.5)
    powers = 10.0 ** (np.arange(decades, -1, -1) if decades < 4 else np.arange(decades, 0, -2))
    ax.set_yticks([*-powers, 0.0, *powers[::-1]])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set(xlim=(0, row[-1]), ylim=(-limit, limit), xlabel="rows")
    ax.set_ylabel(f"a metric, in {unit}")
    ax.spines[["top", "right"]].set_visible(False)
    left = (abs(values).max(axis=1) > limit).mean()
    leave = f",\n{left:.0%} of which leave\nthe picture" if left > 0 else ""
    ax.legend(
        handles=[*handles, *phase_patches([f"phase {k}" for k in range(K)])],
        title=f"{len(values)} simulated runs{leave}",
        alignment="left",
        fontsize="small",
        title_fontsize="small",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
    )


def _laws(drawn: PriorDraws, unit: str, coefficient: str) -> dict[str, tuple[Array, Limits]]:
    """What to draw the laws of, with the limits of the axis, by title."""
    laws = {
        f"noise of a phase\n({unit})": (drawn.noise, (1e-2, 1e2)),
        f"size of a {coefficient}\n(over the noise)": (abs(drawn.coefficients), (1e-3, 1e3)),
    }
    if drawn.run_effects is not None:
        laws["size of a run effect\n(over the noise)"] = (abs(drawn.run_effects), (1e-3, 1e3))
    if np.isfinite(drawn.visits).any():
        laws["length of a visit\n(rows)"] = (drawn.visits, (1.0, 100.0 * drawn.values.shape[1]))
    if drawn.degrees is not None:
        laws["degrees of freedom\n(of the noise)"] = (drawn.degrees, (1.0, 200.0))
    return laws


def _draw_law(panel: Axes, values: Array, limits: Limits) -> None:
    """Histogram on a log axis, whose outer bars hold what lies beyond."""
    panel.hist(
        np.clip(values, *limits).ravel(),
        list(np.geomspace(*limits, 31)),
        histtype="stepfilled",
        color=FAINT,
        alpha=0.6,
    )
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95], method="inverted_cdf")
    panel.axvline(median, color=INK, lw=1.2)
    panel.set_xscale("log")
    panel.set(xlim=limits, yticks=[])
    panel.xaxis.set_major_locator(LogLocator(numticks=4))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(labelsize="small")
    end = f">{limits[1]:.0f}" if high > limits[1] else _rounded(high)
    panel.set_xlabel(f"{_rounded(median)} ({_rounded(low)} to {end})", fontsize="small")


def _rounded(value: float) -> str:
    """Two digits, large numbers without an exponent."""
    return f"{value:.2g}" if value < 99.5 else f"{float(f'{value:.2g}'):.0f}"
