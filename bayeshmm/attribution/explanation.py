"""What changes at a change of phase, and which metrics say so."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bayeshmm import defaults, messages
from bayeshmm.attribution.contributions import Residuals, collinear_groups, shapley
from bayeshmm.attribution.profiles import DRAWS, interval, mean_by
from bayeshmm.attribution.row_laws import RowLaws, data_units, persistence
from bayeshmm.decoding import some_draws
from bayeshmm.hu2023.derivative import log_posterior_gradient
from bayeshmm.inference_data import DRAWS_AT_ONCE
from bayeshmm.nested import take
from bayeshmm.phases import edge_usage
from bayeshmm.phases.visits import visits_by_run

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

COLLINEAR = 0.9
"""Correlation of the noise of two metrics, in either phase, beyond which they share their part."""


@dataclass(frozen=True, eq=False)
class Changes:
    """The changes from one phase to another in S draws, sorted by draw.

    Attributes
    ----------
    posterior
        The fit.
    source, target
        The phases, by number.
    draws
        The draws that are looked at, by index, (S,).
    draw
        Which of them each change belongs to, (E,).
    run, row
        Where it is: the first row of the target, (E,).
    before, after
        Rows of the visits that it ends and begins, (E,).
    """

    posterior: Posterior
    source: int
    target: int
    draws: Ints
    draw: Ints
    run: Ints
    row: Ints
    before: Ints
    after: Ints

    @cached_property
    def laws(self) -> RowLaws:
        """What the draws say of the rows."""
        design = self.posterior.encoding.encode(self.posterior.runs).design
        return RowLaws.of(design, take(self.posterior.draws.law, torch.from_numpy(self.draws)))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics in model order."""
        return [self.posterior.metrics[j] for j in self.posterior.encoding.scaling.order]

    def mean(self, values: Array) -> Array:
        """Mean over the changes of each draw, (S, D), of values of the changes (E, D)."""
        return mean_by(self.draw, values, len(self.draws))

    def window(self, rows: int) -> tuple[Ints, Ints]:
        """The first `rows` of every target, or the last of every source if `rows` is negative.

        Returns
        -------
        change, row
            The change that each belongs to, and the row of its run.
        """
        length = np.minimum(self.after, rows) if rows > 0 else np.minimum(self.before, -rows)
        change = np.repeat(np.arange(len(length)), length)
        place = np.arange(len(change)) - np.repeat(np.cumsum(length) - length, length)
        return change, self.row[change] + (place if rows > 0 else -1 - place)


def explain_transition(
    posterior: Posterior,
    source: int | str,
    target: int | str,
    *,
    method: Literal["evidence", "hu2023"] = "evidence",
    level: float = 0.9,
    window: int = defaults.MINIMUM_DWELL,
) -> pd.DataFrame:
    """What changes where runs go from one phase to another, and which metrics say so.

    The evidence for a change is the log density of the first `window` rows of the target under
    its own law, less that under the law of the source: changed against not, in each draw's own
    place of the change. A metric's share of it is what it adds, on average over all orders in
    which the metrics may become known (Shapley 1953). Shares add up to 1; one below 0 is of a
    metric whose rows speak against the change. Metrics whose noise is correlated beyond 0.9 in
    either phase have one share together, for which there is a row of its own; theirs is NaN.

    Parameters
    ----------
    source, target
        The phases, by number or name.
    method
        ``"evidence"``, or ``"hu2023"``: the size of the derivative of ``log p(s_t = target |
        z_1:t)`` with respect to each metric in the first row of the target, averaged over the
        runs, as Hu et al. (2023) define it. (Their published code subtracts one number from
        all metrics, averages signed values, and looks at the last row before the change.) It
        is how fast certainty would change if the metric did, not what the metric says: it
        ranks metrics of little noise first, whether they change or not.
    level
        Probability content of the intervals.
    window
        Rows on each side of a change that are looked at, within the visits.

    Returns
    -------
    DataFrame
        A row per metric and per group of collinear metrics, largest share first: ``metric,
        group, share`` (of the whole over the draws, with ``share_lower, share_upper``),
        ``evidence`` (in nats a change), ``alone`` (the evidence had nothing else been recorded)
        and the median and interval over draws of what is different in the target:

        * ``level``: mean of the `window` rows after the change less that of those before; of a
          model of levels, the difference of the phases' levels;
        * ``drift``: expected increment per training step, by either law from the same rows;
        * ``persistence``: sum of the autoregressive coefficients;
        * ``noise_ratio``: standard deviation of the noise, over that in the source.

        Units are those of the data (of its logarithm, where a law is of that). With
        ``"hu2023"``: ``metric, derivative`` (per standard deviation of the metric over all
        runs) and ``level``. ``attrs["runs"]`` is how many runs make the change.

    Raises
    ------
    ValueError
        If no run makes the change, naming those that are made.
    """
    if method not in ("evidence", "hu2023"):
        raise ValueError(f"method must be 'evidence' or 'hu2023', not {method!r}.")
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1.")
    if window < 1:
        raise ValueError(f"window={window} must be a number of rows, at least 1.")
    _ = posterior.variational  # which an emission of a user's own has not, and says so
    changes = find_changes(posterior, _state(posterior, source), _state(posterior, target))
    explain = _shares if method == "evidence" else _derivatives
    table = explain(changes, level, window)
    table.attrs = {
        "source": posterior.state_names[changes.source],
        "target": posterior.state_names[changes.target],
        "runs": int(pd.Series(changes.run).groupby(changes.draw).nunique().median()),
        "level": level,
    }
    return table


