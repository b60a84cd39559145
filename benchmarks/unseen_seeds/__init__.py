"""Held-out log density of training runs that a fit has not seen, for every family and K.

``python -m benchmarks.unseen_seeds [--s5 FOLDER] [--parity FOLDER] [--modular FOLDER]`` fits every
family with 1 to 8 states to three quarters of the runs and predicts the others. It prints the
tables and writes ``benchmarks/unseen_seeds.md``; with ``--cache FILE`` every finished cell is kept,
so that a run that was cut off goes on where it stopped. `--no-fits` makes the tables again.

The claims: in no family do more states lose over 1 nat per row against the best of fewer states,
and coupling between the metrics never predicts worse than none.

===========  ===================================================
`datasets`   the runs: which are fitted, which are held out
`families`   what is compared
`cells`      one fit and its score; the file of those finished
`report`     the tables, and whether the claims hold
===========  ===================================================
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from benchmarks import s5_grokking
from benchmarks.unseen_seeds.cells import Cache, Settings, fill
from benchmarks.unseen_seeds.datasets import ABSENT, FOLDS, READERS, DataSet
from benchmarks.unseen_seeds.families import Family, all_families
from benchmarks.unseen_seeds.report import document, kept

FILE = Path(__file__).parents[1] / "unseen_seeds.md"

Named = TypeVar("Named", DataSet, Family)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: see `benchmarks`."""
    chosen = _parser().parse_args(arguments)
    folders = {name: folder for name in READERS if (folder := getattr(chosen, name)) is not None}
    if not folders:
        print(ABSENT, file=sys.stderr)
        return 2
    try:
        compared = _named(all_families(), chosen.families)
        found = [data for name, folder in folders.items() for data in READERS[name](folder)]
        found = [data.floored(chosen.floor) for data in _named(found, chosen.tables)]
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    settings = Settings(chosen.folds, chosen.restarts, chosen.seed)
    cache = Cache(chosen.cache)
    if not chosen.no_fits:
        fill(cache, found, compared, chosen.states, settings, chosen.jobs)
    tables = [cache.table(data, compared, chosen.states, settings) for data in found]
    text = document(found, tables, settings)
    chosen.out.write_text(text, "utf-8")
    print(f"{text}\nwritten to {chosen.out}")
    if not all(map(kept, tables)):
        return 1
    figures = sum(int(table.count().sum()) for table in tables)
    return 0 if figures == len(found) * len(compared) * len(chosen.states) else 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unseen_seeds")
    for name, read in READERS.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=read.__doc__)
    for option, example in (("--tables", "*muon"), ("--families", "AR(5)*")):
        parser.add_argument(
            option, nargs="+", default=["*"], metavar="PATTERN", help=f"names, as '{example}'"
        )
    parser.add_argument("--states", type=_counts, default="1:8", metavar="1:8", help="inclusive")
    parser.add_argument(
        "--floor", type=float, default=s5_grokking.FLOOR, help="of the logarithms of S5's losses"
    )
    parser.add_argument(
        "--folds", type=int, choices=range(1, FOLDS + 1), default=1, help="a fit for each"
    )
    parser.add_argument("--restarts", type=int, default=4, help="starts of every search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes; -1: one per core")
    parser.add_argument(
        "--cache", type=Path, metavar="FILE", help="of finished cells; remove it with other code"
    )
    parser.add_argument("--no-fits", action="store_true", help="show what the cache holds")
    parser.add_argument("--out", type=Path, default=FILE, metavar="FILE", help="of the tables")
    return parser


def _named(those: Sequence[Named], patterns: Sequence[str]) -> list[Named]:
    """Those whose names fit one of the patterns."""
    fitting = [one for one in those if any(fnmatchcase(one.name, pattern) for pattern in patterns)]
    if not fitting:
        raise ValueError(f"no name fits {patterns}: there are {[one.name for one in those]}")
    return fitting


def _counts(text: str) -> range:
    first, _, last = text.partition(":")
    return range(int(first), int(last or first) + 1)
