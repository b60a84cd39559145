"""Rows whose weights are those of an earlier row: restarts nobody declared, stale checkpoints."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from bayeshmm.lineage.findings import Finding, counted, of_runs, of_steps
from bayeshmm.lineage.raw import FINGERPRINT, Log

OFTEN = 0.9
"""Share of the rows that have a coordinate, for it to be used."""

NEIGHBOURS = 10
"""Rows before and after that tell how far weights usually move from row to row."""

JUMP = 5.0
"""Usual movements (root mean square over the coordinates) that make a jump: the largest of 7000
clean rows of two experiments were 4.4, and the way back over ten rows or more is longer."""

COORDINATES = 6
"""Coordinates below which a jump must be twice as far: in few dimensions a heavy-tailed walk comes
across its own path by chance: with single jumps in 5 % of runs of 300 rows and four coordinates, in
eight in none."""

LANDING = 2.0
"""Usual movements within which two states are alike: those of neighbouring rows are 1.4 apart."""

SHARE = 0.2
"""Share of the jump within which they are alike, too."""

BACK = 5
"""Rows that a return goes back at least: a state resembles the few before it."""

EXCURSION = 3
"""Rows within which a second jump leads back from the first: a spike, or a single stale row."""


def weight_returns(log: Log) -> list[Finding]:
    """Find rows that go back to the weights of an earlier row, exactly or nearly.

    A jump in the sketch of the weights is no fault of its own. One that lands where the weights
    have been before is: neither noise nor a schedule finds the way back in every coordinate.
    """
    sketch = [name for name in log.rows if str(name).startswith(FINGERPRINT)]
    weights = [name for name in log.rows if str(name).startswith("weight/")]
    if not sketch and len(weights) < 2:  # one number may repeat by chance
        return []
    found = []
    for run, rows in log.by_run.items():
        states = rows[[*sketch, *weights]]
        states = states.loc[:, states.notna().mean() > OFTEN].dropna()
        columns = [name for name in states if name in sketch] or list(states)
        steps = rows["step"].loc[states.index].to_numpy()
        if len(states) < 3 or len(columns) < 2:
            continue
        returns = _exact(states[columns])
        how = "are"
        if not returns and set(columns) <= set(sketch):
            returns, how = _near(states.to_numpy()), "are almost"
        if not returns:
            continue
        at = tuple(int(steps[row]) for row, _ in returns)
        row, origin = returns[0]
        detail = (
            f"{of_runs([run])}: the weights at step {steps[row]} {how} those at step "
            f"{steps[origin]}, {counted(int(row - origin), 'row')} before, and were others between"
            + (f"; so at {of_steps(at)}" if len(at) > 1 else "")
        )
        mend = (
            "after a restart, leave out the rows that it undid: "
            f'df = df[~((df["run"] == {run!r}) & df["step"].between({steps[origin] + 1}, '
            f"{steps[row] - 1}))], and declare it with MetricHook(..., resume_step=...); if a "
            "stale checkpoint was measured, leave out the row itself"
        )
        found.append(Finding("weights_return", "error", (run,), at, (), detail, mend))
    return found


def _exact(states: pd.DataFrame) -> list[tuple[int, int]]:
    """Return rows that equal an earlier one while rows between differ, with that row.

    Of rows that repeat earlier ones in the same order only the first is named.
    """
    same = pd.util.hash_pandas_object(states, index=False).to_numpy()
    rows = np.flatnonzero(np.append(True, same[1:] != same[:-1]))  # weights at rest count once
    latest: dict[int, int] = {}
    returns = []
    before: int | None = None
    for number, row in enumerate(rows):
        origin = latest.get(same[row])
        if origin is not None and (before is None or origin != before + 1):
            returns.append((int(row), int(rows[origin])))
        before = origin
        latest[same[row]] = number
    return returns


def _near(states: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return rows that jump to an earlier state, with the row of that state."""
    moves = np.diff(states, axis=0)
    usual = _usual(np.abs(moves))
    length = _rms(moves / usual)
    far = JUMP if states.shape[1] >= COORDINATES else 2.0 * JUMP
    jumps = np.flatnonzero(length > far) + 1
    # the way back from an excursion is no return
    jumps = jumps[np.diff(jumps, prepend=-EXCURSION - 1) > EXCURSION]
    returns = []
    for row in jumps[jumps >= BACK]:
        earlier = slice(row - BACK + 1)
        distance = _rms((states[earlier] - states[row]) / usual[earlier])
        if distance.min() <= min(LANDING, SHARE * length[row - 1]):
            returns.append((int(row), int(distance.argmin())))
    return returns


def _usual(moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median movement of the neighbouring rows in each coordinate."""
    usual = median_filter(moves, (2 * NEIGHBOURS + 1, 1), mode="reflect")
    return np.maximum(usual, np.finfo(np.float64).tiny)


def _rms(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt((values**2).mean(axis=1))
