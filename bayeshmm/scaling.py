"""Units in which a model sees the metrics: fixed once, from the runs that are fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeshmm.runs import Runs

Array = NDArray[np.float64]

ROUNDING_ERRORS = (1e-5, 1e-6, 1e-13)
"""Relative errors of numbers printed with six digits, of single and of double precision."""

FINEST = 1e-5
"""Finest resolution, in standard deviations.

Of a phase in which several metrics stand still double precision knows no more: the squares of
smaller differences are lost beside the moments of the metrics that move.
"""


class Pace(NamedTuple):
    """How far apart rows are, and how the increments of every metric grow with that.

    Attributes
    ----------
    gaps
        Distance of every row from the row before it in units of the typical gap, (N, T), or one
        number for all rows; 1 in the first row and beyond the end of a run.
    exponent
        Power of the gap to which increments are proportional, (D,) or one number for all metrics.
    """

    gaps: Array | float = 1.0
    exponent: Array | float = 0.0


EVENLY = Pace()
"""The pace of rows that are equally far apart."""


@dataclass(frozen=True)
class Scaling:
    """Pooled location and scale of every metric, and the order in which a model takes them.

    All arrays are in the user's order of metrics, shape (D,).

    Attributes
    ----------
    metrics
        Names of the metrics, in the user's order.
    mean, sd
        Pooled mean and standard deviation, after the logarithm where one is taken.
    increment
        Pooled root mean square of the increments between observed values, in units of `sd`; of
        uneven rows, of the increments over ``gap^gap_exponent``, gaps in units of `gap`.
    resolution
        Step in which the values were recorded (see `recording_step`), in units of `sd`: smaller
        differences carry no information, and it bounds every density. Of a logarithm, the
        smallest that such a step can be. At least `FINEST`.
    order
        ``order[i]`` is the metric at place i of the recursive law: each metric may depend on
        the present of the metrics before it, and the best predicted ones come last.
    floors
        For metrics that are modelled as ``log(x + floor)``, their floor.
    gap
        Median gap between rows, in training steps; None where every row counts as one gap,
        whatever its step.
    gap_exponent
        How increments grow with the gap: the pooled slope of their log size on the log gap,
        between 0 (not at all) and 1 (a trend). None where all gaps are equal, which tell nothing
        of it.
    """

    metrics: tuple[str, ...]
    mean: Array
    sd: Array
    increment: Array
    resolution: Array
    order: NDArray[np.int64]
    floors: Mapping[str, float] = field(default_factory=dict)
    gap: float | None = None
    gap_exponent: Array | None = None

    @classmethod
    def fit(cls, runs: Runs, log: Sequence[str] | Mapping[str, float] = ()) -> Scaling:
        """Scaling of `runs`.

        Parameters
        ----------
        runs
            The runs that a model is fitted to.
        log
            Metrics to be modelled as ``log(x + floor)``: names (the floor is 1e-4 of the largest
            value) or a mapping from names to floors.

        Raises
        ------
        ValueError
            If `log` names a metric that is not modelled, or one with values at or below -floor.
        """
        floors = _floors(runs, log)
        values = _logged(runs, floors)
        mean = np.nanmean(values, axis=(0, 1))
        sd = _positive(np.nanstd(values, axis=(0, 1)))
        standard = (values - mean) / sd
        steps = observed_increments(standard)
        gap = _typical_gap(runs)
        exponent = None
        if gap is not None and runs.step_gap is None:
            gaps = spanned_gaps(standard, _gaps(runs, gap))
            exponent = _exponent(steps, gaps)
            steps = steps / gaps**exponent
        increment = _positive(np.sqrt(np.nanmean(steps**2, axis=(0, 1))))
        return cls(
            metrics=runs.metrics,
            mean=mean,
            sd=sd,
            increment=increment,
            resolution=_resolution(runs, floors, sd),
            order=recursive_order(steps, runs.metrics),
            floors=floors,
            gap=gap,
            gap_exponent=exponent,
        )

    def standardise(self, runs: Runs) -> Array:
        """Standardised values of `runs`, shape (N, T, D), metrics in model `order`."""
        return ((self.logged(runs) - self.mean) / self.sd)[:, :, self.order]

    def logged(self, runs: Runs) -> Array:
        """Values of `runs`, the logarithm taken of those metrics that are modelled so, (N, T, D).

        Raises
        ------
        ValueError
            If a value has no logarithm, naming the metric and the run.
        """
        runs = runs if runs.metrics == self.metrics else runs.select(self.metrics)
        return _logged(runs, self.floors)

    def unlogged(self, values: Array) -> Array:
        """Undo `logged`, (..., D): a mean of logarithms becomes a geometric mean."""
        values = values.copy()
        for name, floor in self.floors.items():
            j = self.metrics.index(name)
            values[..., j] = np.exp(values[..., j]) - floor
        return values

    def pace(self, runs: Runs) -> Pace:
        """How far apart the rows of `runs` are, in units of `gap`; metrics in model `order`.

        Raises
        ------
        ValueError
            If all gaps of the fitted runs were equal, and a run has others.
        """
        if self.gap is None:
            return EVENLY
        gaps = _gaps(runs, self.gap)
        if self.gap_exponent is not None:
            return Pace(gaps, self.gap_exponent[self.order])
        if (gaps != 1.0).any():
            n, t = np.argwhere(gaps != 1.0)[0]
            raise ValueError(
                f"run {runs.names[n]!r}: the rows of steps {runs.steps[n, t - 1]} and "
                f"{runs.steps[n, t]} are {runs.steps[n, t] - runs.steps[n, t - 1]} steps apart, "
                f"and all rows of the fitted runs {self.gap:g}, which do not tell how a metric "
                f"moves over other gaps: give rows {self.gap:g} steps apart, fit the model to this "
                "run too, or fit levels, emission='gaussian'."
            )
        return EVENLY

    def log_jacobian(self, runs: Runs) -> Array:
        """Log density in the data's units less that in standardised units, shape (N,)."""
        runs = runs if runs.metrics == self.metrics else runs.select(self.metrics)
        seen = ~np.isnan(runs.values)
        total = -(seen * np.log(self.sd)).sum(axis=(1, 2))
        for name, floor in self.floors.items():
            raw = runs.values[:, :, self.metrics.index(name)]
            total -= np.nansum(np.log(raw + floor), axis=1)
        return total


