"""Fitting: from runs to a posterior."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from bayeshmm import defaults
from bayeshmm.diagnostics import diagnose, warn_of_draws, warn_of_numbers
from bayeshmm.emissions.custom import PyroEmission
from bayeshmm.emissions.families import Emission
from bayeshmm.encoding import Encoded, Encoding
from bayeshmm.hmm import HMM
from bayeshmm.inference import engines
from bayeshmm.inference.own import OwnTarget, explore
from bayeshmm.inference.parts import search_some
from bayeshmm.inference.settings import VI, Gibbs, Inference, Settings, chosen
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.metric_checks import warn_of_metrics
from bayeshmm.own_encoding import OwnRows, OwnUnits
from bayeshmm.posterior import Posterior
from bayeshmm.runs import Runs
from bayeshmm.transitions import StickyHDP, Transition


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
    some = settings.batch_size if isinstance(settings, VI) else None
    mode, starts = explore(hmm.transition_prior(runs), data, restarts, seed, some, progress)
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
