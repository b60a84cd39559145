"""Fitting: from runs to a posterior."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from bayeshmm import defaults
from bayeshmm._arviz import az
from bayeshmm.emissions.custom import PyroEmission
from bayeshmm.emissions.families import Emission
from bayeshmm.emissions.law import Law
from bayeshmm.encoding import Encoded, Encoding
from bayeshmm.hmm import HMM
from bayeshmm.inference import engines
from bayeshmm.inference.engines import Outcome
from bayeshmm.inference.gibbs import Draws
from bayeshmm.inference.importance import RELIABLE, ApproximationWarning
from bayeshmm.inference.own import OwnTarget, explore
from bayeshmm.inference.parts import search_some
from bayeshmm.inference.restarts import origin
from bayeshmm.inference.settings import VI, Gibbs, Inference, Settings, chosen
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.metric_checks import warn_of_metrics
from bayeshmm.own_encoding import OwnRows, OwnUnits
from bayeshmm.phases import occupied_states
from bayeshmm.posterior import Posterior
from bayeshmm.runs import Runs
from bayeshmm.transitions import StickyHDP, Transition

RHAT_LIMIT = 1.05
"""Largest R-hat at which the chains are taken to agree."""


class ConvergenceWarning(UserWarning):
    """The draws may not represent the posterior; the message names the remedy."""


def fit(
    runs: Runs,
    states: int | None = None,
    *,
    metrics: str | Iterable[str] | None = None,
    emission: str | Emission | PyroEmission = "autoregressive",
    transition: Transition | None = None,
    minimum_dwell: int | None = None,
    inference: Inference | Settings = "auto",
    restarts: int = defaults.RESTARTS,
    draws: int = defaults.DRAWS,
    log: Sequence[str] | Mapping[str, float] = (),
    seed: int = 0,
    progress: bool = True,
) -> Posterior:
    """Fit a hidden Markov model with learned priors to training runs.

    Many starts of conjugate variational inference find the mode; exact draws around it come from
    blocked Gibbs sampling. For an emission of a user's own, many ascents from draws of the prior
    find it, and variational inference with the states summed out goes on from there.

    Parameters
    ----------
    runs
        The data.
    states
        Number of phases. May be left out with `StickyHDP`, which says how many there may be.
    metrics
        Names of what the model sees; the others are kept for display. Default: ``runs.metrics``.
    emission
        ``"autoregressive"``, ``"gaussian"``, a family with its own settings, or an emission of your
        own, see `PyroEmission`.
    transition
        Structure of the transitions: `Dirichlet` (any phase may follow any other, the default),
        `LeftToRight`, `StickyHDP` (how many phases there are is learned) or `Grouped`
        (conditions compared), each with ``expected_dwell=`` in training steps.
    minimum_dwell
        Rows that every visit to a phase lasts at least. Default: 10, or a tenth of the median
        run where that is less.
    inference
        An engine, by name or with settings of its own:

        * ``"gibbs"``, `Gibbs`: exact draws, in the shortest time. Not for emissions of your own.
        * ``"vi"``, `VI`: a normal approximation in unconstrained space, its draws corrected by
          importance sampling where that works, with a warning where not. For any emission, and in
          mini-batches for thousands of runs.
        * ``"nuts"``, `NUTS`: exact draws for any emission, in the longest time.
        * ``"auto"``: ``"gibbs"``, and ``"vi"`` for an emission of your own.
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
        Where the chains disagree or diverge, or variational inference ran out of steps.
    ApproximationWarning
        Where a variational approximation is poor.
    MetricWarning
        Where a metric is a function of others, or mostly constant.
    """
    check_numbers(restarts, draws)
    if metrics is not None:
        runs = runs.select(metrics)
    if states is None:
        if not isinstance(transition, StickyHDP):
            raise ValueError("states: give the number of phases, or transition=StickyHDP(...).")
        states = transition.max_states
    hmm = HMM(states, emission, transition, minimum_dwell)
    own = isinstance(hmm.emission, PyroEmission)
    settings = chosen(inference, conjugate=not own)
    hmm.check(runs)
    warn_of_metrics(runs, hmm.dynamic)
    if own:
        return _fit_own(runs, hmm, settings, restarts, draws, log, seed, progress)
    encoding, data = hmm.encode(runs, log)
    some = settings.batch_size if isinstance(settings, VI) else None
    prior = hmm.prior(runs)
    two = isinstance(transition, StickyHDP) and isinstance(settings, Gibbs)
    found = [
        search_some(prior, data, restarts, start, some, progress)
        for start in ((seed, seed + 1) if two else (seed,))
    ]
    found.sort(key=lambda pair: pair[0].bound, reverse=True)
    (mode, starts), *others = found
    second = others[0][0] if others else None
    return draw(runs, hmm, encoding, data, mode, starts, settings, draws, seed, progress, second)


def _fit_own(
    runs: Runs,
    hmm: HMM,
    settings: Settings,
    restarts: int,
    draws: int,
    log: Sequence[str] | Mapping[str, float],
    seed: int,
    progress: bool,
) -> Posterior:
    """Fit a model whose emission is the user's own."""
    if len(log):
        raise ValueError(
            "log= is for the emissions of this package: take logarithms in log_likelihood, or of "
            "the metrics before they become Runs."
        )
    encoding, data = hmm.encode_own(runs)
    mode, starts = explore(hmm.transition_prior(runs), data, restarts, seed, progress)
    return draw(runs, hmm, encoding, data, mode, starts, settings, draws, seed, progress)


def check_numbers(restarts: int, draws: int) -> None:
    """Check that there are enough starts, and draws for every chain."""
    if restarts < 1 or draws < 4:
        raise ValueError("restarts must be at least 1 and draws at least 4.")


def draw(
    runs: Runs,
    hmm: HMM,
    encoding: Encoding | OwnUnits,
    data: Encoded | OwnRows,
    mode: VariationalFit | OwnTarget,
    restarts: pd.DataFrame,
    inference: Inference | Settings,
    draws: int,
    seed: int,
    progress: bool,
    second: VariationalFit | None = None,
) -> Posterior:
    """Posterior draws around a mode that the search found, and around a second one if given."""
    settings = chosen(inference, conjugate=isinstance(mode, VariationalFit))
    outcome = engines.sample(
        mode, data, settings, draws, seed=seed, progress=progress, second=second
    )
    diagnostics = diagnose(outcome)
    warn_of_draws(diagnostics, settings)
    if second is not None:
        warn_of_numbers(outcome.draws)
    return Posterior(
        runs=runs,
        hmm=hmm,
        inference=type(settings).__name__.lower(),
        restarts=restarts,
        diagnostics=diagnostics,
        encoding=encoding,
        mode=mode if isinstance(mode, VariationalFit) else None,
        draws=outcome.draws,
        seed=seed,
        losses=outcome.losses,
    )


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
            size = min(size, float(az.ess(series)))
            this = float(az.rhat(series))
            if not this <= r_hat:
                r_hat, worst = this, name
    found = {
        "draws": len(drawn.paths),
        "chains": drawn.chains,
        "r_hat": r_hat,
        "worst": worst,
        "effective_draws": size,
    }
    return pd.Series(found | outcome.diagnostics, dtype=object)
