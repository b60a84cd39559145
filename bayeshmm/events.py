"""Outside events: when a run first does something, and which phase that falls into."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm import phases
from bayeshmm.posterior import Posterior
from bayeshmm.runs import Runs

COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Event:
    """The first row in which a metric passes a threshold.

    Attributes
    ----------
    metric
        Any numeric column of the runs, whether the model sees it or not.
    comparison
        One of ``> >= < <=``.
    threshold
        The value to pass.
    """

    metric: str
    comparison: str
    threshold: float

    @classmethod
    def parse(cls, text: str) -> Event:
        """Read ``"test/acc > 0.9"``.

        Raises
        ------
        ValueError
            If `text` is not of that form.
        """
        found = re.fullmatch(r"\s*(\S+?)\s*(>=|<=|>|<)\s*(\S+)\s*", text)
        try:
            if found is None:
                raise ValueError
            return cls(found[1], found[2], float(found[3]))
        except ValueError:
            raise ValueError(
                f"{text!r} is not an event: write METRIC > NUMBER, for example 'test/acc > 0.9'."
            ) from None

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.threshold:g}"

    def rows(self, runs: Runs) -> NDArray[np.int64]:
        """Row of the event in every run, (N,); -1 where it never happens."""
        happened = COMPARISONS[self.comparison](runs.column(self.metric), self.threshold)
        return np.where(happened.any(axis=1), happened.argmax(axis=1), -1)


def halves(runs: Runs, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every second run that has the event, and the others: to choose on one, check on the other."""
    happened = np.flatnonzero(rows >= 0)
    return happened[::2], happened[1::2]


def containing_phase(posterior: Posterior, event: Event) -> pd.DataFrame:
    """Which phase contains the event: chosen on half of the runs, checked on the others.

    Returns
    -------
    DataFrame
        A row per direction (each half chooses once): ``state``, ``checked`` (number of other
        runs), ``contained`` (in how many of them the event most probably falls into that phase),
        ``lag`` and ``lag_sd``: over those runs, mean and standard deviation of the phase's median
        first entry less the event, in training steps.
    """
    rows = event.rows(posterior.runs)
    inside = phases.containing_phase(posterior.paths, rows, posterior.states)
    first, second = halves(posterior.runs, rows)
    records = []
    for chosen_on, checked_on in ((first, second), (second, first)):
        if not len(chosen_on) or not len(checked_on):
            continue
        state = int(inside[chosen_on].sum(axis=0).argmax())
        lag = lags(posterior, rows, state)[checked_on]
        records.append(
            {
                "state": posterior.state_names[state],
                "checked": len(checked_on),
                "contained": int((inside[checked_on].argmax(axis=1) == state).sum()),
                "lag": float(np.nanmean(lag)) if (~np.isnan(lag)).any() else np.nan,
                "lag_sd": _spread(lag),
            }
        )
    return pd.DataFrame(records, columns=["state", "checked", "contained", "lag", "lag_sd"])


def leading_boundary(posterior: Posterior, event: Event) -> pd.DataFrame:
    """Which phase's entry goes with the event: chosen on half of the runs, checked on the others.

    Chosen is the entry with the highest correlation with the event over runs.

    Returns
    -------
    DataFrame
        A row per direction: ``state``, ``checked`` (number of other runs with that entry),
        ``correlation`` with the event over them, ``lag`` and ``lag_sd`` of the entry less the
        event, in training steps.
    """
    runs = posterior.runs
    rows = event.rows(runs)
    steps = np.where(rows >= 0, runs.steps[np.arange(len(runs)), rows], np.nan).astype(float)
    entries = np.stack([steps + lags(posterior, rows, k) for k in range(posterior.states)])
    first, second = halves(runs, rows)
    records = []
    for chosen_on, checked_on in ((first, second), (second, first)):
        scores = [_correlation(entry[chosen_on], steps[chosen_on]) for entry in entries]
        if np.isnan(scores).all():
            continue
        state = int(np.nanargmax(scores))
        entry = entries[state][checked_on]
        lag = entry - steps[checked_on]
        records.append(
            {
                "state": posterior.state_names[state],
                "checked": int((~np.isnan(entry)).sum()),
                "correlation": _correlation(entry, steps[checked_on]),
                "lag": float(np.nanmean(lag)) if (~np.isnan(lag)).any() else np.nan,
                "lag_sd": _spread(lag),
            }
        )
    return pd.DataFrame(records, columns=["state", "checked", "correlation", "lag", "lag_sd"])


def lags(posterior: Posterior, rows: NDArray[np.int64], state: int) -> NDArray[np.float64]:
    """Median first entry of a phase less the event, in steps, (N,); NaN where there is neither."""
    runs = posterior.runs
    entered = phases.boundary_entry_steps(posterior.paths, runs.steps, state)
    steps = runs.steps[np.arange(len(runs)), np.maximum(rows, 0)]
    return np.where(rows >= 0, entered - steps, np.nan)


def _correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Pearson correlation over the runs that have both; NaN below three, or without spread."""
    both = ~(np.isnan(left) | np.isnan(right))
    if both.sum() < 3 or np.ptp(left[both]) == 0 or np.ptp(right[both]) == 0:
        return float("nan")
    return float(np.corrcoef(left[both], right[both])[0, 1])


def _spread(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else float("nan")
