"""Does the model describe the runs? Findings in plain words, each with what would mend it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from bayeshmm.checks import measures
from bayeshmm.checks.measures import Measure
from bayeshmm.checks.predictive import predictive_checks
from bayeshmm.checks.residuals import pseudo_residuals

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior


class Finding(NamedTuple):
    """One thing that the model does not describe.

    Attributes
    ----------
    measure
        What was measured.
    what
        What is not described, how badly, and where it is worst and where else it is.
    mend
        What to try.
    """

    measure: str
    what: str
    mend: str


@dataclass(frozen=True, eq=False, repr=False)
class Check:
    """What `Posterior.check` found.

    Attributes
    ----------
    model : str
        What was checked.
    findings : tuple of Finding
        What the model does not describe; empty where nothing was found.
    table : DataFrame
        Everything that was measured: ``measure``, its ``subject`` (a metric, a run, a phase) and
        the ``phase`` whose rows alone count, ``value, threshold, found``. The thresholds are
        explained in `bayeshmm.checks.measures`.
    """

    model: str
    findings: tuple[Finding, ...]
    table: pd.DataFrame

    def __repr__(self) -> str:
        lines = [f"{self.model}: {self._summary()}"]
        for i, finding in enumerate(self.findings, 1):
            lines += [f"{i}. {finding.what}.", f"   {finding.mend}."]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Show the findings as a list in a notebook."""
        items = "".join(
            f"<li>{html.escape(finding.what)}.<br><i>{html.escape(finding.mend)}.</i></li>"
            for finding in self.findings
        )
        return f"<p>{html.escape(self.model)}: {self._summary()}</p><ol>{items}</ol>"

    def _summary(self) -> str:
        measured = f"{len(self.table)} measures"
        match len(self.findings):
            case 0:
                return f"nothing was found, none of {measured} is beyond its threshold."
            case 1:
                return f"1 finding, by {measured}."
            case several:
                return f"{several} findings, by {measured}; the later may follow from the first."


def check(posterior: Posterior) -> Check:
    """Look for what the model does not describe, in plain words.

    Chains and starts that disagree, metrics that stand still, residuals that are autocorrelated or
    follow another law, a run that is predicted worst, dwell times, an order of phases and
    differences between runs unlike those that the model makes.

    Returns
    -------
    Check
        Its repr says what is found, how badly and where, and what would mend it; ``findings`` are
        the same as data, ``table`` has every measure with its threshold.
    """
    found = [*measures.of_sampling(posterior)]
    if posterior.mode is not None:
        found += measures.of_residuals(posterior, pseudo_residuals(posterior).to_numpy())
    found += measures.of_replicates(posterior, predictive_checks(posterior))
    columns = ["measure", "subject", "phase", "value", "threshold", "found"]
    table = pd.DataFrame([[getattr(one, name) for name in columns] for one in found], None, columns)
    return Check(repr(posterior).partition("; ")[0], tuple(findings(found)), table)


def findings(found: Iterable[Measure]) -> Iterator[Finding]:
    """What is beyond its threshold, the same thing in several places as one."""
    groups: dict[tuple[str, str], list[Measure]] = {}
    for one in found:
        if one.found:
            groups.setdefault((one.measure, one.mend), []).append(one)
    for (measure, mend), group in groups.items():
        worst = max(group, key=lambda one: one.severity)
        where = list(dict.fromkeys(one.subject for one in group if one.subject != worst.subject))
        more = f" and {len(where) - 4} more" if len(where) > 4 else ""
        also = f"; also {', '.join(where[:4])}{more}" if where else ""
        yield Finding(measure, worst.what + also, mend)
