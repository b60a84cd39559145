"""How many phases: state counts and families judged on runs that a fit has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from bayeshmm import defaults
from bayeshmm.emissions import Emission, PyroEmission
from bayeshmm.fitting import check_numbers, draw
from bayeshmm.hmm import HMM
from bayeshmm.metric_checks import warn_of_metrics
from bayeshmm.posterior import Posterior
from bayeshmm.runs import Runs
from bayeshmm.scoring import FEWEST_RUNS, Candidate, fit_candidate, per_row
from bayeshmm.transitions import Transition

Key = tuple[str, int]


class ComparisonWarning(UserWarning):
    """The comparison cannot tell what it was asked; the message says why and what would."""


class Posteriors(Mapping[Key, Posterior]):
    """Posteriors by (emission, states); each is drawn when it is first asked for."""

    def __init__(
        self, runs: Runs, candidates: Mapping[Key, Candidate], draws: int, seed: int, progress: bool
    ) -> None:
        self._runs, self._candidates = runs, candidates
        self._draws, self._seed, self._progress = draws, seed, progress
        self._drawn: dict[Key, Posterior] = {}

    def __getitem__(self, key: Key) -> Posterior:
        if key not in self._candidates:
            raise KeyError(f"{key!r} was not compared; there are {list(self._candidates)}")
        if key not in self._drawn:
            one = self._candidates[key]
            self._drawn[key] = draw(
                self._runs,
                one.hmm,
                one.encoding,
                one.encoding.encode(self._runs),
                one.mode,
                one.restarts,
                "auto",
                self._draws,
                self._seed,
                self._progress,
            )
        return self._drawn[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._candidates)

    def __len__(self) -> int:
        return len(self._candidates)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """State counts and families side by side. Made by `bayeshmm.compare`.

    Attributes
    ----------
    runs : Runs
        The data.
    table : DataFrame
        A row per (emission, states): ``elbo`` (evidence lower bound on all runs, + log K! for
        the labellings where phases are alike before any run is seen; no bound with `Grouped` and
        `StickyHDP`, whose hyper-parameters are point estimates in it), ``elpd`` (log predictive
        density of held-out runs, nats per row), ``elpd_se``, ``elpd_diff`` (less the best),
        ``diff_se`` (paired over runs), ``step_ahead`` (in place of elpd with fewer than five runs),
        ``bic``, ``agreement`` (of the restarts that converged nearest, with the best),
        ``smallest_share`` (of rows, of the rarest phase) and ``edge`` (whether the best score lies
        at the edge of the range). Units are in ``attrs``.
    posteriors : Mapping
        By (emission, states); drawn when first asked for.
    tolerance : float
        Nats per row that a further phase must be worth.
    """

    runs: Runs
    table: pd.DataFrame
    posteriors: Mapping[Key, Posterior]
    tolerance: float

    @property
    def score(self) -> str:
        """The column that decides: ``elpd``, or ``step_ahead`` with too few runs."""
        return "step_ahead" if self.table["elpd"].isna().all() else "elpd"

    @cached_property
    def best_key(self) -> Key:
        """The smallest number of states that is good enough, in the best family.

        Good enough is within max(one paired standard error, `tolerance`) of the best score.
        """
        return choose(self.table, self.score, self.tolerance)

    @property
    def reason(self) -> str:
        """Why `best_key`, in words."""
        family = self.table.loc[self.best_key[0]]
        top = family[self.score].idxmax()
        what = "held-out" if self.score == "elpd" else "one-step-ahead"
        if top == self.best_key[1]:
            return f"the best {what} log density, {family[self.score].max():.2f} nats a row"
        worse = family[self.score].max() - family.loc[self.best_key[1], self.score]
        return (
            f"the fewest within {self.tolerance:g} nats a row, or one standard error, of the best "
            f"{what} log density: {worse:.2f} below that of {top} states"
        )

    @cached_property
    def best(self) -> Posterior:
        """The posterior at `best_key`.

        Warns
        -----
        ComparisonWarning
            If there were too few runs to hold any out, or the largest number of states is chosen.
        """
        if self.score != "elpd":
            warnings.warn(
                f"{self.table.attrs['elpd']}: the choice of {self.best_key[1]} states rests on "
                "how well the last third of the rows is predicted from the rest. Log more runs.",
                ComparisonWarning,
                stacklevel=3,
            )
        emission, states = self.best_key
        compared = [K for name, K in self.table.index if name == emission]
        if states == max(compared) and len(compared) > 1:
            warnings.warn(
                f"{states} states, the most that were compared, are chosen: compare more.",
                ComparisonWarning,
                stacklevel=3,
            )
        return self.posteriors[self.best_key]

    def plot(self, ax: object = None) -> object:
        """Draw the score against the number of states; see `bayeshmm.plots.state_counts`."""
        from bayeshmm import plots  # the plots build on this room

        return plots.state_counts(self, ax=ax)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        emission, states = self.best_key
        lines = [
            f"Comparison of {len(self.table)} models on {len(self.runs)} runs; "
            f"chosen: {states} states, {emission}.",
            self.table.round(3).to_string(),
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        emission, states = self.best_key
        return (
            f"<p>{len(self.runs)} runs; chosen: {states} states, {emission}. "
            f"{self.table.attrs['units']}</p>{self.table.round(3).to_html()}"
        )


def compare(
    runs: Runs,
    states: Iterable[int] = range(1, 9),
    emission: str | Emission | Sequence[str | Emission] = "autoregressive",
    *,
    tolerance: float = defaults.TOLERANCE,
    folds: int | None = None,
    metrics: str | Iterable[str] | None = None,
    transition: Transition | None = None,
    minimum_dwell: int | None = None,
    restarts: int = defaults.RESTARTS,
    draws: int = defaults.DRAWS,
    log: Sequence[str] | Mapping[str, float] = (),
    jobs: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
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
        alone the number would grow with the number of seeds.
    folds
        Parts that the runs are split into. Default: 5, each run by itself below 10 runs.
    jobs
        Processes that fit at the same time; -1 for one per core. By default that of the active
        ``joblib.parallel_config``, whose backend is used; without it, 1. The result does not depend
        on it.
    metrics, transition, minimum_dwell, restarts, draws, log, seed, progress
        As in `bayeshmm.fit`.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        Naming the run, the metric and the mend.
    """
    if metrics is not None:
        runs = runs.select(metrics)
    if not isinstance(states, Iterable):
        raise ValueError(f"states={states!r} is not a range: give range(1, 9), or a list.")
    check_numbers(restarts, draws)
    counts = sorted(set(states))
    named = [emission] if isinstance(emission, str | Emission | PyroEmission) else list(emission)
    if not counts or not named:
        raise ValueError("nothing to compare: give at least one number of states and one family.")
    if folds is not None and not 2 <= folds <= len(runs):
        raise ValueError(f"folds={folds} must lie between 2 and the number of runs, {len(runs)}.")
    parts = folds or (5 if len(runs) >= 10 else len(runs))
    members = [list(runs.names[i::parts]) for i in range(parts)]
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
    table = _table(runs, candidates)
    return Comparison(runs, table, Posteriors(runs, candidates, draws, seed, progress), tolerance)


