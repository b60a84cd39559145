"""Metrics that change their unit, within a run or from one run to the others."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bayeshmm.lineage.findings import Finding, Severity, of_runs
from bayeshmm.lineage.raw import Log

DECIMAL = 10.0 ** np.arange(1, 10)
"""Factors of a change from fractions to percent, to thousandths, to millions."""

UNITS = np.concatenate([DECIMAL, [60.0, 3600.0], 2.0 ** np.arange(3, 21)])
"""All factors that a change of unit is likely to have: also seconds, sums over a batch, bits."""

FACTOR = 7.5
"""Smallest factor that is looked for: a loss may well differ by less."""

NEAR = 0.05
"""Relative error of a factor that is one of `UNITS`, besides what the noise explains."""

BLURRED = 0.2
"""Error of a log factor from which the noise hides whether it is a unit: powers of two are 0.7
apart. Then other metrics must witness that nothing happened to the training."""

WITNESSES = 2
"""Other metrics that do so: they move before the jump, and no more than usual in it."""

WINDOW = 10
"""Rows on both sides of a jump that are compared."""

FEW_ROWS = 4
"""Rows that there must be on either side of a jump, to tell it from a spike."""

OUTSTANDING = 10.0
"""Times the usual movement per row that makes a jump."""

UNUSUAL = 5.0
"""Times the usual movement of another metric from which it takes part in the jump."""

SAME_NOISE = 5.0
"""Factor within which the relative movement is as large after a change of unit as before."""

SPREADS = 6.0
"""Median absolute deviations between runs from which one is on another scale."""

CONSTANT = 0.25
"""Share of a log factor by which it may differ between the parts of a run."""

PARTS = 4
"""Parts of a run, in each of which another scale must show: runs that learn less differ late."""


def unit_jumps(log: Log) -> list[Finding]:
    """Find rows from which on a metric is multiplied by a constant.

    The relative change is outstanding and lasts, the relative noise remains what it was, and no
    other metric jumps: where training collapses, several do, and their noise changes.
    """
    size = _magnitudes(log)
    run = log.ordered["run"].cat.codes.to_numpy()
    jumps: dict[tuple[str, int], dict[str, _Jump]] = defaultdict(dict)
    for metric in log.metrics:
        there = np.flatnonzero(np.isfinite(size[metric].to_numpy()))
        values, runs = size[metric].to_numpy()[there], run[there].astype(np.intp)
        for i in _candidates(values, runs):
            own = slice(*np.searchsorted(runs, [runs[i], runs[i] + 1]))
            jump = _jump(values[own], int(i - own.start))
            if jump is not None:
                jumps[log.names[runs[i]], int(there[i])][metric] = jump
    found = []
    for (name, row), together in jumps.items():
        if not _witnessed(log, name, row, together):
            continue
        step = int(log.ordered["step"].iloc[row])
        cases: dict[int, list[str]] = defaultdict(list)
        for metric, jump in together.items():
            cases[_unit(jump.factor, jump.noise)].append(metric)
        found += [
            Finding(
                "unit_jump",
                "error",
                (name,),
                (step,),
                tuple(metrics),
                f"{of_runs([name])}: {', '.join(map(repr, metrics))} {_times(unit)} from step "
                f"{step} on",
                f'df.loc[(df["run"] == {name!r}) & (df["step"] >= {step}), {metrics!r}] '
                f"{_undo(unit)}",
            )
            for unit, metrics in cases.items()
        ]
    return found


def other_units(log: Log) -> list[Finding]:
    """Find runs in which a metric is a constant multiple of what it is in the other runs.

    Where the factor is no likely unit, it may be a condition: that is a warning.
    """
    if len(log.names) < 3:
        return []
    size = _magnitudes(log)
    ordered = log.ordered
    cases: dict[tuple[str, int, Severity], list[str]] = defaultdict(list)
    for metric in log.metrics:
        ratio = size[metric] - size[metric].groupby(ordered["step"]).transform("median")
        frame = pd.DataFrame({"run": ordered["run"].cat.codes, "ratio": ratio}).dropna()
        place = frame.groupby("run").cumcount() / frame.groupby("run")["ratio"].transform("size")
        frame["part"] = (PARTS * place).astype(int)
        parts = frame.pivot_table(index="run", columns="part", values="ratio", aggfunc="median")
        if parts.shape[1] < PARTS or len(parts) < 3:
            continue
        # the first rows count too: there runs are often most alike
        parts["start"] = frame.groupby("run").head(3).groupby("run")["ratio"].median()
        levels = parts.to_numpy()
        level = np.median(levels, axis=1)
        spread = np.median(np.abs(levels - np.median(levels, axis=0)), axis=0)
        constant = np.abs(levels - level[:, None]).max(axis=1) <= CONSTANT * np.abs(level)
        far = np.abs(levels).min(axis=1) > np.maximum(np.log(FACTOR), SPREADS * spread.max())
        for i in np.flatnonzero(constant & far).tolist():
            factor = float(levels[i, spread.argmin()])
            severity: Severity = "error" if _error(factor) <= BLURRED else "warning"
            cases[log.names[parts.index[i]], _unit(factor), severity].append(metric)
    return [
        Finding(
            "other_unit",
            severity,
            (name,),
            (),
            tuple(metrics),
            f"{of_runs([name])}: {', '.join(map(repr, metrics))} {_times(unit)} all along, "
            f"against the other {len(log.names) - 1} runs",
            f'df.loc[df["run"] == {name!r}, {metrics!r}] {_undo(unit)}',
        )
        for (name, unit, severity), metrics in cases.items()
    ]


def _magnitudes(log: Log) -> pd.DataFrame:
    """Return the log magnitude of every metric, NaN where it is zero or not finite."""
    values = np.abs(log.ordered[log.metrics].to_numpy())
    usable = np.isfinite(values) & (values > 0)
    return pd.DataFrame(
        np.log(values, out=np.full_like(values, np.nan), where=usable), columns=log.metrics
    )


class _Jump(NamedTuple):
    """A lasting jump of log magnitudes."""

    factor: float  # log
    noise: float  # usual relative movement per row

    @property
    def sure(self) -> bool:
        """Whether its factor is that of a unit, and the noise small enough to tell."""
        return _error(self.factor) <= min(NEAR + 2.0 * self.noise, BLURRED)


def _candidates(values: NDArray[np.float64], runs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the rows from which on `FEW_ROWS` are apart from as many before, in one run."""
    if len(values) < 2 * FEW_ROWS:
        return np.zeros(0, dtype=np.intp)
    windows = sliding_window_view(values, FEW_ROWS)
    low, high = windows.min(axis=1), windows.max(axis=1)
    apart = np.maximum(low[FEW_ROWS:] - high[:-FEW_ROWS], low[:-FEW_ROWS] - high[FEW_ROWS:])
    within = runs[2 * FEW_ROWS - 1 :] == runs[: 1 - 2 * FEW_ROWS]
    return np.flatnonzero(within & (apart > 0.5 * np.log(FACTOR))) + FEW_ROWS


