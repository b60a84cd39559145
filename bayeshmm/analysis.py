"""From runs to a folder of tables and pictures: what the command line does."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from bayeshmm import plots
from bayeshmm.comparison import Comparison, ComparisonWarning, compare
from bayeshmm.events import Event, containing_phase, leading_boundary
from bayeshmm.fitting import fit
from bayeshmm.metric_checks import MetricWarning, dependent_metrics
from bayeshmm.posterior import Posterior
from bayeshmm.runs import Runs

FAMILIES = ("autoregressive", "gaussian")
"""Families compared: the second is the classical model, for reference."""

DPI = 110
"""Resolution of the pictures."""


@dataclass(frozen=True)
class Analysis:
    """What `analyze` found.

    Attributes
    ----------
    comparison
        State counts and families.
    posterior
        The chosen model.
    left_out
        Metrics that were left out because they are functions of others.
    event
        The outside event that was asked for, if any.
    containing
        The phase that contains it; see `bayeshmm.events.containing_phase`.
    blind
        The same model without the metrics that it was not to see, if any.
    boundary
        The blind model's boundary that goes with the event.
    """

    comparison: Comparison
    posterior: Posterior
    left_out: dict[str, list[str]]
    event: Event | None = None
    containing: pd.DataFrame | None = None
    blind: Posterior | None = None
    boundary: pd.DataFrame | None = None


def analyze(
    runs: Runs,
    states: Iterable[int],
    *,
    event: Event | None = None,
    blind_to: Sequence[str] = (),
    jobs: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Analysis:
    """Compare state counts, fit the chosen model, and relate its phases to an event.

    Parameters
    ----------
    runs
        The data. Metrics that are functions of others are left out.
    states
        Numbers of states to compare.
    event
        Something that happens to every run, to find its phase.
    blind_to
        Patterns of metrics that a second fit does not see.
    jobs
        Processes that fit at the same time, as in `bayeshmm.compare`.
    seed
        Same seed, same result.
    progress
        Whether to show progress bars.
    """
    runs.check_modelled()
    left_out = dependent_metrics(runs)
    runs = runs.select([name for name in runs.metrics if name not in left_out])
    seen = [m for m in runs.metrics if not any(fnmatchcase(m, p) for p in blind_to)]
    if not seen:
        raise ValueError(f"a fit blind to {list(blind_to)} would see no metric: leave it some.")
    with warnings.catch_warnings():
        for told in (MetricWarning, ComparisonWarning):  # what they would say is in the report
            warnings.simplefilter("ignore", told)
        comparison = compare(runs, states, FAMILIES, jobs=jobs, seed=seed, progress=progress)
        posterior = comparison.best
        containing = blind = boundary = None
        if event is not None:
            containing = containing_phase(posterior, event)
        if blind_to:
            blind = fit(
                runs.select(seen),
                posterior.states,
                emission=posterior.hmm.family,
                seed=seed,
                progress=progress,
            )
            if event is not None:
                boundary = leading_boundary(blind, event)
    return Analysis(comparison, posterior, left_out, event, containing, blind, boundary)


def write(analysis: Analysis, out: Path) -> list[Path]:
    """Write the tables, the posterior and the pictures of `analysis`; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    posterior = analysis.posterior
    tables = {
        "comparison.csv": analysis.comparison.table.reset_index(),
        "entry_times.csv": posterior.entry_times(),
        "transition_times.csv": posterior.transition_times(),
    }
    for name, table in tables.items():
        table.to_csv(out / name, index=False)
    posterior.save(out / "posterior.nc")
    pictures = {
        "phases.png": plots.phases(posterior),
        "ribbon.png": plots.ribbon(posterior),
        "training_map.png": plots.training_map(posterior),
        "state_counts.png": plots.state_counts(analysis.comparison),
    }
    for name, drawn in pictures.items():
        _save(drawn, out / name)
    return [out / name for name in (*tables, "posterior.nc", *pictures)]


