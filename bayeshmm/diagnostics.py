"""Whether draws represent the posterior, and what to do where they do not."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from bayeshmm._arviz import az
from bayeshmm.emissions.law import Law
from bayeshmm.inference.engines import Outcome
from bayeshmm.inference.gibbs import Draws
from bayeshmm.inference.importance import RELIABLE, ApproximationWarning
from bayeshmm.inference.restarts import origin
from bayeshmm.inference.settings import VI, Settings
from bayeshmm.phases import occupied_states

RHAT_LIMIT = 1.05
"""Largest R-hat at which the chains are taken to agree."""


class ConvergenceWarning(UserWarning):
    """The draws may not represent the posterior; the message names the remedy."""


def warn_of_draws(diagnostics: pd.Series, settings: Settings) -> None:
    """Say where the draws may not represent the posterior, and what would."""
    largest = diagnostics["r_hat"]
    if largest > RHAT_LIMIT:
        warnings.warn(
            f"the chains disagree (largest R-hat {largest:.2f}, at {diagnostics['worst']}): the "
            "intervals may miss a part of the posterior. Take more draws (draws=), more starts "
            "(restarts=) or fewer states.",
            ConvergenceWarning,
            stacklevel=4,
        )
    if diagnostics.get("divergences", 0):
        warnings.warn(
            f"{diagnostics['divergences']} transitions of the sampler diverged: the draws may miss "
            "narrow parts of the posterior. Take smaller steps, inference=NUTS(target_accept="
            "0.95), or inference='gibbs' where the emission is one of this package's.",
            ConvergenceWarning,
            stacklevel=4,
        )
    if not diagnostics.get("converged", True):
        warnings.warn(
            f"variational inference was still improving after {diagnostics['steps']} steps: take "
            "more, inference=VI(steps=...), and see bayeshmm.plots.convergence(posterior).",
            ConvergenceWarning,
            stacklevel=4,
        )
    if diagnostics.get("k_hat", 0.0) > RELIABLE:
        simple = isinstance(settings, VI) and settings.guide == "mean-field"
        warnings.warn(
            f"k-hat {diagnostics['k_hat']:.2f} of the variational approximation is above "
            f"{RELIABLE}: its draws could not be corrected, and intervals may be too narrow. Take "
            + (
                'inference=VI(guide="full-rank").'
                if simple
                else 'inference="gibbs" (emissions of this package) or inference="nuts".'
            ),
            ApproximationWarning,
            stacklevel=4,
        )


def warn_of_numbers(drawn: Draws) -> None:
    """Say where chains that started at two modes lead to different numbers of phases."""
    K, origins = drawn.chain.initial.shape[-1], origin(drawn.chains).numpy()
    by_chain = drawn.paths.reshape(drawn.chains, -1, *drawn.paths.shape[1:])
    numbers = []
    for start in np.unique(origins):
        table = occupied_states(np.concatenate(by_chain[origins == start]), range(K))
        numbers.append(int(table["probability"].argmax()))
    if len(set(numbers)) > 1:
        warnings.warn(
            f"two independent searches lead to different numbers of phases, {numbers[0]} and "
            f"{numbers[1]}, and the chains that start there do not meet: the posterior of the "
            "number is not to be relied on. Take more starts (restarts=) or longer chains "
            "(inference=Gibbs(warmup=...)), or compare(...) models with fixed numbers.",
            ConvergenceWarning,
            stacklevel=4,
        )


def diagnose(outcome: Outcome) -> pd.Series:
    """R-hat and effective sample size of quantities that every phase has, and of those all share.

    They are a phase's share of rows, its probability of staying (mean over conditions) and its
    mean log noise variance, of every phase that has rows in most draws of some chain; the degrees
    of freedom of Student-t noise and the size of the run effects. All chains start from one mode,
    or from two whose phases are matched, so that a phase is the same in each. NaN where there is
    one chain of independent draws. Then what the engine says of itself.
    """
    drawn = outcome.draws
    K, law = drawn.chain.initial.shape[-1], drawn.law
    stay = drawn.chain.transition.diagonal(dim1=-2, dim2=-1).mean(1).numpy()
    by_phase = {
        "share of rows": np.stack([(drawn.paths == k).mean((1, 2)) for k in range(K)], -1),
        "stay": stay,
    }
    shared = {}
    if isinstance(law, Law):
        by_phase["noise"] = law.log_variance[:, 0].mean(-1).numpy()
        if law.tail is not None:
            shared["degrees of freedom"] = law.tail.degrees[:, 0].log().numpy()
        if law.effects is not None:
            shared["size of run effects"] = drawn.precisions.groups[:, 0, -1].log().numpy()
    present = np.stack([(drawn.paths == k).any((1, 2)) for k in range(K)])
    present = present.reshape(K, drawn.chains, -1).mean(-1).max(-1) > 0.5
    r_hat, size, worst = float("nan"), float(len(drawn.paths)), ""
    if drawn.chains > 1:
        size = float("inf")
        quantities = {
            f"{name} of phase {k}": values[:, k]
            for name, values in by_phase.items()
            for k in np.flatnonzero(present)
        }
        for name, values in (quantities | shared).items():
            series = values.reshape(drawn.chains, -1)
            if np.ptp(series) == 0.0:
                continue
            with np.errstate(invalid="ignore", divide="ignore"):  # nearly all draws alike
                size = float(np.fmin(size, az.ess(series)))
                this = float(az.rhat(series))
            if np.isnan(r_hat) or this > r_hat:
                r_hat, worst = this, name
    found = {
        "draws": len(drawn.paths),
        "chains": drawn.chains,
        "r_hat": r_hat,
        "worst": worst,
        "effective_draws": size,
    }
    return pd.Series(found | outcome.diagnostics, dtype=object)
