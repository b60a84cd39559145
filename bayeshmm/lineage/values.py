"""Values that blow up, and metrics that some runs lack or hold still."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from bayeshmm.lineage.findings import Finding, of_runs, without
from bayeshmm.lineage.raw import Log

LOSS = re.compile(
    r"loss|nll|ppl|perplexity|cross_?entropy|(?<![a-z])(?:ce|mse|bpb|bpc)(?![a-z])", re.IGNORECASE
)
"""Metrics that training lowers."""

FAR = 2.0
"""Ranges of the ordinary loss above its top from which a loss has blown up: test losses of
memorising networks rise to about twice their start, and fall again."""

STAYS = 5
"""Rows at the end of a run that are as far, for a loss to have blown up: spikes are shorter."""

LOST = 3
"""Times the longest inner stretch of missing values by which a last one is longer, for a metric to
have ended: one that is measured in every tenth row may lack the last nine."""

FEW_ROWS = 10
"""Rows below which a metric that stands still tells nothing."""


def diverged(log: Log) -> list[Finding]:
    """Find values that are not finite, losses that stay far above all others, and lost metrics."""
    faults: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for names in log.groups.values():
        losses = {
            metric: _ordinary(log, names, metric) for metric in log.metrics if LOSS.search(metric)
        }
        for run in names:
            rows = log.by_run[run]
            steps = rows["step"].to_numpy()
            values = rows[log.metrics].to_numpy()
            for column, metric in enumerate(log.metrics):
                infinite = np.isinf(values[:, column])
                if infinite.any():
                    step = int(steps[infinite.argmax()])
                    faults[run].append((step, metric, f"is not finite, first at step {step}"))
            for metric, ordinary in losses.items():
                column = log.metrics.index(metric)
                if (row := _end(values, column)) is not None:
                    step = int(steps[row])
                    faults[run].append((step, metric, f"is missing from step {step} on"))
                if (row := _blown_up(values[:, column], *ordinary[run])) is not None:
                    step = int(steps[row])
                    told = f"stays far above its start from step {step} on"
                    faults[run].append((step, metric, told))
    found = []
    for run in (run for run in log.names if run in faults):
        step = min(step for step, _, _ in faults[run])
        metrics = tuple(dict.fromkeys(metric for _, metric, _ in faults[run]))
        cases: dict[str, list[str]] = defaultdict(list)
        for _, metric, what in faults[run]:
            cases[what].append(repr(metric))
        said = "; ".join(f"{', '.join(named)} {what}" for what, named in cases.items())
        detail = f"{of_runs([run])}: {said}"
        mend = (
            f'cut the run there: df = df[(df["run"] != {run!r}) | (df["step"] < {step})] (values '
            "that are not finite also by bh.Runs.read(path, nonfinite='truncate')), or leave it "
            f"out: {without((run,))}"
        )
        found.append(Finding("diverged", "error", (run,), (step,), metrics, detail, mend))
    return found


def missing_metrics(log: Log) -> list[Finding]:
    """Find metrics that some runs never recorded, or no longer from a row on, and others did.

    A loss that is missing from a row on has diverged.
    """
    cases: dict[tuple[tuple[str, ...], tuple[int, ...]], list[str]] = defaultdict(list)
    values = {run: rows[log.metrics].to_numpy() for run, rows in log.by_run.items()}
    for column, metric in enumerate(log.metrics):
        lost: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for run, rows in log.by_run.items():
            if np.isnan(values[run][:, column]).all():
                lost[()].append(run)
            elif not LOSS.search(metric) and (row := _end(values[run], column)) is not None:
                lost[(int(rows["step"].iloc[row]),)].append(run)
        if sum(map(len, lost.values())) < len(log.names):
            for steps, runs in lost.items():
                cases[tuple(runs), steps].append(metric)
    return [
        Finding(
            "missing_metric",
            "error",
            runs,
            steps,
            tuple(metrics),
            f"{of_runs(runs)}: {', '.join(map(repr, metrics))} "
            + (f"missing from step {steps[0]} on" if steps else "never recorded")
            + f", unlike in {len(log.names) - len(runs)} of {len(log.names)} runs",
            f"df = df.drop(columns={metrics!r}), or leave the runs out: {without(runs)}",
        )
        for (runs, steps), metrics in cases.items()
    ]


def constant_metrics(log: Log) -> list[Finding]:
    """Find metrics that never change in some runs, and do in others."""
    by_run = log.ordered.groupby("run", observed=True)[log.metrics]
    low, high, count = by_run.min(), by_run.max(), by_run.count()
    cases = defaultdict(list)
    for metric in log.metrics:
        long = count[metric] >= FEW_ROWS
        still = long & (low[metric] == high[metric])
        moving = long & (low[metric] != high[metric])
        if still.any() and moving.any():
            cases[tuple(still.index[still].astype(str))].append(metric)
    return [
        Finding(
            "constant_metric",
            "warning",
            runs,
            (),
            tuple(metrics),
            f"{of_runs(runs)}: {', '.join(map(repr, metrics))} never changes (from "
            f"{low.loc[runs[0], metrics[0]]:.6g} in {runs[0]!r}), unlike in "
            f"{len(low) - len(runs)} of {len(low)} runs",
            f"see whether it was measured; df = df.drop(columns={metrics!r}), or leave the runs "
            f"out: {without(runs)}",
        )
        for runs, metrics in cases.items()
    ]


def _ordinary(log: Log, names: list[str], metric: str) -> dict[str, tuple[float, float]]:
    """Return for each run the lowest and the highest value that are ordinary in its group.

    Ordinary is what a run began with, and where half of the other runs went.
    """
    start, low, high = {}, {}, {}
    for run in names:
        values = log.by_run[run][metric]
        values = values[np.isfinite(values)]
        if len(values):
            start[run] = values.iloc[:3].max()
            low[run], high[run] = values.min(), values.max()
    # alone, a test loss may rise without end; a training loss may not
    unbounded = len(start) < 3 and not re.search("train", metric, re.IGNORECASE)
    found = {}
    for run in names:
        others = [other for other in start if other != run]
        if run not in start or unbounded:
            found[run] = -np.inf, np.inf
            continue
        tops = [high[other] for other in others]
        bottoms = [low[other] for other in others]
        found[run] = (
            min([low[run], *([np.median(bottoms)] if others else [])]),
            max([start[run], *([np.median(tops)] if others else [])]),
        )
    return found


def _blown_up(values: NDArray[np.float64], low: float, high: float) -> int | None:
    """Return the first of the last rows that all lie far above the ordinary range, if they do."""
    bound = high + FAR * (high - low)
    far = (values > bound) | np.isnan(values) | np.isinf(values)
    if not (values[np.isfinite(values)] > bound).any():
        return None
    first = len(values) - int(np.argmin(far[::-1])) if not far.all() else 0
    finite = np.isfinite(values[first:])
    if finite.sum() < STAYS:
        return None
    return first + int(finite.argmax())


def _end(values: NDArray[np.float64], column: int) -> int | None:
    """Return the row from which on a metric is missing that was there, and others still are."""
    there = np.flatnonzero(~np.isnan(values[:, column]))
    if not len(there) or there[-1] == len(values) - 1:
        return None
    last = int(there[-1])
    inner = int(np.diff(there).max(initial=1)) - 1
    others = ~np.isnan(values[last + 1 :]).all(axis=1)
    return last + 1 if others.sum() >= LOST * max(1, inner) else None
