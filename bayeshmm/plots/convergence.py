"""How inference went: the loss of variational inference, or the traces of the chains."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from bayeshmm.inference.importance import RELIABLE
from bayeshmm.inference_data import run_log_likelihoods
from bayeshmm.plots.style import FAINT, INK, phase_colours
from bayeshmm.posterior import Posterior

WINDOW = 50
"""Steps that a running mean is over."""


def convergence(posterior: Posterior, ax: Axes | None = None) -> Axes:
    """Draw how inference went.

    Parameters
    ----------
    posterior
        With ``inference="vi"``: the loss (minus the evidence lower bound) of every step and its
        running mean. Otherwise: the log density of all runs at every draw, a line for each chain,
        which should look alike.
    ax
        Where to draw. Default: a new figure.

    Returns
    -------
    Axes
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 3.5), layout="constrained")
    if posterior.inference == "vi":
        _losses(ax, posterior)
    else:
        _chains(ax, posterior)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _losses(ax: Axes, posterior: Posterior) -> None:
    losses, found = posterior.losses, posterior.diagnostics
    steps = np.arange(1, len(losses) + 1)
    ax.plot(steps, losses, color=FAINT, linewidth=0.6, label="loss of a step")
    smooth = _running_mean(losses)
    label = f"mean of {len(losses) - len(smooth) + 1} steps"
    ax.plot(steps[-len(smooth) :], smooth, color=INK, linewidth=1.5, label=label)
    low, high = np.quantile(losses[len(losses) // 10 :], [0.0, 0.99])
    margin = 0.1 * max(high - low, 1.0)
    ax.set_ylim(low - margin, high + 3.0 * margin)  # the first steps would flatten the rest
    ax.set_xlabel("step")
    ax.set_ylabel("minus evidence lower bound (nats)")
    state = "converged" if found["converged"] else "not converged"
    verdict = "at most" if found["k_hat"] <= RELIABLE else "above"
    ax.set_title(f"{state}; k-hat {found['k_hat']:.2f}, {verdict} {RELIABLE}", fontsize="medium")
    ax.legend(frameon=False, fontsize="small")


def _chains(ax: Axes, posterior: Posterior) -> None:
    chains = run_log_likelihoods(posterior).sum(1).reshape(posterior.draws.chains, -1)
    for i, (values, colour) in enumerate(zip(chains, phase_colours(len(chains)), strict=True)):
        ax.plot(values, color=colour, linewidth=0.8, label=f"chain {i}")
    ax.set_xlabel("draw")
    ax.set_ylabel("log density of all runs (nats)")
    found = posterior.diagnostics
    if len(chains) > 1:
        ax.set_title(
            f"largest R-hat {found['r_hat']:.2f}; {found['effective_draws']:.0f} effective draws",
            fontsize="medium",
        )
        ax.legend(frameon=False, fontsize="small", ncols=len(chains))


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    size = min(WINDOW, len(values))
    return np.convolve(values, np.full(size, 1.0 / size), mode="valid")
