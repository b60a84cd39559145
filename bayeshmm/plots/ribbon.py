"""All runs below each other, as ribbons in the colours of their phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from bayeshmm.phases import entry_times, transition_times
from bayeshmm.plots.style import FAINT, INK, phase_colours, phase_hatches, phase_patches

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

RGB = tuple[float, float, float]

AS_GIVEN = "run"
_LEVELS = 8  # of certainty, that are told apart


def ribbon(
    posterior: Posterior, sort_by: str | tuple[str, str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the phases of all runs, a ribbon for each.

    A ribbon has the colour of the most probable phase of each row, the paler the less sure: full at
    probability 1, nearly white at one half and below. It ends where the run does.

    Parameters
    ----------
    posterior : Posterior
        A fitted model.
    sort_by : name, pair of names or "run", optional
        What the runs are sorted by: the median step of their first entry into a phase, or of their
        first change from one phase to another. Runs in which that is less probable than not come
        last. ``"run"`` leaves the order as it is. Default: the phase whose entry differs most
        between runs.
    ax : Axes, optional
        Where to draw; default: a new figure, 8 inches wide.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no phase of that name.
    """
    order, title = run_order(posterior, sort_by)
    ax = run_axes([posterior.runs.names[n] for n in order], ax)
    K, colours = posterior.states, phase_colours(posterior.palette)
    corners: list[list[NDArray[np.float64]]] = [[] for _ in range(K)]
    shades: list[list[RGB]] = [[] for _ in range(K)]
    for place, n in enumerate(order):
        steps = posterior.runs.steps[n, : posterior.runs.lengths[n]]
        ends = np.append(steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1)
        paths = posterior.paths[:, n, : len(steps)]
        share = np.stack([(paths == k).mean(axis=0) for k in range(K)])
        phase, sure = share.argmax(axis=0), np.ceil(share.max(axis=0) * _LEVELS) / _LEVELS
        starts = np.flatnonzero(np.diff(phase + sure / 2, prepend=-1.0))
        for first, after in zip(starts, np.append(starts[1:], len(phase)), strict=True):
            x, y = ends[[first, after, after, first]], place + np.array([-0.42, -0.42, 0.42, 0.42])
            corners[phase[first]].append(np.stack([x, y], axis=1))
            shades[phase[first]].append(_shade(colours[phase[first]], sure[first]))
    for k, hatch in enumerate(phase_hatches(posterior.palette)):
        if corners[k]:
            bars = PolyCollection(corners[k], facecolors=shades[k], linewidths=0, hatch=hatch)
            bars.set(edgecolor="white", antialiased=False)
            ax.add_collection(bars)
    ax.autoscale_view()
    ax.set_xmargin(0)
    ax.set_title(title, loc="left", fontsize="medium", color=INK)
    paler = Patch(facecolor=_shade(FAINT, 0.75), label="paler: less sure")
    phase_legend(ax, [*phase_patches(posterior.state_names, posterior.palette), paler])
    return ax


def run_order(
    posterior: Posterior, sort_by: str | tuple[str, str] | None
) -> tuple[NDArray[np.int64], str]:
    """In which order runs are drawn, and what it is called; see `ribbon`."""
    names, states = posterior.runs.names, posterior.state_names
    if sort_by == AS_GIVEN:
        return np.arange(len(names)), f"{len(names)} runs"
    wanted = (sort_by,) if isinstance(sort_by, str) else sort_by or ()
    if unknown := [name for name in wanted if name not in states]:
        raise ValueError(
            f"sort_by: there is no phase {unknown[0]!r}; the phases are {list(states)}, and "
            f'"{AS_GIVEN}" leaves the runs as they are'
        )
    data = posterior.paths, posterior.runs.steps, names, states
    if len(wanted) == 2:
        times = transition_times(*data).query("occurrence == 1").drop(columns="occurrence")
        times = times[(times["source"] == wanted[0]) & (times["target"] == wanted[1])]
        what = f"change from {wanted[0]} to {wanted[1]}"
    else:
        times = entry_times(*data)
        likely = times[times["probability"] > 0.5].groupby("state", sort=False)["median"]
        spread = likely.std().reindex(list(states)).fillna(-1.0)
        name = wanted[0] if wanted else str(spread.idxmax())
        times, what = times[times["state"] == name], f"entry into {name}"
    median = times[times["probability"] > 0.5].set_index("run")["median"].reindex(list(names))
    order = np.argsort(median.to_numpy(dtype=np.float64), kind="stable")  # NaN comes last
    return order, f"{len(names)} runs, sorted by {what}"


def run_axes(names: Sequence[str], ax: Axes | None, ridges: bool = False) -> Axes:
    """Axes with a place for each run, the first on top, and steps along the bottom.

    Places are wider where they hold `ridges`. Names are left out as far as they would overlap.
    """
    N = len(names)
    if ax is None:
        inches = np.interp(N, [8, 40], [0.34, 0.19 if ridges else 0.15])
        size = (8.0, min(N * float(inches), 9.0) + 1.2)
        _, ax = plt.subplots(figsize=size, layout="constrained")
    figure = ax.figure.canvas.figure
    points = ax.get_window_extent().height / figure.dpi * 72 / N
    every = int(np.ceil(6.5 / points))
    ax.set_yticks(range(0, N, every), labels=[str(name) for name in names[::every]])
    ax.tick_params(axis="y", length=0, labelsize=float(np.clip(points * every - 1.5, 5.0, 10.0)))
    ax.set(ylim=(N - 0.4, -1.0 if ridges else -0.6), xlabel="training steps")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def phase_legend(ax: Axes, handles: Sequence[Artist]) -> None:
    """Legend below the axes, or beside them where they share their figure."""
    figure = ax.figure.canvas.figure
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = min(len(handles), max(int(13 * figure.get_figwidth()) // (longest + 7), 1))
    if len(figure.axes) == 1:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    else:
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)


def _shade(colour: str, probability: float) -> RGB:
    """The colour, mixed with white where the phase is not sure."""
    strength = max(2 * probability - 1, 0.15)
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(colour))
    return red, green, blue
