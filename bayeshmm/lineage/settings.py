"""Settings in which runs differ that are meant to be alike."""

from __future__ import annotations

import re
from collections import defaultdict

import pandas as pd

from bayeshmm.lineage.findings import Finding, of_runs, without
from bayeshmm.lineage.raw import Log

NOT_A_SETTING = re.compile(
    r"(?:^|[._/])(?:seed|\w+_seed|seed_\w+|group|status|truncated|run_id|last_step|errors|overhead"
    r"|started|git_commit|every)$"
)
"""Attributes that differ by nature, or that another check looks at."""

BALANCED = 0.5
"""Share of the most common value's runs that the rarest one has in a balanced design."""


def different_settings(log: Log) -> list[Finding]:
    """Find settings of which the runs of one folder, or of one ``group``, have several values."""
    found = []
    for names in log.groups.values():
        values = log.attributes.loc[names]
        cases: dict[tuple[tuple[str, ...], ...], list[tuple[str, list[str]]]] = defaultdict(list)
        for setting in values:
            if NOT_A_SETTING.search(str(setting)):
                continue
            column = values[setting].astype(object)
            told = column.where(column.notna(), None).map(repr)
            if told.nunique() < 2 or _names_runs(values[setting]):
                continue
            parts = sorted(told.groupby(told), key=lambda part: -len(part[1]))
            sets = tuple(tuple(map(str, part.index)) for _, part in parts)
            cases[sets].append((str(setting), [str(value) for value, _ in parts]))
        found += [_finding(sets, settings) for sets, settings in cases.items()]
    return found


def _finding(sets: tuple[tuple[str, ...], ...], settings: list[tuple[str, list[str]]]) -> Finding:
    usual, rarest = sets[0], sets[-1]
    balanced = len(rarest) >= 2 and len(rarest) >= BALANCED * len(usual)
    common = [part for part in sets if len(part) >= max(2, BALANCED * len(usual))]
    odd = tuple(run for part in sets if balanced or part not in common for run in part)
    name, values = settings[0]
    shown = "; ".join(
        f"{value} in {of_runs(part)}" for value, part in list(zip(values, sets, strict=True))[:4]
    )
    more = f" and {len(sets) - 4} more values" if len(sets) > 4 else ""
    also = f" (and so do {', '.join(repr(other) for other, _ in settings[1:])})"
    detail = f"{name!r} differs between runs of one group: {shown}{more}"
    if balanced:
        mend = (
            "if these are conditions to compare, model them as such: "
            f"bh.fit(runs, K, transition=bh.Grouped(by={name!r}))"
        )
    elif common:
        mend = f"leave out the runs that are not like the others: {without(odd)}"
    else:
        mend = (
            "these are not repeats of one setting: give repeats a folder of their own, or an "
            "attribute 'group'"
        )
    return Finding(
        "settings_differ",
        "warning" if balanced else "error",
        odd,
        (),
        tuple(setting for setting, _ in settings),
        detail + (also if len(settings) > 1 else ""),
        mend,
    )


def _names_runs(values: pd.Series) -> bool:
    """Whether a setting is a name or a path of its own for every run."""
    text = values.map(lambda value: isinstance(value, str)).all()
    return bool(text and values.nunique() == len(values) and len(values) > 2)