def find_changes(posterior: Posterior, source: int, target: int) -> Changes:
    """The changes from `source` to `target` in at most 100 of the draws that make any.

    Raises
    ------
    ValueError
        If in most draws no run does.
    """
    paths, names = posterior.paths, posterior.state_names
    made = ((paths[..., 1:] == target) & (paths[..., :-1] == source)).any(axis=(1, 2))
    if made.mean() < 0.5:
        edges = edge_usage(paths, names).query("runs > 0")
        listed = [f"{a} -> {b}" for a, b in zip(edges["source"], edges["target"], strict=True)]
        raise ValueError(
            f"no run changes from {names[source]!r} to {names[target]!r} (or in few draws); the "
            f"changes made are {', '.join(listed) or 'none'}."
        )
    every = np.flatnonzero(made)
    draws = every[some_draws(len(every), DRAWS).numpy()]
    parts = []
    for n, visits in enumerate(visits_by_run(paths[draws].astype(np.int64))):
        at = np.flatnonzero((visits.source == source) & (visits.state == target))
        row = visits.row[at]
        run, before, after = np.full(len(at), n), row - visits.row[at - 1], visits.exit[at] - row
        parts.append([visits.draw[at], run, row, before, after])
    found = np.concatenate(parts, axis=1)
    found = found[:, np.argsort(found[0], kind="stable")]
    return Changes(posterior, source, target, draws, *found)


def log_posterior_gradients(changes: Changes) -> Array:
    """Derivatives of ``log p(s_t = target | z_1:t)`` with respect to z_t at every change, (E, D).

    Per standard deviation of the metric over all runs, metrics in model order; NaN where the row
    lacks the metric.
    """
    posterior, scaling = changes.posterior, changes.posterior.encoding.scaling
    data, dwell = posterior.encoding.encode(posterior.runs), posterior.minimum_dwell
    filtered = np.empty((len(changes.row), posterior.states))
    for first in range(0, len(changes.draws), DRAWS_AT_ONCE):
        draws = torch.from_numpy(changes.draws[first : first + DRAWS_AT_ONCE])
        log = data.schedule.spread(take(posterior.draws.chain, draws).log, dwell)
        rows = data.rows(take(posterior.draws.law, draws))
        settings = {"lengths": data.lengths, "minimum_dwell": dwell}
        probability = messages.filter(log.initial, log.transition, rows, **settings).numpy()
        some = slice(*np.searchsorted(changes.draw, [first, first + DRAWS_AT_ONCE]))
        draw, run, row = changes.draw[some], changes.run[some], changes.row[some]
        filtered[some] = probability[draw - first, run, row]
    at = map(torch.from_numpy, (changes.draw, changes.run, changes.row))
    residuals = Residuals.of(changes.laws, range(posterior.states), *at)
    scores = residuals.scores().movedim(0, 1)
    gradient = log_posterior_gradient(scores, torch.from_numpy(filtered), changes.target).numpy()
    unit, _ = data_units(posterior)
    gradient = gradient * scaling.sd[scaling.order] / unit[changes.run, changes.row]
    return np.where(residuals.observed, gradient, np.nan)


def _derivatives(changes: Changes, level: float, window: int) -> pd.DataFrame:
    """A row per metric, most telling first."""
    size = changes.mean(np.abs(log_posterior_gradients(changes)))
    moved = _differences(changes, window)["level"]
    columns = {**interval("derivative", size, level), **interval("level", moved, level)}
    table = pd.DataFrame({"metric": changes.metrics, **columns})
    return table.sort_values("derivative", ascending=False, ignore_index=True)


