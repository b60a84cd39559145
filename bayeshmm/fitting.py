"""Fitting: from runs to a posterior."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

import numpy as np
import pandas as pd

from bayeshmm import defaults
from bayeshmm._arviz import az
from bayeshmm.emissions.families import Emission
from bayeshmm.encoding import Encoded, Encoding
from bayeshmm.hmm import HMM
from bayeshmm.inference.engines import ENGINES, Inference
from bayeshmm.inference.gibbs import Draws
from bayeshmm.inference.search import search
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.metric_checks import warn_of_metrics
from bayeshmm.posterior import Posterior
from bayeshmm.runs import Runs
from bayeshmm.transitions import Dirichlet

RHAT_LIMIT = 1.05
"""Largest R-hat at which the chains are taken to agree."""


class ConvergenceWarning(UserWarning):
    """The draws may not represent the posterior; the message names the remedy."""


def fit(
    runs: Runs,
    states: int,
    *,
    metrics: str | Iterable[str] | None = None,
    emission: str | Emission = "autoregressive",
    transition: Dirichlet | None = None,
    minimum_dwell: int | None = None,
    inference: Inference = "auto",
    restarts: int = defaults.RESTARTS,
    draws: int = defaults.DRAWS,
    log: Sequence[str] | Mapping[str, float] = (),
    seed: int = 0,
    progress: bool = True,
) -> Posterior:
    """Fit a hidden Markov model with learned priors to training runs.

    Many starts of conjugate variational inference find the mode; exact draws around it come from
    blocked Gibbs sampling.

    Parameters
    ----------
    runs
        The data.
    states
        Number of phases.
    metrics
        Names of what the model sees; the others are kept for display. Default: ``runs.metrics``.
    emission
        ``"autoregressive"``, ``"gaussian"``, or a family with its own settings.
    transition
        Prior of the transitions; ``Dirichlet(expected_dwell=...)`` in training steps.
    minimum_dwell
        Rows that every visit to a phase lasts at least. Default: 10, or a tenth of the median
        run where that is less.
    inference
        ``"auto"`` and ``"gibbs"``: exact draws. ``"vi"``: draws of the variational posterior
        itself, whose intervals are too narrow: nominal 90 % ones hold about 84 % of entry times,
        72 % of transition probabilities and 23 % of degrees of freedom.
    restarts
        Number of starts.
    draws
        Posterior draws.
    log
        Metrics to model as log(x + floor): names, or a mapping from names to floors.
    seed
        Same seed, same result.
    progress
        Whether to show progress bars.

    Returns
    -------
    Posterior

    Raises
    ------
    ValueError
        Naming the run, the metric and the mend.

    Warns
    -----
    ConvergenceWarning
        Where the chains disagree.
    MetricWarning
        Where a metric is a function of others, or mostly constant.
    """
    if inference not in ENGINES:
        raise ValueError(f"inference={inference!r} is not one of {list(get_args(Inference))}.")
    check_numbers(restarts, draws)
    if metrics is not None:
        runs = runs.select(metrics)
    hmm = HMM(states, emission, transition, minimum_dwell)
    hmm.check(runs)
    warn_of_metrics(runs)
    encoding, data = hmm.encode(runs, log)
    mode, starts = search(hmm.prior(runs), data, restarts, seed, progress)
    return draw(runs, hmm, encoding, data, mode, starts, inference, draws, seed, progress)


def check_numbers(restarts: int, draws: int) -> None:
    """Check that there are enough starts, and draws for every chain."""
    if restarts < 1 or draws < 4:
        raise ValueError("restarts must be at least 1 and draws at least 4.")


def draw(
    runs: Runs,
    hmm: HMM,
    encoding: Encoding,
    data: Encoded,
    mode: VariationalFit,
    restarts: pd.DataFrame,
    inference: Inference,
    draws: int,
    seed: int,
    progress: bool,
) -> Posterior:
    """Posterior draws around a mode that the search found."""
    drawn = ENGINES[inference](mode, data, draws, seed=seed, progress=progress)
    diagnostics = diagnose(mode, drawn)
    largest = diagnostics["r_hat"]
    if largest > RHAT_LIMIT:
        warnings.warn(
            f"the chains disagree (largest R-hat {largest:.2f}, at {diagnostics['worst']}): the "
            "intervals may miss a part of the posterior. Take more draws (draws=), more starts "
            "(restarts=) or fewer states.",
            ConvergenceWarning,
            stacklevel=3,
        )
    return Posterior(
        runs=runs,
        hmm=hmm,
        inference="vi" if inference == "vi" else "gibbs",
        restarts=restarts,
        diagnostics=diagnostics,
        encoding=encoding,
        variational=mode,
        draws=drawn,
        seed=seed,
    )


def diagnose(mode: VariationalFit, drawn: Draws) -> pd.Series:
    """R-hat and effective sample size of quantities that every phase has, and of those all share.

    They are a phase's share of rows, its exit probability and its mean log noise variance; the
    degrees of freedom of Student-t noise and the size of the run effects. All chains start from
    one mode, so that a phase is the same in each. NaN where there is one chain of independent
    draws.
    """
    K = mode.prior.regression.states
    share = np.stack([(drawn.paths == k).mean((1, 2)) for k in range(K)], -1)
    stay = drawn.chain.transition[:, 0].diagonal(dim1=-2, dim2=-1).numpy()
    noise = drawn.law.log_variance[:, 0].mean(-1).numpy()
    summary = pd.Series(
        {"draws": len(drawn.paths), "chains": drawn.chains, "elbo": mode.bound}, dtype=object
    )
    r_hat, size, worst = float("nan"), float(len(drawn.paths)), ""
    if drawn.chains > 1:
        size = float("inf")
        quantities = {
            f"{name} of phase {k}": values[:, k]
            for name, values in (("share of rows", share), ("stay", stay), ("noise", noise))
            for k in range(K)
        }
        if drawn.law.tail is not None:
            quantities["degrees of freedom"] = drawn.law.tail.degrees[:, 0].log().numpy()
        if drawn.law.effects is not None:
            quantities["size of run effects"] = drawn.precisions.groups[:, 0, -1].log().numpy()
        for name, values in quantities.items():
            series = values.reshape(drawn.chains, -1)
            if np.ptp(series) == 0.0:
                continue
            size = min(size, float(az.ess(series)))
            this = float(az.rhat(series))
            if not this <= r_hat:
                r_hat, worst = this, name
    return pd.concat(
        [summary, pd.Series({"r_hat": r_hat, "worst": worst, "effective_draws": size})]
    )
