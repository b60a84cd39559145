"""What the audit reports: a fault, where it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Literal

import pandas as pd

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes
    ----------
    finding
        The name of the fault.
    severity
        "error": the data are wrong as they stand; "warning": look before you model.
    runs
        The runs that have it.
    steps
        The steps that have it, or from which on; of copies the first and the last; of truncated
        runs the last of each. Empty where it is a matter of whole runs.
    metrics
        The metrics or settings that have it; empty where it is a matter of whole rows.
    detail
        A sentence with numbers.
    mend
        What to do, as code where possible.
    """

    finding: str
    severity: Severity
    runs: tuple[str, ...]
    steps: tuple[int, ...]
    metrics: tuple[str, ...]
    detail: str
    mend: str


def table(found: Iterable[Finding]) -> pd.DataFrame:
    """Return a row per finding, errors first, else in the order of the checks."""
    rows = sorted(found, key=lambda finding: finding.severity)
    columns = [field.name for field in fields(Finding)]
    return pd.DataFrame([asdict(row) for row in rows], columns=columns, dtype=object)


def of_runs(runs: Iterable[str]) -> str:
    """Return "run 'a'" or "runs 'a', 'b' and 3 more", for a sentence."""
    names = [repr(run) for run in runs]
    surplus = len(names) - 5
    listed = ", ".join(names[:5]) + (f" and {surplus} more" if surplus > 0 else "")
    return f"run {listed}" if len(names) == 1 else f"runs {listed}"


def of_steps(steps: Iterable[int]) -> str:
    """Return "step 5" or "11 steps from 5 to 60", for a sentence."""
    steps = tuple(steps)
    if len(steps) == 1:
        return f"step {steps[0]}"
    return f"{len(steps)} steps from {min(steps)} to {max(steps)}"


def counted(number: int, noun: str) -> str:
    """Return "1 row" or "3 rows"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def without(runs: tuple[str, ...]) -> str:
    """Return code that leaves runs out of a frame."""
    if len(runs) == 1:
        return f'df = df[df["run"] != {runs[0]!r}]'
    return f'df = df[~df["run"].isin({list(runs)!r})]'