class _Parallel(joblib.Parallel):
    """joblib's, with a bar: not every backend returns a generator that one could watch."""

    def __init__(self, bar: tqdm[Any], **settings: Any) -> None:
        super().__init__(**settings)
        self._bar = bar

    def print_progress(self) -> None:
        self._bar.update(self.n_completed_tasks - self._bar.n)


def choose(table: pd.DataFrame, score: str, tolerance: float) -> Key:
    """The smallest number of states within the tolerance of the best, in the best family."""
    keys = list(table.index)
    best = int(table[score].argmax())
    margin = np.fmax(table["diff_se"].fillna(0.0), tolerance)
    enough = (table[score] >= table[score].iloc[best] - margin).to_numpy()
    emission = keys[best][0]
    return emission, min(keys[i][1] for i in np.flatnonzero(enough) if keys[i][0] == emission)


def _labels(named: Sequence[str | Emission]) -> dict[str, Emission]:
    """Families by the name that tells them apart in the table."""
    labels: dict[str, Emission] = {}
    for one in named:
        family = HMM(1, one).family
        label = one if isinstance(one, str) else repr(one)
        labels[label] = family
    return labels


def _table(runs: Runs, candidates: Mapping[Key, Candidate]) -> pd.DataFrame:
    rows_per_run = runs.lengths.astype(float)
    total = rows_per_run.sum()
    scores = {key: one.held_out for key, one in candidates.items()}
    best = max(scores, key=lambda key: np.nan_to_num(scores[key].sum(), nan=-np.inf))
    records = []
    for one in candidates.values():
        elpd, elpd_se = per_row(one.held_out, rows_per_run)
        difference, diff_se = per_row(one.held_out - scores[best], rows_per_run)
        share = one.mode.states.sum((0, 1)) / total
        records.append(
            {
                "elbo": one.elbo,
                "elpd": elpd,
                "elpd_se": elpd_se,
                "elpd_diff": difference,
                "diff_se": diff_se,
                "step_ahead": one.ahead,
                "bic": one.bic,
                "agreement": _restart_agreement(one.restarts),
                "smallest_share": float(share.min()),
            }
        )
    index = pd.MultiIndex.from_tuples(candidates, names=["emission", "states"])
    table = pd.DataFrame(records, index=index)
    score = "step_ahead" if table["elpd"].isna().all() else "elpd"
    top = table[score].groupby("emission").transform("max") == table[score]
    counts = table.index.get_level_values("states")
    table["edge"] = top & ((counts == counts.max()) | (counts == counts.min()) & (counts > 1))
    table.attrs["units"] = (
        "elpd, elpd_se, elpd_diff, diff_se and step_ahead are in nats per row, in the units of "
        "the data as given; elbo and bic are in nats, for all runs."
    )
    if score != "elpd":
        table.attrs["elpd"] = (
            f"with {len(runs)} runs, fewer than {FEWEST_RUNS}, none can be held out, so elpd is NaN"
        )
    return table


def _restart_agreement(restarts: pd.DataFrame) -> float:
    """Mean agreement with the best of the starts that were followed longest, the best aside."""
    starts = restarts[restarts["start"] >= 0]
    longest = starts["sweeps"] == starts["sweeps"].max()
    others = starts[longest].drop(index=0, errors="ignore")
    return float(others["agreement"].mean()) if len(others) else 1.0
