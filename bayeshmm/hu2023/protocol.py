"""The protocol: scale every run by itself, fit by EM, choose by BIC on held-out runs, decode."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bayeshmm.alignment import display_order
from bayeshmm.hu2023.derivative import log_posterior_gradient
from bayeshmm.hu2023.gaussian_hmm import Covariance, GaussianHMM
from bayeshmm.hu2023.scaling import FIRST_ROWS, scaled
from bayeshmm.runs import Runs

HELD_OUT = 0.2
"""Share of the runs that are held out."""


@dataclass(frozen=True, eq=False, repr=False)
class Hu2023Comparison:
    """What the analysis of Hu et al. (2023) makes of some runs. Made by `compare`.

    Attributes
    ----------
    runs : Runs
        The data.
    held_out : tuple of str
        Runs that EM has not seen.
    table : DataFrame
        A row per number of ``states``: ``log_likelihood, aic, bic`` of the held-out runs (nats,
        means over restarts), ``bic_sd`` (over restarts), ``parameters``, ``converged`` (share of
        the restarts in which EM stopped before its last iteration).
    models : Mapping
        By number of states, the restart with the highest log-likelihood of the held-out runs;
        states in order of first visit.
    incomplete : int
        Rows that lack a metric, and are left out of ``runs``.
    rows : Tensor
        Metrics z-scored within each run, (N, T, D).
    lengths : Tensor
        Rows of each run that are read, (N,).
    """

    runs: Runs
    held_out: tuple[str, ...]
    table: pd.DataFrame
    models: Mapping[int, GaussianHMM]
    incomplete: int
    rows: Tensor
    lengths: Tensor

    @property
    def states(self) -> int:
        """The number of states with the smallest BIC."""
        return list(self.models)[int(self.table["bic"].argmin())]

    @property
    def best(self) -> GaussianHMM:
        """The model with so many states."""
        return self.models[self.states]

    @cached_property
    def paths(self) -> NDArray[np.int64]:
        """Viterbi paths of all runs under `best`, (N, T); -1 beyond the rows that are read."""
        return self.best.viterbi(self.rows, self.lengths).numpy()

    @cached_property
    def edges(self) -> pd.DataFrame:
        """The map: a row for every change that a Viterbi path makes.

        ``source, target, probability`` (entry of the transition matrix, which labels the edge in
        the paper), ``runs`` (how many make the change) and ``changes`` (how often they make it).
        """
        run, row = self._changes()
        made = pd.DataFrame(
            {"source": self.paths[run, row - 1], "target": self.paths[run, row], "run": run}
        )
        counts = made.groupby(["source", "target"])["run"].agg(runs="nunique", changes="count")
        edges = counts.reset_index()
        matrix = self.best.transition.numpy()
        edges.insert(2, "probability", matrix[edges["source"], edges["target"]])
        return edges

    def explain_transition(self, source: int, target: int) -> pd.DataFrame:
        """What the paper writes at an edge: the metrics that tell most of the state.

        Returns
        -------
        DataFrame
            A row per metric, most telling first: ``derivative``, the mean over the changes of
            ``|d log p(s_t = target | z_1:t) / dz_t|`` in the first row of the target (see
            `log_posterior_gradient`), and ``change``, the mean of the target less that of the
            source, both in standard deviations of a run.

        Raises
        ------
        ValueError
            If no Viterbi path makes this change.
        """
        run, row = self._changes()
        made = (self.paths[run, row - 1] == source) & (self.paths[run, row] == target)
        if not made.any():
            listed = ", ".join(
                f"{edge.source} -> {edge.target}" for edge in self.edges.itertuples()
            )
            raise ValueError(
                f"no Viterbi path changes from {source} to {target}; the changes made are {listed}."
            )
        at = torch.from_numpy(run[made]), torch.from_numpy(row[made])
        filtered = self.best.filter(self.rows, self.lengths)[at]
        gradient = log_posterior_gradient(self.best.scores(self.rows[at]), filtered, target)
        table = pd.DataFrame(
            {
                "metric": self.runs.metrics,
                "derivative": gradient.abs().mean(0).numpy(),
                "change": (self.best.mean[target] - self.best.mean[source]).numpy(),
            }
        )
        return table.sort_values("derivative", ascending=False, ignore_index=True)

    def _changes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Run and row of every change."""
        after, before = self.paths[:, 1:], self.paths[:, :-1]
        run, row = np.nonzero((after != before) & (after >= 0))
        return run, row + 1

    def __repr__(self) -> str:
        return f"{self._words()}\n{self.table.round(3).to_string()}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self._words())}</pre>{self.table.round(3).to_html()}"

    def _words(self) -> str:
        fitted = len(self.runs) - len(self.held_out)
        return "\n".join(
            [
                f"The protocol of Hu et al. (2023) on {len(self.runs)} runs, {fitted} of them "
                f"fitted: K = {self.states} has the smallest BIC on the others. "
                f"{self._reading()}",
                "What speaks against it:",
                *(f"* {fault}" for fault in self.faults),
            ]
        )

    def _reading(self) -> str:
        """The verdict that the paper reads off the map."""
        if self.edges.empty:
            return "No run ever changes its state."
        forks = [
            f"{source} to " + " or ".join(f"{e.target} (runs: {e.runs})" for e in ways.itertuples())
            for source, ways in self.edges.groupby("source")
            if len(ways) > 1
        ]
        return f"The map forks: {'; '.join(forks)}." if forks else "The map is linear."

    @property
    def faults(self) -> list[str]:
        """What is known to be wrong with the conclusion, here and in general."""
        counts, bic = list(self.table.index), self.table["bic"]
        found = []
        if self.states in (counts[0], counts[-1]) and len(counts) > 1:
            found.append(
                f"K = {self.states} is at the edge of the range that was tried, "
                f"{counts[0]} to {counts[-1]}: there may be no minimum."
            )
        spread = self.table["bic_sd"].clip(lower=self.table["bic_sd"].iloc[int(bic.argmin())])
        near = [K for K in bic.index[bic <= bic.min() + spread] if self.states != K]
        if near:
            found.append(
                f"K = {_listed(near)}: a BIC within one standard deviation over restarts of the "
                "smallest. Which wins is chance."
            )
        cut = 1.0 - self.table["converged"].mean()
        if cut > 0:
            found.append(f"{cut:.0%} of the fits were cut off before EM converged.")
        if self.incomplete:
            found.append(f"{self.incomplete} rows that lack a metric are left out.")
        if (self.runs.lengths > self.lengths.numpy()).any():
            found.append(f"Rows after the first {FIRST_ROWS} are not read.")
        few = self.edges[self.edges["runs"] <= 2]
        if len(few):
            found.append(f"{len(few)} of the {len(self.edges)} edges rest on one or two runs.")
        return [
            *found,
            "Each run is scaled by its own mean and standard deviation: that looks ahead, hides "
            "differences of level between runs, and stretches the noise of a run that stalls.",
            "The held-out runs choose the restart and the number of states and are its score.",
            "States are levels, and a smooth drift is cut into as many as BIC will pay for.",
        ]