def _jump(values: NDArray[np.float64], at: int) -> _Jump | None:
    """Return the jump at a row, None if it does not look like a change of unit.

    What is lasting is judged by the rows next to it, and what is usual by how these move.
    """
    before, after = values[max(0, at - WINDOW) : at], values[at : at + WINDOW]
    factor = _step(before, after)
    apart = (after.min() - before.max()) if factor > 0 else (before.min() - after.max())
    noises = [np.abs(np.diff(part)).mean() for part in (before, after)]
    noise = max(noises)
    same_noise = noise <= SAME_NOISE * min(noises) + NEAR
    far = abs(factor) > np.log(FACTOR) and abs(values[at] - values[at - 1]) > np.log(FACTOR)
    if not far or apart < 0.5 * abs(factor) or abs(factor) < OUTSTANDING * noise or not same_noise:
        return None
    return _Jump(factor, noise)


def _step(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Return the step between two stretches that share a slope, by least squares."""
    row = np.arange(len(before) + len(after))
    X = np.stack([np.ones(len(row)), row, row >= len(before)], axis=1)
    return float(np.linalg.lstsq(X, np.concatenate([before, after]))[0][2])


def _witnessed(log: Log, name: str, row: int, together: dict[str, _Jump]) -> bool:
    """Whether the other metrics of a run say that nothing else happened at a row of `ordered`."""
    rows = log.by_run[name][[metric for metric in log.metrics if metric not in together]]
    moves = rows.diff().abs()
    usual = moves.loc[row - WINDOW : row - 1].mean()
    if (moves.loc[row] > UNUSUAL * usual).any():
        return False
    return all(jump.sure for jump in together.values()) or (usual > 0).sum() >= WITNESSES


def _error(logarithm: float) -> float:
    """Return how far a log factor is from the nearest unit."""
    return float(np.abs(np.log(UNITS) - abs(logarithm)).min())


def _unit(logarithm: float, noise: float = 0.0) -> int:
    """Return the likely factor, rounded to a unit if it is near one; negative for a division."""
    for units, tolerance in ((DECIMAL, BLURRED + noise), (UNITS, NEAR)):
        distance = np.abs(np.log(units) - abs(logarithm))
        if distance.min() <= tolerance:
            return int(np.copysign(units[distance.argmin()], logarithm))
    return int(np.copysign(float(f"{np.exp(abs(logarithm)):.2g}"), logarithm))


def _times(unit: int) -> str:
    return f"is about {abs(unit)} times {'as large' if unit > 0 else 'smaller'}"


def _undo(unit: int) -> str:
    return f"{'/=' if unit > 0 else '*='} {abs(unit)}"