def observed_increments(values: Array) -> Array:
    """Increments from the last observed value, shape (N, T, D); NaN where there is none."""
    last = np.full(values[:, 0].shape, np.nan)
    increments = np.full_like(values, np.nan)
    for t in range(values.shape[1]):
        increments[:, t] = values[:, t] - last
        last = np.where(np.isnan(values[:, t]), last, values[:, t])
    return increments


def spanned_gaps(values: Array, gaps: Array | float) -> Array:
    """Mean gap of the rows that each increment of `observed_increments` spans, (N, T, D).

    The increment to an observed value spans every row after the one that was observed last. 1 where
    nothing was observed before.

    Parameters
    ----------
    values
        (N, T, D), NaN where missing.
    gaps
        Distance of every row from the row before it, (N, T) or one number.
    """
    N, T, _ = values.shape
    rows = np.arange(T)[None, :, None]
    time = np.broadcast_to(gaps, (N, T)).cumsum(axis=1)[:, :, None]
    seen = np.where(np.isnan(values), -1, rows)
    last = np.pad(np.maximum.accumulate(seen, axis=1), ((0, 0), (1, 0), (0, 0)))[:, :-1]
    last[:, 0] = -1
    elapsed = time - np.take_along_axis(time, np.maximum(last, 0), axis=1)
    return np.where(last < 0, 1.0, elapsed / (rows - last))


def recording_step(values: Array) -> float:
    """Step in which the values of a metric were recorded; 0 where none can be seen.

    The largest step of which all values differ by whole multiples, found by Euclid's algorithm on
    the gaps between sorted values. The smallest gap will not do: it is too large where no
    neighbouring values occur, and it is an accident of arithmetic where an accuracy of k / 512
    was averaged in single precision, or printed with six digits. Differences up to a relative
    `ROUNDING_ERRORS` therefore count as none, as long as the step that is left is ten times as
    large. A metric whose values never recur has no visible step, however evenly it moves.

    Parameters
    ----------
    values
        Recorded values of one metric, any shape; NaN where missing.
    """
    values = values[~np.isnan(values)]
    distinct = np.unique(values)
    if len(distinct) in (1, len(values)):
        return 0.0
    gaps, size = np.diff(distinct), np.abs(distinct)
    size = np.maximum(np.maximum(size[1:], size[:-1]), np.median(size))
    ascending = np.argsort(gaps)
    gaps, size = gaps[ascending], size[ascending]
    for error in ROUNDING_ERRORS:
        step = _common_divisor(gaps, error * size, 10.0 * error * size.max())
        if step > 0:
            return step
    return 0.0


