"""Rows that are there twice, in the wrong place or not at all."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm.lineage.findings import Finding, counted, of_runs, of_steps, without
from bayeshmm.lineage.raw import Log

REGULAR = 0.6
"""Share of a run's rows at its usual gap from which the run has a grid; a few are lost or extra."""

FEW_ROWS = 6
"""Rows below which a run has no grid: five gaps do not tell a usual one."""

SCHEDULE = 5
"""Gaps of one larger size in a row from which they are a change of schedule, not lost rows."""

SAME_STEPS = 0.9
"""Share of steps in common from which runs without a regular grid log at the same steps."""

EARLY = 0.05
"""Share of the others' span that a run lacks from which it is short, where they end together."""

VERY_EARLY = 0.5
"""The same where they do not, as under early stopping: there lengths vary about twofold."""


def duplicate_rows(log: Log) -> list[Finding]:
    """Find steps that a run has several rows for, and tell whether these agree."""
    rows = log.rows
    twice = rows[rows.duplicated(["run", "step"], keep=False)]
    if twice.empty:
        return []
    # a row that equals no other of its step disagrees
    unlike = ~twice.duplicated(["run", "step", *log.metrics], keep=False)
    differs = unlike.groupby([twice["run"], twice["step"]], observed=True).any()
    cases = defaultdict(list)
    for (run, differ), part in differs.groupby(
        [differs.index.get_level_values("run"), differs], observed=True
    ):
        cases[differ, tuple(part.index.get_level_values("step"))].append(str(run))
    found = []
    for (differ, steps), runs in cases.items():
        if not differ:
            detail = f"{of_runs(runs)}: several equal rows at {of_steps(steps)}"
            mend = 'df = df.drop_duplicates(["run", "step"])'
        else:
            here = twice[twice["run"].isin(runs) & twice["step"].isin(steps)]
            kinds = here.groupby(["run", "step"], observed=True)[log.metrics].nunique(dropna=False)
            metric = kinds.gt(1).sum().idxmax()
            detail = (
                f"{of_runs(runs)}: several rows at {of_steps(steps)}, which differ, most often in "
                f"{metric!r}: a restart that was not declared, or two writers"
            )
            mend = (
                "keep what training went on from, after a restart the last: "
                'df = df.drop_duplicates(["run", "step"], keep="last"); log a restart with '
                "MetricHook(..., resume_step=...)"
            )
        found.append(Finding("duplicate_rows", "error", tuple(runs), steps, (), detail, mend))
    return found


def disorder(log: Log) -> list[Finding]:
    """Find rows that come after a row of a later step; repeated steps are another fault."""
    rows = log.rows.drop_duplicates(["run", "step"])
    latest = rows.groupby("run", observed=True)["step"].cummax()
    late = rows[rows["step"] < latest]
    cases = defaultdict(list)
    for run, steps in late.groupby("run", observed=True)["step"]:
        cases[tuple(steps)].append(str(run))
    return [
        Finding(
            "steps_out_of_order",
            "error",
            tuple(runs),
            steps,
            (),
            f"{of_runs(runs)}: the rows of {of_steps(steps)} come after those of later steps",
            'df = df.sort_values(["run", "step"]), if only the order of the rows is wrong',
        )
        for steps, runs in cases.items()
    ]


def gaps(log: Log) -> list[Finding]:
    """Find rows that a run with a regular grid lacks between its first and its last."""
    cases = defaultdict(list)
    for run, part in log.by_run.items():
        steps = part["step"].to_numpy()
        gap = usual_gap(steps)
        if gap is not None and (missing := _missing(steps, gap)):
            cases[missing, gap].append(run)
    found = []
    for (missing, gap), runs in cases.items():
        detail = (
            f"{of_runs(runs)}: {counted(len(missing), 'row')} missing at {of_steps(missing)}, in a "
            f"grid of {gap} steps"
        )
        mend = (
            "find out why they were lost; transitions account for a gap, but laws of motion take "
            "it for one row: fit levels, or leave the run out: "
            f"{without(tuple(runs))}"
        )
        found.append(Finding("gap", "warning", tuple(runs), missing, (), detail, mend))
    return found


def different_grids(log: Log) -> list[Finding]:
    """Find runs that are logged at other steps than most."""
    all_steps = {run: part["step"].to_numpy() for run, part in log.by_run.items()}
    regular: dict[str, tuple[int, int]] = {}
    irregular: dict[str, NDArray[np.int64]] = {}
    for run, steps in all_steps.items():
        gap = usual_gap(steps)
        if gap is not None:
            regular[run] = gap, _offset(steps, gap)
        elif len(steps) >= FEW_ROWS:
            irregular[run] = steps
    grids = Counter(regular.values())
    alike = _sharing_steps(irregular)
    if not grids or len(alike) > max(grids.values()):
        usual, described = set(alike), "at steps of no regular grid"
    else:
        (gap, offset), _ = grids.most_common(1)[0]
        usual = {run for run in regular if regular[run] == (gap, offset)}
        described = f"every {gap} steps from {offset}"
    cases: dict[str, list[str]] = defaultdict(list)
    for run in log.names:
        if run in usual or run not in regular.keys() | irregular.keys():
            continue
        grid = "every {} steps from {}".format(*regular[run]) if run in regular else "unevenly"
        cases[grid].append(run)
    return [
        Finding(
            "different_grids",
            "warning",
            tuple(runs),
            (),
            (),
            f"{of_runs(runs)}: logged {grid}, and "
            f"{counted(len(usual), 'other run')} {described}: a phase that lasts as long has "
            "another number of rows",
            "bring the runs to steps that all have: "
            'df = df[df["step"].isin(set.intersection(*(set(s) for _, s in '
            'df.groupby("run")["step"])))]',
        )
        for grid, runs in cases.items()
    ]


