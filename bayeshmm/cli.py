"""``bayeshmm analyze RUNS --states 1:8 --out DIR`` and ``bayeshmm audit RUNS``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import matplotlib as mpl

from bayeshmm.lineage import audit
from bayeshmm.runs import Runs
from bayeshmm.sources import Format

_RUNS = "a folder or file of logs; which kind is recognised"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        The words after the program's name; by default those it was called with.

    Returns
    -------
    int
        The exit status: 2 after an error, and 1 where an audit found something.
    """
    parser = argparse.ArgumentParser(
        prog="bayeshmm", description="Find the phases in training runs, and how sure they are."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "analyze", help="compare state counts, fit, and write tables and pictures"
    )
    command.add_argument("runs", metavar="RUNS", help=_RUNS)
    command.add_argument(
        "--format", choices=get_args(Format), help="which logs, where there are several"
    )
    command.add_argument(
        "--states", type=_counts, default="1:8", metavar="1:8", help="numbers of phases, inclusive"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    command.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="what the model sees (default: all)"
    )
    command.add_argument(
        "--event", metavar="EVENT", help="find the phase of an event, as 'test/acc > 0.9'"
    )
    command.add_argument(
        "--blind-to",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="fit once more without these metrics, as 'test/*'",
    )
    command.add_argument(
        "--jobs", type=int, default=-1, metavar="J", help="processes (default: one per core)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N")
    command.add_argument(
        "--nonfinite", choices=("error", "truncate", "missing"), default="error",
        help="what becomes of infinite values",
    )  # fmt: skip
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command = commands.add_parser("audit", help="tell what is wrong with runs as they were logged")
    command.add_argument("runs", metavar="RUNS", help=_RUNS)
    command.add_argument(
        "--format", choices=get_args(Format), help="which logs, where there are several"
    )
    chosen = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _say
        try:
            return _audit(chosen) if chosen.command == "audit" else _analyze(chosen)
        except (ValueError, OSError, ImportError) as error:
            print(f"bayeshmm: {error}", file=sys.stderr)
            return 2


def _say(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning without the line of code that it comes from."""
    print(f"warning: {message}", file=sys.stderr)


def _audit(chosen: argparse.Namespace) -> int:
    found = audit(chosen.runs, format=chosen.format)
    for severity, part in found.groupby("severity", sort=False):
        print(f"{severity}s: {len(part)}")
        for _, row in part.iterrows():
            print(f"  {row['finding']}: {row['detail']}\n    mend: {row['mend']}")
    if found.empty:
        print("nothing was found")
    return int(not found.empty)


def _analyze(chosen: argparse.Namespace) -> int:
    mpl.use("Agg")
    from bayeshmm import analysis  # draws, so only after the backend is chosen
    from bayeshmm.events import Event

    event = None if chosen.event is None else Event.parse(chosen.event)
    for _, row in audit(chosen.runs, format=chosen.format).iterrows():
        _say(f"{row['finding']}: {row['detail']}")
    runs = Runs.read(chosen.runs, format=chosen.format, nonfinite=chosen.nonfinite)
    if chosen.metrics is not None:
        runs = runs.select(chosen.metrics)
    if event is not None:
        runs.column(event.metric)
    found = analysis.analyze(
        runs,
        chosen.states,
        event=event,
        blind_to=chosen.blind_to,
        jobs=chosen.jobs,
        seed=chosen.seed,
        progress=not chosen.quiet,
    )
    written = analysis.write(found, chosen.out)
    print(analysis.summary(found))
    print("written:")
    for path in written:
        print(f"  {path}")
    return 0


def _counts(text: str) -> range:
    first, _, last = text.partition(":")
    try:
        low, high = int(first), int(last or first)
    except ValueError:
        low, high = 0, 0
    if not 1 <= low <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 1:8")
    return range(low, high + 1)
