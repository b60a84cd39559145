"""How long visits to the phases last, and how long the fit would have them last."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from bayeshmm.phases.changes import dwell_times as visit_lengths
from bayeshmm.phases.population import outliving
from bayeshmm.phases.visits import visits_by_run
from bayeshmm.plots.ribbon import phase_legend
from bayeshmm.plots.style import FAINT, INK, MUTED, phase_colours

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

Array = NDArray[np.float64]

_DRAWS = 200
_HIGH = 0.72  # of a share of 1, in places
_POINTS = 300


def dwell_times(posterior: Posterior, ax: Axes | None = None, level: float = 0.9) -> Axes:
    """Draw how long visits to each phase last: what the runs did, and what the fit expects.

    For every phase, the share of visits that last longer than so many training steps, over seeds
    (band: its interval, the variation from seed to seed and the uncertainty of the paths in it;
    visits that are cut short count for as long as they were seen). The dashed line is the same for
    the model: no visit ends before the minimum dwell, and from there on the same share at every
    step, a geometric law. Where it falls outside the band, seeds agree better (or worse) on the
    length of a visit than the model knows. Each visit that is more probable than not is a mark at
    the median of its length.

    Parameters
    ----------
    posterior : Posterior
        A fitted model.
    ax : Axes, optional
        Where to draw; default: a new figure, 8 inches wide.
    level : float
        Probability inside the bands.

    Returns
    -------
    Axes
    """
    names, K = list(posterior.state_names), len(posterior.state_names)
    if ax is None:
        _, ax = plt.subplots(figsize=(8.0, 0.85 * K + 1.2), layout="constrained")
    runs = posterior.runs
    rng = np.random.default_rng(posterior.seed)
    lengths = _lengths(posterior.paths[:: -(-len(posterior.paths) // _DRAWS)], runs.steps)
    table = visit_lengths(posterior.paths, runs.steps, runs.names, names, level)
    table = table[table["probability"] > 0.5]
    grid = np.linspace(0, lengths["length"].max(), _POINTS)
    tails = (1 - level) / 2, 0.5, (1 + level) / 2
    for k, (name, colour) in enumerate(zip(names, phase_colours(posterior.palette), strict=True)):
        ax.hlines([k, k - _HIGH], 0, grid[-1], color="#D9D9D9", lw=0.6, zorder=0)
        own = lengths[lengths["state"] == k]
        if len(own):
            inside = grid <= own["length"].max()
            drawn = np.quantile(_shares(own, grid[inside], rng), tails, axis=0)
            lower, median, upper = k - _HIGH * drawn
            ax.fill_between(grid[inside], lower, upper, color=colour, alpha=0.35, lw=0, zorder=1)
            ax.plot(grid[inside], median, color=colour, lw=1.8, zorder=3)
        ax.plot(grid, k - _HIGH * _geometric(posterior, k, grid), color=INK, lw=1.2, ls="--")
        visits = table[table["state"] == name]
        cut = visits["censored"] > 0.5
        for some, marker, fill in ((~cut, "o", colour), (cut, ">", "white")):
            x = visits.loc[some, "median"]
            ax.plot(x, np.full(len(x), k + 0.1), marker, ms=4, mfc=fill, mec=colour, mew=0.9)
    ax.set_yticks(np.arange(K) - _HIGH / 2, labels=names)
    ax.tick_params(axis="y", length=0)
    ax.set(ylim=(K - 0.7, -0.85), xlim=(0, grid[-1]), xlabel="length of a visit, in training steps")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.spines[["top", "right", "left"]].set_visible(False)
    scale = partial(ax.text, 1.01, va="center", color=MUTED, fontsize="x-small")
    for k in range(K):
        scale(k - _HIGH, "100%", transform=ax.get_yaxis_transform())
        scale(k, "0%", transform=ax.get_yaxis_transform())
    ax.set_title(
        "share of visits that last longer than so many steps",
        loc="left",
        fontsize="medium",
        color=INK,
    )
    phase_legend(
        ax,
        [
            Patch(facecolor=FAINT, alpha=0.5, label=f"over seeds, {level:.0%} interval"),
            Line2D([], [], color=INK, ls="--", lw=1.2, label="geometric law of the fit"),
            Line2D([], [], color=INK, marker="o", ms=4, ls="", label="a visit of a run"),
            Line2D(
                *([], []),
                color=INK,
                marker=">",
                ms=4,
                mfc="white",
                ls="",
                label="cut short by the run's end",
            ),
        ],
    )
    return ax


def _lengths(paths: NDArray[Any], steps: NDArray[np.int64]) -> pd.DataFrame:
    """Every visit of every draw: ``draw, state, length, ended``."""
    tables = []
    for n, visits in enumerate(visits_by_run(paths)):
        table = {
            "draw": visits.draw,
            "state": visits.state,
            "length": visits.lengths(steps[n]),
            "ended": visits.target >= 0,
        }
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def _shares(visits: pd.DataFrame, grid: Array, rng: np.random.Generator) -> Array:
    """Share of visits to one state that last longer than each point, (draws, points)."""
    draw = visits["draw"].to_numpy()
    place = visits.groupby("draw").cumcount().to_numpy()
    times = np.full((draw.max() + 1, place.max() + 1), np.nan)
    ended = np.zeros(times.shape, dtype=bool)
    times[draw, place], ended[draw, place] = visits["length"], visits["ended"]
    times, ended = (part[np.unique(draw)] for part in (times, ended))  # those that have any
    times, share = outliving(times, ended, rng)
    share = np.pad(share, ((0, 0), (1, 0)), constant_values=1.0)
    rows = [s[np.searchsorted(t, grid, side="right")] for t, s in zip(times, share, strict=True)]
    return np.stack(rows)


def _geometric(posterior: Posterior, state: int, grid: Array) -> Array:
    """Share of visits that last longer than each point according to the transition matrix."""
    calendar = posterior.encoding.calendar
    stay = posterior.draws.chain.log_exits[..., state, 1].numpy().reshape(-1, 1)
    least = (posterior.minimum_dwell - 1) * calendar.gap * calendar.base
    return np.exp(stay * np.maximum(grid - least, 0.0) / calendar.base).mean(axis=0)