def truncated(log: Log) -> list[Finding]:
    """Find runs that end much earlier than the others of their group, or have not ended."""
    cases = defaultdict(list)
    for names in log.groups.values():
        first = pd.Series({run: int(log.by_run[run]["step"].iloc[0]) for run in names})
        last = pd.Series({run: int(log.by_run[run]["step"].iloc[-1]) for run in names})
        most = last.mode().iloc[-1]
        together = len(names) > 2 and 2 * (last == most).sum() >= len(names)
        usual = last.median() if len(names) > 2 else last.max()
        end, share = (float(most), EARLY) if together else (usual, VERY_EARLY)
        for run in names:
            short = end - last[run] > share * (end - first[names].min())
            status = log.attributes["status"].get(run) if "status" in log.attributes else None
            unended = status in ("unfinished", "failed")
            if short or unended:
                cases[short, status if unended else None, int(end)].append((run, int(last[run])))
    found = []
    for (short, status, end), ended in cases.items():
        runs, steps = zip(*ended, strict=True)
        where = (
            f"step {steps[0]}" if len(set(steps)) == 1 else f"steps {min(steps)} to {max(steps)}"
        )
        detail = f"{of_runs(runs)}: the last row is that of {where}"
        detail += f", where others of the group go on to {end}" if short else ""
        detail += {
            None: "",
            "unfinished": "; no end was recorded: still training, or killed",
            "failed": "; training ended with an exception",
        }[status]
        mend = (
            "train on with MetricHook(..., resume_step=...), or leave out what did not end by "
            f"design: {without(runs)}"
        )
        found.append(Finding("truncated", "warning", runs, steps, (), detail, mend))
    return found


def late_starts(log: Log) -> list[Finding]:
    """Find runs whose first row is later than that of at least half of their group."""
    cases = defaultdict(list)
    for names in log.groups.values():
        spans = {run: log.by_run[run]["step"].iloc[[0, -1]].to_numpy() for run in names}
        starts = Counter(int(first) for first, _ in spans.values())
        usual, number = starts.most_common(1)[0]
        if len(names) < 3 or 2 * number < len(names):
            continue
        late = EARLY * (max(last for _, last in spans.values()) - usual)
        for run, (first, _) in spans.items():
            if first - usual > late:
                cases[int(first), usual].append(run)
    return [
        Finding(
            "late_start",
            "warning",
            tuple(runs),
            (first,),
            (),
            f"{of_runs(runs)}: the first row is that of step {first}, and others of the group "
            f"begin at {usual}",
            f"add the first rows, if they are elsewhere, or leave out: {without(tuple(runs))}",
        )
        for (first, usual), runs in cases.items()
    ]


def usual_gap(steps: NDArray[np.int64]) -> int | None:
    """Return the gap of a regular grid, None where there is none."""
    if len(steps) < FEW_ROWS:
        return None
    sizes, counts = np.unique(np.diff(steps), return_counts=True)
    usual = counts.argmax()
    return int(sizes[usual]) if counts[usual] >= REGULAR * (len(steps) - 1) else None


def _offset(steps: NDArray[np.int64], gap: int) -> int:
    """Return where the grid begins, which a few rows beside it do not move."""
    sizes, counts = np.unique(steps % gap, return_counts=True)
    return int(sizes[counts.argmax()])


def _missing(steps: NDArray[np.int64], gap: int) -> tuple[int, ...]:
    """Return the steps of a grid that a run lacks, where that is no change of schedule."""
    sizes = np.diff(steps)
    stretch = np.concatenate([[0], np.cumsum(np.diff(sizes) != 0)])  # of equal sizes
    lengths = np.bincount(stretch)[stretch]
    lost = np.flatnonzero((sizes >= 2 * gap) & (lengths < SCHEDULE))
    return tuple(
        int(step) for row in lost for step in np.arange(steps[row], steps[row + 1], gap)[1:]
    )


def _sharing_steps(runs: dict[str, NDArray[np.int64]]) -> list[str]:
    """Return the runs whose steps are those of the longest, as far as they go."""
    if not runs:
        return []
    longest = max(runs.values(), key=len)
    return [
        run
        for run, steps in runs.items()
        if np.isin(steps, longest).sum()
        >= SAME_STEPS * max(len(steps), (longest <= steps[-1]).sum())
    ]