def _shares(changes: Changes, level: float, window: int) -> pd.DataFrame:
    """A row per group, largest share first; those of several metrics are followed by these."""
    names, ends = changes.metrics, [changes.source, changes.target]
    groups = collinear_groups(changes.laws.covariance[:, ends], names, COLLINEAR)
    labels = [" + ".join(names[j] for j in group) for group in groups]
    parts, together, alone = _evidence(changes, groups, window)
    total, evidence = parts.sum(axis=1, keepdims=True), parts.mean(axis=0)
    shares = interval("share", np.where(total > 0, parts / total, np.nan), level)
    shares["share"] = evidence / evidence.sum() if evidence.sum() > 0 else np.nan * evidence
    of_groups = pd.DataFrame({"metric": labels, "group": labels, **shares, "evidence": evidence})
    of_groups["together"] = together.mean(axis=0)
    of_metrics = pd.DataFrame({"metric": names, "alone": alone.mean(axis=0)})
    for quantity, values in _differences(changes, window).items():
        of_metrics = of_metrics.assign(**interval(quantity, values, level))
    home = {names[j]: label for label, group in zip(labels, groups, strict=True) for j in group}
    of_metrics["group"] = of_metrics["metric"].map(home)
    table = of_groups.merge(of_metrics, on=["metric", "group"], how="outer")
    table["alone"] = table["alone"].fillna(table.pop("together"))
    rank = table["group"].map(dict(zip(labels, -evidence, strict=True)))
    order = np.lexsort((table["evidence"].isna(), rank))
    return table.iloc[order].reset_index(drop=True)


def _evidence(changes: Changes, groups: list[list[int]], window: int) -> tuple[Array, Array, Array]:
    """Log ratio of a change's rows: the part of each group, groups and metrics by themselves.

    Means over the changes of each draw, in nats, (S, groups), (S, groups) and (S, D).
    """
    change, row = changes.window(window)
    draw, run = changes.draw[change], changes.run[change]
    at = map(torch.from_numpy, (draw, run, row))
    rows = Residuals.of(changes.laws, (changes.source, changes.target), *at)
    together = [rows.log_ratio(group)[:, -1] for group in groups]
    alone = [rows.log_ratio([j])[:, 0] for j in range(rows.observed.shape[1])]
    number = np.bincount(changes.draw)[:, None]
    parts, by_group, by_metric = (
        pd.DataFrame(part.numpy()).groupby(draw).sum().to_numpy() / number
        for part in (shapley(rows, groups), torch.stack(together, -1), torch.stack(alone, -1))
    )
    return parts, by_group, by_metric


def _differences(changes: Changes, window: int) -> dict[str, Array]:
    """How the target differs from the source, by draw and metric in model order, (S, D)."""
    posterior, laws = changes.posterior, changes.laws
    source, target = changes.source, changes.target
    change, row = changes.window(window)
    draw, run = changes.draw[change], changes.run[change]
    index, *at = map(torch.from_numpy, (draw, run, row))
    means = (laws.mean(index, k, *at).numpy() for k in (target, source))
    unit, elapsed = (part[run, row] for part in data_units(posterior))
    moved = np.subtract(*means) * unit
    noise = laws.covariance.diagonal(dim1=-2, dim2=-1).sqrt().numpy()
    ratio = {"noise_ratio": noise[:, target] / noise[:, source]}
    if not posterior.hmm.dynamic:
        return {"level": mean_by(draw, moved, len(changes.draws)), **ratio}
    after, before = (_window_means(changes, rows) for rows in (window, -window))
    kept = persistence(posterior, laws)
    return {
        "level": changes.mean(after - before),
        "drift": mean_by(draw, moved / elapsed, len(changes.draws)),
        "persistence": kept[:, target] - kept[:, source],
        **ratio,
    }


def _window_means(changes: Changes, window: int) -> Array:
    """Mean of every metric over the rows on one side of each change, (E, D), in model order."""
    change, row = changes.window(window)
    values = changes.posterior.runs.values[changes.run[change], row]
    return mean_by(change, values, len(changes.row))[:, changes.posterior.encoding.scaling.order]


def _state(posterior: Posterior, phase: int | str) -> int:
    """Number of a phase known by number or name."""
    names = posterior.state_names
    if phase not in (*range(posterior.states), *names):
        raise ValueError(f"there is no phase {phase!r}; the phases are {list(names)}.")
    return phase if isinstance(phase, int) else names.index(phase)
