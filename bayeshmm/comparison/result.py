"""What a comparison of models says: the table, the choice and its reasons, the posteriors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm import defaults
from bayeshmm.comparison import choice
from bayeshmm.comparison.choice import Key
from bayeshmm.comparison.scoring import Candidate
from bayeshmm.comparison.tempering import WEIGHTS, tempering_curve
from bayeshmm.fitting import draw
from bayeshmm.posterior import Posterior
from bayeshmm.runs import Runs


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
        ``bic``, ``autocorrelation`` (of one-step-ahead residuals from row to row, of the metric
        where it is largest), ``normality`` (mean distance of their quantiles from standard normal
        ones, in standard deviations), ``agreement`` (of the restarts that converged nearest, with
        the best), ``smallest_share`` (of rows, of the rarest phase) and ``edge`` (whether the best
        score lies at the edge of the range). Units are in ``attrs``.
    candidates : Mapping
        The fitted modes by (emission, states).
    posteriors : Mapping
        By (emission, states); drawn when first asked for.
    asked_tolerance : float or None
        That of `compare`.
    """

    runs: Runs
    table: pd.DataFrame
    candidates: Mapping[Key, Candidate]
    posteriors: Mapping[Key, Posterior]
    asked_tolerance: float | None

    @property
    def score(self) -> str:
        """The column that decides: ``elpd``, or ``step_ahead`` with too few runs."""
        return choice.deciding(self.table)

    @cached_property
    def best_key(self) -> Key:
        """The smallest number of states that is good enough, in the best family.

        Good enough is within max(one paired standard error, `tolerance`) of the best score. Where
        another family predicts alike with fewer states, it is chosen: see
        `bayeshmm.comparison.choice.choose`.
        """
        return choice.choose(self.table, len(self.runs.metrics), self.asked_tolerance)

    @property
    def tolerance(self) -> float:
        """Nats per row by which the chosen model may be worse than the best of its family."""
        if self.asked_tolerance is not None:
            return self.asked_tolerance
        scores = self.table[self.score].xs(self.best_key[0], level=0).sort_index()
        return choice.usual_tolerance(scores, len(self.runs.metrics))

    @property
    def reason(self) -> str:
        """Why `best_key`, in words."""
        metrics = len(self.runs.metrics)
        return choice.reason(self.table, self.best_key, metrics, self.asked_tolerance)

    @property
    def remarks(self) -> list[str]:
        """What the table shows beside the choice, a sentence each."""
        tie = defaults.TIE_PER_METRIC * len(self.runs.metrics)
        return choice.remarks(self.table, self.best_key, tie)

    @cached_property
    def best(self) -> Posterior:
        """The posterior at `best_key`.

        Warns
        -----
        ComparisonWarning
            If there were too few runs to hold any out, the largest number of states is chosen, or
            the residuals of the family chosen are autocorrelated.
        """
        for remark in choice.doubts(self.table, self.best_key):
            warnings.warn(remark, ComparisonWarning, stacklevel=3)
        return self.posteriors[self.best_key]

    def plot(self, ax: object = None) -> object:
        """Draw the score against the number of states; see `bayeshmm.plots.state_counts`."""
        from bayeshmm import plots  # the plots build on this room

        return plots.state_counts(self, ax=ax)  # type: ignore[arg-type]

    def states_of(self, key: Key) -> NDArray[np.float64]:
        """Probability of each state in each row at the mode of a candidate, (N, T, K)."""
        return self.candidates[key].mode.states.numpy()

    def tempering(self, weights: Sequence[float] = WEIGHTS, progress: bool = True) -> pd.DataFrame:
        """How the preferred number of states depends on how much each run is believed.

        Every candidate is fitted again with each run counted less than once, and the evidence
        bounds are compared within each family. A number that holds from weight 1 to 0.1 stands for
        something large; one that falls stands for misfit that further states mend.

        Parameters
        ----------
        weights
            How many times each run counts, in (0, 1].
        progress
            Whether to show a bar.

        Returns
        -------
        DataFrame
            Indexed by (emission, states), a column for each weight: nats less than the family's
            best; 0 where the weight prefers that number.
        """
        return tempering_curve(self.runs, self.candidates, weights, progress)

    def __repr__(self) -> str:
        return "\n".join([self._verdict, *self.remarks, self.table.round(3).to_string()])

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{escape(text)}</p>" for text in (self._verdict, *self.remarks))
        return f"{said}{self.table.round(3).to_html()}<p>{self.table.attrs['units']}</p>"

    @property
    def _verdict(self) -> str:
        emission, states = self.best_key
        return (
            f"Comparison of {len(self.table)} models on {len(self.runs)} runs; "
            f"chosen: {states} states, {emission}: {self.reason}."
        )