def recursive_order(increments: Array, names: Sequence[str]) -> NDArray[np.int64]:
    """Order of the metrics in the recursive law, the best predicted ones last.

    From the correlation matrix of the pooled increments the metric that the remaining ones
    predict best is removed and placed last, until none is left; ties go by name. The order of
    the data's columns therefore changes nothing.
    """
    D = increments.shape[2]
    rows = np.nan_to_num(increments.reshape(-1, D))
    scale = _positive(np.sqrt((rows**2).mean(axis=0)))
    correlation = (rows / scale).T @ (rows / scale) / len(rows) + 1e-10 * np.eye(D)
    remaining, placed = sorted(range(D), key=lambda j: names[j]), []
    while remaining:
        variance_inflation = np.diag(np.linalg.inv(correlation[np.ix_(remaining, remaining)]))
        best = int(np.argmax(np.round(variance_inflation, 9)))
        placed.append(remaining.pop(best))
    return np.array(placed[::-1], dtype=np.int64)


def _typical_gap(runs: Runs) -> float | None:
    """Median number of steps between neighbouring rows; None if no run has two."""
    gaps = np.diff(runs.steps)[runs.steps[:, 1:] >= 0]
    return float(np.median(gaps)) if gaps.size else None


def _gaps(runs: Runs, gap: float) -> Array:
    """Distance of every row from the one before it in units of `gap`; 1 where there is none."""
    gaps = np.ones(runs.steps.shape)
    np.divide(np.diff(runs.steps), gap, out=gaps[:, 1:], where=runs.steps[:, 1:] >= 0)
    return gaps


def _exponent(increments: Array, gaps: Array) -> Array:
    """Pooled slope of log size on log gap for every metric, (D,), between 0 and 1.

    Increments of zero have no logarithm and are passed over.
    """
    slopes = np.zeros(increments.shape[2])
    for j in range(len(slopes)):
        moved = np.nan_to_num(increments[..., j]) != 0
        size, gap = np.log(np.abs(increments[moved, j])), np.log(gaps[moved, j])
        if gap.size and np.ptp(gap) > 0:
            slopes[j] = np.cov(gap, size)[0, 1] / gap.var(ddof=1)
    return slopes.clip(0.0, 1.0)


def _floors(runs: Runs, log: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    if isinstance(log, str):
        log = (log,)
    unknown = sorted(set(log) - set(runs.metrics))
    if unknown:
        raise ValueError(
            f"log= names {unknown}, which is not modelled; the metrics are {list(runs.metrics)}."
        )
    floors = {}
    for name in log:
        column = runs.values[:, :, runs.metrics.index(name)]
        largest = float(np.nanmax(column))
        floors[name] = float(log[name]) if isinstance(log, Mapping) else max(1e-4 * largest, 0.0)
    return floors


def _logged(runs: Runs, floors: Mapping[str, float]) -> Array:
    values = runs.values.copy()
    for name, floor in floors.items():
        column = values[:, :, runs.metrics.index(name)]
        lowest = np.fmin.reduce(column, axis=1)
        if (lowest + floor <= 0).any():
            n = int(np.nanargmin(lowest))
            raise ValueError(
                f"metric {name!r} of run {runs.names[n]!r} falls to {lowest[n]:.6g}, and "
                f"log(x + {floor:.3g}) does not exist there: fit with a larger floor, "
                f"log={{{name!r}: floor}}, or without log=."
            )
        column[:] = np.log(column + floor)
    return values


def _resolution(runs: Runs, floors: Mapping[str, float], sd: Array) -> Array:
    """Recording step of every metric in units of `sd`, after the logarithm where one is taken."""
    columns = np.moveaxis(runs.values, 2, 0)
    steps = np.array([recording_step(column) for column in columns])
    for name, floor in floors.items():
        j = runs.metrics.index(name)
        steps[j] /= np.nanmax(columns[j]) + floor
    return np.maximum(steps / sd, FINEST)


def _common_divisor(gaps: Array, tolerance: Array, least: float) -> float:
    """Largest number of which all `gaps` (ascending) are multiples within `tolerance`; 0 if none.

    Gaps within their tolerance are passed over, and a divisor below `least` is none. It is refined
    by each gap that confirms it, so that the multiples of large gaps are certain.
    """
    real = gaps > tolerance
    gaps, tolerance = gaps[real], tolerance[real]
    if not gaps.size:
        return 0.0
    step, total, i = float(gaps[0]), 0.0, 0
    while i < len(gaps) and step >= least:
        rest = abs(gaps[i] - step * round(gaps[i] / step))
        if rest > tolerance[i]:
            step, total, i = float(rest), 0.0, 0
        else:
            total += float(gaps[i])
            step, i = total / round(total / step), i + 1
    return step if step >= least else 0.0


def _positive(scale: Array) -> Array:
    """Replace scales of zero by one: a metric that never moves in these runs."""
    return np.where(scale > 0, scale, 1.0)
