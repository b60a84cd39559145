"""Scores of one model: how well it predicts runs, or rows, that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm.checks.residuals import ResidualScore, residual_score
from bayeshmm.emissions.law import Effects, Law
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.emissions.tails import StudentT
from bayeshmm.encoding import Encoded, Encoding
from bayeshmm.hmm import HMM, run_log_densities
from bayeshmm.inference.predictive import predict
from bayeshmm.inference.search import refine, search
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.runs import Runs

FEWEST_RUNS = 5
"""Runs below which a score of held-out runs is not worth having."""

AHEAD = 2 / 3
"""Share of each run that the one-step-ahead score learns from; the rest is predicted."""


@dataclass(frozen=True)
class Candidate:
    """One fitted model of the comparison.

    Attributes
    ----------
    hmm, encoding, mode, restarts
        The model and its best mode on all runs.
    held_out
        Log density of each run under a fit that has not seen it, (N,); NaN with too few runs.
    ahead
        One-step-ahead log density a row of the last third of the runs, from a fit to the first
        two thirds; NaN where `held_out` exists.
    elbo, bic
        On all runs, in the units of the data.
    residuals
        How far the one-step-ahead residuals of the mode are from independent standard normals.
    """

    hmm: HMM
    encoding: Encoding
    mode: VariationalFit
    restarts: pd.DataFrame
    held_out: NDArray[np.float64]
    ahead: float
    elbo: float
    bic: float
    residuals: ResidualScore


def fit_candidate(
    runs: Runs,
    hmm: HMM,
    members: list[list[str]],
    restarts: int,
    log: Sequence[str] | Mapping[str, float],
    seed: int,
) -> Candidate:
    """Fit `hmm` to all runs, and score it on every fold of runs by a refit without it.

    Parameters
    ----------
    runs
        The data.
    hmm
        The model.
    members
        Names of the runs of each fold.
    restarts, log, seed
        As in `bayeshmm.fit`.
    """
    encoding, data = hmm.encode(runs, log)
    floors = dict(encoding.scaling.floors)
    mode, starts = search(hmm.prior(runs), data, restarts, seed)
    held_out = np.full(len(runs), np.nan)
    ahead = math.nan
    if len(runs) >= FEWEST_RUNS:
        for held in members:
            rest = [n for n, name in enumerate(runs.names) if name not in held]
            training = runs.subset([runs.names[n] for n in rest])
            units, seen = hmm.encode(training, floors, encoding.calendar)
            warm = mode.states[rest, : training.steps.shape[1]]
            refitted = refine(hmm.prior(runs, encoding.calendar), seen, warm)
            score = predict(refitted, units.encode(runs.subset(held))).log_density.numpy()
            held_out[[runs.names.index(name) for name in held]] = score
    else:
        ahead = step_ahead(runs, hmm, encoding, mode)
    jacobian = float(data.log_jacobian.sum())
    occupied = int((mode.states.sum((0, 1)) > 0.5).sum())
    return Candidate(
        hmm=hmm,
        encoding=encoding,
        mode=mode,
        restarts=starts,
        held_out=held_out,
        ahead=ahead,
        elbo=mode.bound + jacobian + mode.prior.transition.label_symmetries(occupied),
        bic=bic(mode, data, float(runs.lengths.sum())),
        residuals=residual_score(
            data, plug_in(mode), mode.parameters.chain.mean, mode.prior.minimum_dwell
        ),
    )


def step_ahead(runs: Runs, hmm: HMM, units: Encoding, mode: VariationalFit) -> float:
    """Log density a row of the last third of the rows, each given the rows before it.

    The parameters are the posterior means of a fit to the first two thirds, in the units of all
    rows: a metric may begin late.
    """
    border = np.clip((AHEAD * runs.lengths).astype(int), 1, runs.lengths - 1)
    frame = runs.to_dataframe()
    row = frame.groupby("run", sort=False).cumcount().to_numpy()
    limit = frame["run"].map(dict(zip(runs.names, border, strict=True))).to_numpy()
    early = Runs.from_dataframe(frame[row < limit], metrics=runs.metrics)
    fitted = refine(hmm.prior(runs), units.encode(early), mode.states[:, : early.steps.shape[1]])
    law = plug_in(fitted)
    chain, dwell = fitted.parameters.chain.mean, fitted.prior.minimum_dwell
    whole, start = (
        float(run_log_densities(units.encode(some), law, chain, dwell).sum())
        for some in (runs, early)
    )
    return (whole - start) / float((runs.lengths - border).sum())


def bic(mode: VariationalFit, data: Encoded, rows: float) -> float:
    """BIC at the posterior means: -2 log likelihood + parameters x log rows.

    A run effect counts for the share of it that the data decide.
    """
    parameters = mode.parameters
    law, dwell = plug_in(mode), mode.prior.minimum_dwell
    total = run_log_densities(data, law, parameters.chain.mean, dwell)
    K, layout = mode.prior.regression.states, data.design.layout
    free: float = (
        K * (int(layout.active.sum()) + layout.metrics) + K**2 - 1 + (law.tail is not None)
    )
    if parameters.regression.runs is not None:
        shrunk = parameters.shrinkage.expected.groups[0, -1] * parameters.regression.runs.variance
        free += float((1.0 - shrunk).sum())
    likelihood = float(total.sum())
    if mode.entry is not None and data.entry is not None:
        first, _ = log_likelihood(data.entry, known(mode.entry.regression.law))
        likelihood += float(first.sum())
        free += int(data.entry.layout.active.sum()) + layout.metrics
    return -2.0 * likelihood + free * math.log(rows)


def plug_in(mode: VariationalFit) -> Law:
    """Posterior means taken for the parameters, run effects included."""
    return known(mode.prior.law(mode.parameters.regression.law, mode.parameters.tail))


def known(law: Law) -> Law:
    """Expectations taken for values."""
    effects = None if law.effects is None else Effects(law.effects.mean)
    tail = None if law.tail is None else StudentT.value(law.tail.degrees)
    return Law(law.coefficients, law.precision, -law.precision.log(), effects=effects, tail=tail)


def per_row(scores: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of run scores per row, and its standard error over runs (a ratio estimate)."""
    mean = scores.sum() / rows.sum()
    spread = scores - mean * rows
    N = len(scores)
    return float(mean), float(np.sqrt(N / max(N - 1, 1) * (spread**2).sum()) / rows.sum())
