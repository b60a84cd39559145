"""How many phases: state counts and families judged on runs that a fit has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from typing import Any, Literal, overload

import joblib
from tqdm import tqdm

from bayeshmm import defaults, hu2023
from bayeshmm.comparison.result import Comparison, Posteriors
from bayeshmm.comparison.score_table import score_table
from bayeshmm.comparison.scoring import fit_candidate
from bayeshmm.emissions import Emission, PyroEmission
from bayeshmm.fitting import check_numbers
from bayeshmm.hmm import HMM
from bayeshmm.hu2023 import Hu2023Comparison
from bayeshmm.metric_checks import warn_of_metrics
from bayeshmm.runs import Runs
from bayeshmm.transitions import Transition


@overload
def compare(
    runs: Runs,
    states: Iterable[int] = ...,
    *,
    protocol: Literal["hu2023"],
    metrics: str | Iterable[str] | None = ...,
    seed: int = ...,
    progress: bool = ...,
) -> Hu2023Comparison: ...


@overload
def compare(
    runs: Runs,
    states: Iterable[int] = ...,
    emission: str | Emission | Sequence[str | Emission] = ...,
    *,
    tolerance: float | None = ...,
    folds: int | None = ...,
    metrics: str | Iterable[str] | None = ...,
    transition: Transition | None = ...,
    minimum_dwell: int | None = ...,
    restarts: int = ...,
    draws: int = ...,
    log: Sequence[str] | Mapping[str, float] = ...,
    jobs: int | None = ...,
    protocol: None = ...,
    seed: int = ...,
    progress: bool = ...,
) -> Comparison: ...


def compare(
    runs: Runs,
    states: Iterable[int] = range(1, 9),
    emission: str | Emission | Sequence[str | Emission] = "autoregressive",
    *,
    tolerance: float | None = None,
    folds: int | None = None,
    metrics: str | Iterable[str] | None = None,
    transition: Transition | None = None,
    minimum_dwell: int | None = None,
    restarts: int = defaults.RESTARTS,
    draws: int = defaults.DRAWS,
    log: Sequence[str] | Mapping[str, float] = (),
    jobs: int | None = None,
    protocol: Literal["hu2023"] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Comparison | Hu2023Comparison:
    """Compare numbers of states, and families, by the density of runs held out.

    Every model is fitted to all runs and then, from there, to all but one fold of the runs at a
    time; each run is scored by the fit that has not seen it. This answers "how many components of
    this family predict a new run best": where the family is wrong, the number means little, so
    compare families first.

    Parameters
    ----------
    runs
        The data.
    states
        Numbers of states.
    emission
        A family or several.
    tolerance
        Nats per row that a further phase must be worth: ``best`` is the smallest number of states
        within max(one paired standard error, tolerance) of the best. With the standard error
        alone the number would grow with the number of seeds. Default: what those states are worth
        together of which none is worth a twentieth of what all are, or a hundredth of a nat for
        each metric; see `bayeshmm.defaults`.
    folds
        Parts that the runs are split into. Default: 5, each run by itself below 10 runs.
    jobs
        Processes that fit at the same time; -1 for one per core. By default that of the active
        ``joblib.parallel_config``, whose backend is used; without it, 1. The result does not depend
        on it.
    protocol
        ``"hu2023"`` repeats the analysis of Hu et al. (2023) instead, to compare with: see
        `bayeshmm.hu2023.compare`. It takes `states`, `metrics`, `seed` and `progress`; the rest is
        as in the paper.
    metrics, transition, minimum_dwell, restarts, draws, log, seed, progress
        As in `bayeshmm.fit`.

    Returns
    -------
    Comparison
        Or `bayeshmm.hu2023.Hu2023Comparison` where that is asked for.

    Raises
    ------
    ValueError
        Naming the run, the metric and the mend.
    """
    if metrics is not None:
        runs = runs.select(metrics)
    if not isinstance(states, Iterable):
        raise ValueError(f"states={states!r} is not a range: give range(1, 9), or a list.")
    if protocol is not None:
        _check_protocol(
            protocol,
            emission=emission,
            tolerance=tolerance,
            folds=folds,
            transition=transition,
            minimum_dwell=minimum_dwell,
            restarts=restarts,
            draws=draws,
            log=log,
            jobs=jobs,
        )
        return hu2023.compare(runs, states, seed=seed, progress=progress)
    check_numbers(restarts, draws)
    counts = sorted(set(states))
    named = [emission] if isinstance(emission, str | Emission | PyroEmission) else list(emission)
    if not counts or not named:
        raise ValueError("nothing to compare: give at least one number of states and one family.")
    if folds is not None and not 2 <= folds <= len(runs):
        raise ValueError(f"folds={folds} must lie between 2 and the number of runs, {len(runs)}.")
    parts = folds or (5 if len(runs) >= 10 else len(runs))
    members = [sorted(runs.names)[i::parts] for i in range(parts)]  # whatever their order is
    models = {
        (name, K): HMM(K, family, transition, minimum_dwell)
        for name, family in _labels(named).items()
        for K in counts
    }
    for hmm in models.values():
        hmm.check(runs)
    warn_of_metrics(runs, any(hmm.dynamic for hmm in models.values()))
    bar: tqdm[Any] = tqdm(total=len(models), desc="models", disable=not progress)
    with bar:
        fitted = _Parallel(bar, n_jobs=jobs, batch_size=1, pre_dispatch="all")(
            joblib.delayed(fit_candidate)(runs, hmm, members, restarts, log, seed)
            for hmm in models.values()
        )
    candidates = dict(zip(models, fitted, strict=True))
    table = score_table(runs, candidates)
    posteriors = Posteriors(runs, candidates, draws, seed, progress)
    return Comparison(runs, table, candidates, posteriors, tolerance)


def _check_protocol(protocol: str, **given: object) -> None:
    """Refuse another protocol than that of Hu et al., and settings that theirs does not have."""
    if protocol != "hu2023":
        raise ValueError(f"protocol={protocol!r} is not known: 'hu2023', or leave it out.")
    usual = signature(compare).parameters
    others = [f"{name}=" for name, value in given.items() if value != usual[name].default]
    if others:
        raise ValueError(
            f"protocol='hu2023' has settings of its own: leave out {', '.join(others)}."
        )


class _Parallel(joblib.Parallel):
    """joblib's, with a bar: not every backend returns a generator that one could watch."""

    def __init__(self, bar: tqdm[Any], **settings: Any) -> None:
        super().__init__(**settings)
        self._bar = bar

    def print_progress(self) -> None:
        self._bar.update(self.n_completed_tasks - self._bar.n)


def _labels(named: Sequence[str | Emission]) -> dict[str, Emission]:
    """Families by the name that tells them apart in the table."""
    labels: dict[str, Emission] = {}
    for one in named:
        family = HMM(1, one).family
        label = one if isinstance(one, str) else repr(one)
        labels[label] = family
    return labels
