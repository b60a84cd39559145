"""How many phases: whether the number is found and drift left alone, and by which tolerance.

``python -m benchmarks.state_counts [--cache FILE] [--jobs 2] [--adabelief FOLDER]`` compares
families and numbers of states on simulated runs whose number of phases is known and on runs that
drift and have none, 20 sets of each kind, and writes ``benchmarks/state_counts.md``. Scores do not
depend on the tolerance: with ``--cache FILE`` every finished table is kept, a run that was cut off
goes on where it stopped, and `--no-fits` makes the tables again.

The claims: the right family has the true number of states in 18 of 20 sets of every world, and is
chosen among all families in 17; where there is no phase at most two states are chosen in 90 % of
the sets, and no more the more runs there are. With ``--adabelief``, see `learning_rate`.

===============  =======================================================================
`worlds`         the runs
`cells`          one comparison; the file of those finished
`rules`          the rule, and what it makes of the tables
`report`         the document, and whether the claims hold
`learning_rate`  real runs, all with one known change: the learning rate's drop to a tenth
===============  =======================================================================
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.state_counts import learning_rate
from benchmarks.state_counts.cells import Cache, all_tasks
from benchmarks.state_counts.report import complete, document, misses
from benchmarks.state_counts.rules import Rule, counted, drifting

FILE = Path(__file__).parents[1] / "state_counts.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: see `benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.state_counts")
    parser.add_argument("--sets", type=int, default=20, help="of each world")
    parser.add_argument("--restarts", type=int, default=8, help="starts of every search")
    parser.add_argument("--jobs", type=int, default=1, help="processes; -1: one per core")
    parser.add_argument(
        "--cache", type=Path, metavar="FILE", help="of finished tables; remove it with other code"
    )
    parser.add_argument("--no-fits", action="store_true", help="show what the cache holds")
    parser.add_argument("--adabelief", type=Path, metavar="FOLDER", help=learning_rate.ORIGIN)
    parser.add_argument("--out", type=Path, default=FILE, metavar="FILE", help="of the tables")
    chosen = parser.parse_args(arguments)
    cache = Cache(chosen.cache)
    if not chosen.no_fits:
        cache.fill(all_tasks(chosen.sets, chosen.restarts), chosen.jobs)
    text = document(cache, chosen.sets, chosen.restarts)
    found, flat = (
        made(cache, Rule(), range(chosen.sets), chosen.restarts) for made in (counted, drifting)
    )
    missed = misses(found, flat)
    if chosen.adabelief is not None:
        drop = learning_rate.Drop.of(chosen.adabelief)
        text += f"\n{drop.section()}"
        missed += drop.misses()
    chosen.out.write_text(text, "utf-8")
    print(f"{text}\nwritten to {chosen.out}")
    if missed:
        print("\n".join(f"missed: {claim}" for claim in missed))
        return 1
    return 0 if complete(found, flat, chosen.sets) else 2