def summary(analysis: Analysis) -> str:
    """The few lines that a person wants first."""
    posterior, comparison = analysis.posterior, analysis.comparison
    emission, states = comparison.best_key
    lines = [
        f"metric {name!r} is left out: it is a function of {' and '.join(others)}"
        for name, others in analysis.left_out.items()
    ]
    lines.append(f"{states} phases ({emission}; {comparison.reason})")
    lines += [f"  {remark}" for remark in comparison.remarks]
    if analysis.event is not None and analysis.containing is not None:
        lines += _event_lines(posterior, analysis.event, analysis.containing)
    else:
        lines += ["when each phase was first entered (median over runs, training steps):"]
        entries = posterior.entry_times()
        likely = entries[entries["probability"] > 0.5]
        for name in posterior.state_names:
            of_state = likely.loc[likely["state"] == name, "median"]
            where = f"{of_state.median():.0f}" if len(of_state) else "-"
            lines.append(f"  {name}: {where}, in {len(of_state)} of {len(posterior.runs)} runs")
    if analysis.blind is not None:
        seen = ", ".join(analysis.blind.metrics)
        lines.append(f"a blind fit, which sees only {seen}:")
        if analysis.boundary is not None and analysis.boundary.empty:
            lines.append(f"  too few runs enter a phase and have '{analysis.event}' to relate them")
        elif analysis.boundary is not None:
            for _, row in analysis.boundary.iterrows():
                lines.append(
                    f"  the entry of {row['state']}, chosen on the other half of the runs: over "
                    f"{row['checked']} runs its correlation with the event is "
                    f"{row['correlation']:.3f}; it comes {_lag(posterior, row)}"
                )
    findings = posterior.check().findings
    lines.append("what the model does not describe:" + ("" if findings else " nothing was found"))
    lines += [f"  {finding.what}" for finding in findings]
    return "\n".join(lines)


def _event_lines(posterior: Posterior, event: Event, containing: pd.DataFrame) -> list[str]:
    if containing.empty:
        return [f"'{event}' happens in too few runs to say which phase contains it"]
    lines = []
    for _, row in containing.iterrows():
        lines.append(
            f"{row['state']} contains '{event}' in {row['contained']} of the {row['checked']} runs "
            f"that had no part in choosing it; they enter it {_lag(posterior, row)}"
        )
    state = containing["state"].iloc[0]
    rows = event.rows(posterior.runs)
    entries = posterior.entry_times(level=0.9)
    entries = entries[entries["state"] == state].set_index("run")
    lines.append(f"when each run entered {state} (median, 90 % interval) and '{event}':")
    for n, (name, row) in enumerate(entries.loc[list(posterior.runs.names)].iterrows()):
        happened = f"{posterior.runs.steps[n, rows[n]]}" if rows[n] >= 0 else "never"
        if row["probability"] < 0.5:
            entered = f"not entered (probability {1 - row['probability']:.2f})"
        else:
            entered = f"step {row['median']:.0f} [{row['lower']:.0f}, {row['upper']:.0f}]"
        lines.append(f"  {name}: {entered}; event at {happened}")
    return lines


def _lag(posterior: Posterior, row: pd.Series) -> str:
    """A lag and its spread in words, in steps and in rows."""
    side = "before" if row["lag"] < 0 else "after"
    gap = posterior.runs.step_gap
    lag, spread = abs(row["lag"]), row["lag_sd"]
    rows = "" if gap is None else f" ({lag / gap:.1f} rows)"
    text = f"{lag:.0f} steps{rows} {side} it"
    if np.isnan(spread):  # a single run has no spread
        return text
    rows = "" if gap is None else f" ({spread / gap:.1f} rows)"
    return f"{text}, SD over runs {spread:.0f} steps{rows}"


def _save(drawn: Axes | ArrayLike, path: Path) -> None:
    axes = np.ravel(np.asarray(drawn, dtype=object))[0]
    figure = axes.get_figure(root=True)
    figure.savefig(path, dpi=DPI, bbox_inches="tight")
    plt.close(figure)
