"""Whether the laws of the phases describe the rows: quantiles and autocorrelation of residuals."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.special import ndtri

from bayeshmm.checks.residuals import autocorrelation, pseudo_residuals
from bayeshmm.phases import modal_path
from bayeshmm.plots.style import FAINT, INK, phase_colours
from bayeshmm.posterior import Posterior
from bayeshmm.tidy import chosen

Array = NDArray[np.float64]

FURTHEST = 6.0
"""Standard deviations at which quantiles are cut off."""

LAGS = 20
"""Rows that autocorrelations are drawn to."""

FEWEST = 30
"""Residuals of a metric in a phase below which the phase is not drawn."""


def residuals(
    posterior: Posterior,
    metrics: str | Sequence[str] | None = None,
    ax: Sequence[Axes] | None = None,
) -> NDArray[np.object_]:
    """Draw quantiles and autocorrelation of the residuals of every metric, by phase.

    Where the model describes the rows, residuals are independent standard normals (see
    `Posterior.residuals`): quantiles lie on the diagonal, and autocorrelations of all rows in the
    grey band with a probability of 95 %; those of a phase, which has fewer rows, scatter further.
    Tails that leave the diagonal want Student-t noise, a curve that falls slowly from 1 wants a law
    with a memory. A row belongs to its most probable phase, and what no phase predicted is seldom
    in the tails of the phase that it is then found in.

    Parameters
    ----------
    posterior : Posterior
        A fitted model.
    metrics : str or sequence of str, optional
        What to draw; default: all that the model sees.
    ax : two Axes, optional
        Where to draw a single metric: quantiles, then autocorrelation.

    Returns
    -------
    ndarray of Axes, (metrics, 2)

    Raises
    ------
    ValueError
        If a metric is unknown, or `ax` cannot hold what is asked for.
    """
    names = chosen("metric", posterior.metrics if metrics is None else metrics, posterior.metrics)
    if ax is not None and (len(names) > 1 or len(ax) != 2):
        raise ValueError(
            f"ax holds one metric, in two Axes, not {len(names)} in {len(ax)}: name one with "
            "metrics=, or leave out ax"
        )
    axes = _grid(len(names)) if ax is None else np.array([ax], dtype=object)
    z = pseudo_residuals(posterior).sel(metric=list(names)).to_numpy()
    path, K = modal_path(posterior.paths), posterior.states
    groups = [(path == k, colour) for k, colour in enumerate(phase_colours(posterior.palette))]
    handles = [
        Line2D([], [], color=colour, lw=2, label=name)
        for name, (_, colour) in zip(posterior.state_names, groups, strict=True)
    ]
    if K > 1:
        groups.append((path >= 0, INK))
        handles.append(Line2D([], [], color=INK, lw=2, label="all rows"))
    for j, (name, (left, right)) in enumerate(zip(names, axes, strict=True)):
        one = z[..., j : j + 1]
        for rows, colour in groups:
            if (rows & ~np.isnan(one[..., 0])).sum() >= FEWEST:
                _draw_quantiles(left, one[..., 0][rows], colour)
                _draw_autocorrelation(right, one, rows, colour)
        _finish(left, right, name, int(np.count_nonzero(~np.isnan(one))))
    for left, right in axes[-2:]:  # the lowest ones: two metrics are abreast
        left.set_xlabel("normal quantile")
        right.set_xlabel("lag (rows)")
    if ax is None:
        figure = axes[0, 0].figure
        columns = min(len(handles), 5)
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)
    else:
        axes[0, 1].legend(handles=handles, frameon=False, fontsize="small")
    return axes


def _draw_quantiles(ax: Axes, z: Array, colour: str) -> None:
    """Quantiles against normal ones: all in the tails, some of the others."""
    found = np.sort(z[~np.isnan(z)])
    n = len(found)
    rank = np.unique(np.r_[:20, np.linspace(0, n - 1, 100), n - 20 : n].astype(int))
    expected = ndtri((rank + 0.5) / n)
    ax.plot(expected, found[rank].clip(-FURTHEST, FURTHEST), ".", ms=3, color=colour, zorder=3)


def _draw_autocorrelation(ax: Axes, z: Array, rows: NDArray[np.bool_], colour: str) -> None:
    """At every lag that enough pairs of rows of the same phase have."""
    lags, known = range(1, LAGS + 1), rows & ~np.isnan(z[..., 0])
    pairs = [np.count_nonzero(known[:, lag:] & known[:, :-lag]) for lag in lags]
    drawn = [lag for lag, number in zip(lags, pairs, strict=True) if number >= FEWEST]
    values = [float(autocorrelation(z, lag, rows)[0]) for lag in drawn]
    ax.plot(drawn, values, ".-", ms=4, lw=1.2, color=colour, zorder=3)


def _finish(left: Axes, right: Axes, metric: str, residuals: int) -> None:
    left.axline((0, 0), slope=1, color=FAINT, lw=0.8, zorder=1)
    left.set(xlim=(-4, 4), xticks=[-3, 0, 3], yticks=[-6, -3, 0, 3, 6])
    left.set_ylim(-1.05 * FURTHEST, 1.05 * FURTHEST)
    left.set_ylabel("residual")
    left.set_title(metric, loc="left", fontweight="bold", fontsize="medium")
    band = 1.96 / np.sqrt(max(residuals, 1))
    right.axhspan(-band, band, color=FAINT, alpha=0.3, lw=0, zorder=0)
    right.axhline(0, color=FAINT, lw=0.8, zorder=1)
    right.set(xlim=(0.3, LAGS + 0.7), ylim=(-0.5, 1.05), xticks=[1, 5, 10, 15, 20])
    right.set_ylabel("autocorrelation")
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)


def _grid(metrics: int) -> NDArray[np.object_]:
    """Make a pair of Axes for every metric, two metrics abreast."""
    columns = min(metrics, 2)
    rows = -(-metrics // columns)
    height = 2.6 if columns == 1 else 1.9
    figure = plt.figure(figsize=(8.0, height * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, 2 * columns, squeeze=False).reshape(-1, 2)
    for panel in axes[metrics:].ravel():
        panel.remove()
    return axes[:metrics]
