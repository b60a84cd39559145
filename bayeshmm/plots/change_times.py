"""When every run changes phase, with the density of each change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from bayeshmm.phases import transition_times
from bayeshmm.phases.changes import change_density
from bayeshmm.plots.ribbon import phase_legend, run_axes, run_order
from bayeshmm.plots.style import INK, phase_colours, phase_patches

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

_KEYS = ["run", "source", "target", "occurrence"]
_RIDGE = 0.8  # height of the density of a change that is certain, in places


def change_times(
    posterior: Posterior,
    state: str | None = None,
    sort_by: str | tuple[str, str] | None = None,
    ax: Axes | None = None,
    level: float = 0.9,
    threshold: float = 0.05,
) -> Axes:
    """Draw the posterior density of every change of phase, run by run.

    A change has the colour of the phase that it opens: a ridge over the recorded steps, whose
    height is relative to its peak and proportional to the probability that the change happens at
    all; below it its interval, and a dot at its median. Circles that are not filled are changes
    less probable than not.

    Parameters
    ----------
    posterior : Posterior
        A fitted model.
    state : name, optional
        Draw the changes into this phase alone; default: all.
    sort_by : name, pair of names or "run", optional
        As for `ribbon`; default: the entry into `state`, or else what `ribbon` takes.
    ax : Axes, optional
        Where to draw; default: a new figure, 8 inches wide.
    level : float
        Probability inside the intervals.
    threshold : float
        Changes less probable than this are left out.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no phase of that name.
    """
    order, title = run_order(posterior, sort_by or state)
    names, states = posterior.runs.names, list(posterior.state_names)
    if state is not None and state not in states:
        raise ValueError(f"state={state!r}: there is no such phase; the phases are {states}")
    ax = run_axes([names[n] for n in order], ax, ridges=True)
    place = {names[n]: i for i, n in enumerate(order)}
    data = posterior.paths, posterior.runs.steps, names, posterior.state_names
    times = transition_times(*data, level)
    times = times[times["probability"] >= threshold]
    times = times if state is None else times[times["target"] == state]
    density = dict(iter(change_density(*data).groupby(_KEYS)))
    colours = dict(zip(states, phase_colours(posterior.palette), strict=True))
    steps = posterior.runs.steps[order]
    ax.hlines(range(len(names)), steps[:, 0], steps.max(axis=1), color="#D9D9D9", lw=0.6, zorder=0)
    for change in times.to_dict("records"):
        colour, y = colours[change["target"]], place[change["run"]]
        own = density[tuple(change[key] for key in _KEYS)]
        n = order[y]
        recorded = posterior.runs.steps[n, : posterior.runs.lengths[n]]
        x, height = _outline(own["step"].to_numpy(), own["probability"].to_numpy(), recorded)
        height *= _RIDGE * change["probability"] / height.max()
        ax.fill_between(x, y, y - height, color=colour, alpha=0.55, lw=0, zorder=2)
        ax.plot([change["lower"], change["upper"]], [y, y], color=colour, lw=2.2, zorder=3)
        likely = change["probability"] > 0.5
        ax.plot(
            *(change["median"], y, "o"),
            ms=4.0,
            mfc=colour if likely else "white",
            mec=INK,
            mew=0.6,
            zorder=4,
        )
    ax.set_xmargin(0.01)
    if state is not None and len(times):
        room = 0.04 * (times["upper"].max() - times["lower"].min() + 1)
        ax.set_xlim(times["lower"].min() - room, times["upper"].max() + room)
    what = "changes of phase" if state is None else f"changes into {state}"
    ax.set_title(f"{what}: {title}", loc="left", fontsize="medium", color=INK)
    shown = [
        p for p in phase_patches(states, posterior.palette) if p.get_label() in set(times["target"])
    ]
    for patch in shown:
        patch.set_label(f"into {patch.get_label()}")
    dot = Line2D([], [], color=INK, lw=2.2, marker="o", ms=4, label=f"median, {level:.0%} interval")
    phase_legend(ax, [*shown, dot])
    return ax


def _outline(
    steps: NDArray[np.int64], probability: NDArray[np.float64], recorded: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Density of a change per step, as a line with corners half-way between recorded steps."""
    rows = np.searchsorted(recorded, steps)
    mass = np.zeros(rows[-1] - rows[0] + 1)
    mass[rows - rows[0]] = probability
    edges = np.concatenate([recorded[:1], (recorded[1:] + recorded[:-1]) / 2, recorded[-1:]])
    edges = edges[rows[0] : rows[-1] + 2]
    return np.repeat(edges, 2)[1:-1], np.repeat(mass / np.diff(edges), 2)