def compare(
    runs: Runs,
    states: Iterable[int] = range(1, 9),
    *,
    covariance: Covariance = "full",
    restarts: int = 5,
    iterations: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Hu2023Comparison:
    """Choose a number of states as Hu et al. (2023) do.

    Every metric is z-scored within each run over its first 1000 rows (later ones are not read).
    Gaussian hidden Markov models are fitted by Baum-Welch to four fifths of the runs, with the
    defaults of hmmlearn; ``aic`` and ``bic`` are computed *on the other runs* and averaged over
    restarts; the smallest BIC decides, and Viterbi paths of all runs make the map. It is here to
    compare with: `Hu2023Comparison.faults` says what is wrong with it.

    Where the published code leaves things to chance they are seeded here: the split of the runs
    (there: by the order of the file system) and the restarts.

    Parameters
    ----------
    runs
        The data; rows that lack a metric are left out.
    states
        Numbers of states.
    covariance
        ``"full"``, or ``"diag"`` as the paper has it for few short runs.
    restarts
        Fits for every number of states.
    iterations
        Of EM, at most.
    seed
        Same seed, same result, whatever the order of the runs.
    progress
        Whether to show a bar.

    Raises
    ------
    ValueError
        If there are fewer than two runs, or a metric is constant over the rows of a run that are
        read, and so has no z-score.
    """
    counts = sorted({int(K) for K in states})
    if not counts or counts[0] < 1:
        raise ValueError(f"states={counts} must be numbers of at least 1.")
    if covariance not in ("full", "diag"):
        raise ValueError(f"covariance must be 'full' or 'diag', not {covariance!r}.")
    if len(runs) < 2:
        raise ValueError("the protocol holds out a fifth of the runs: give at least two.")
    complete = runs.to_dataframe().dropna(subset=list(runs.metrics))
    incomplete = int(runs.lengths.sum()) - len(complete)
    if incomplete:
        runs = Runs.from_dataframe(complete, metrics=runs.metrics)
    rows, lengths = scaled(runs)
    by_name = np.argsort(np.array(runs.names))
    chosen = np.random.default_rng(seed).permutation(by_name)[: math.ceil(HELD_OUT * len(runs))]
    held = torch.zeros(len(runs), dtype=torch.bool)
    held[torch.from_numpy(chosen)] = True
    order = torch.from_numpy(by_name)
    seen, unseen = order[~held[order]], order[held[order]]
    models, records = {}, []
    for K in tqdm(counts, desc="numbers of states", disable=not progress):
        fits = [
            GaussianHMM.start(rows[seen], lengths[seen], K, covariance, [seed, K, restart]).fit(
                rows[seen], lengths[seen], iterations
            )
            for restart in range(restarts)
        ]
        scores = [model.log_likelihood(rows[unseen], lengths[unseen]) for model, _ in fits]
        bic = [model.bic(rows[unseen], lengths[unseen]) for model, _ in fits]
        best, _ = fits[int(np.argmax(scores))]
        models[K] = best.relabelled(display_order(best.viterbi(rows, lengths), K))
        records.append(
            {
                "log_likelihood": np.mean(scores),
                "aic": 2.0 * (best.parameters - np.mean(scores)),
                "bic": np.mean(bic),
                "bic_sd": np.std(bic, ddof=1) if restarts > 1 else math.nan,
                "parameters": best.parameters,
                "converged": np.mean([converged for _, converged in fits]),
            }
        )
    table = pd.DataFrame(records, index=pd.Index(counts, name="states"))
    table.attrs["units"] = "nats, of the held-out runs in standard deviations of each run"
    names = tuple(runs.names[n] for n in unseen.tolist())
    return Hu2023Comparison(runs, names, table, models, incomplete, rows, lengths)


def _listed(numbers: list[int]) -> str:
    words = [str(number) for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
