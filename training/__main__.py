"""``python -m training EXPERIMENT --seeds N --out DIR [--jobs J] [--<option> VALUE ...]``.

``--grid NAME=VALUE,VALUE`` trains with each of the values of an option, and with every combination
where there are several.

``python -m training collect DIR`` gathers the runs of a folder in one Parquet file.

``python -m training measure DIR --out RUNS`` logs the metrics of runs that left checkpoints.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from training.checkpoints import measure
from training.experiments import EXPERIMENTS
from training.store import collect
from training.sweep import SweepError, configure, sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        The words after the program's name; by default those it was called with.

    Returns
    -------
    int
        The exit status.
    """
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--seeds", type=int, required=True, metavar="N", help="train 0 to N - 1")
    common.add_argument("--out", required=True, metavar="DIR", help="folder of the runs")
    common.add_argument("--jobs", type=int, default=1, metavar="J", help="processes; -1: all cores")
    common.add_argument("--small", action="store_true", help="start from the quick setting")
    common.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=VALUE,VALUE",
        help="train with each of these values of an option; repeat it for every combination",
    )
    parser = argparse.ArgumentParser(prog="python -m training", description="Train an experiment.")
    experiments = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    collecting = experiments.add_parser(
        "collect", help="gather the runs of a folder in one Parquet file, which is read faster"
    )
    collecting.add_argument("root", metavar="DIR", help="folder of the runs")
    measuring = experiments.add_parser(
        "measure", help="log the metrics of runs that left checkpoints, by their files"
    )
    measuring.add_argument("path", metavar="DIR", help="folder of the checkpoints")
    measuring.add_argument("--out", required=True, metavar="DIR", help="folder of the runs")
    measuring.add_argument("--metrics", nargs="+", default=["core"], metavar="NAME")
    measuring.add_argument("--include", nargs="+", metavar="PATTERN")
    for name in EXPERIMENTS:
        options = experiments.add_parser(
            name, parents=[common], argument_default=argparse.SUPPRESS
        ).add_argument_group("options")
        for field, value in dataclasses.asdict(configure(name)).items():
            if isinstance(value, bool):
                switch = argparse.BooleanOptionalAction
                options.add_argument(f"--{field}", action=switch, help=f"default: {value}")
            else:
                options.add_argument(
                    f"--{field}", type=type(value), metavar="VALUE", help=f"default: {value}"
                )
    chosen = vars(parser.parse_args(arguments))
    experiment = chosen.pop("experiment")
    try:
        if experiment == "collect":
            print(collect(**chosen))
        elif experiment == "measure":
            runs = measure(**chosen)
            print(f"{len(runs.attributes)} runs, {len(runs.rows)} rows in {chosen['out']}")
        else:
            sweep(experiment, grid=_grid(experiment, chosen.pop("grid")), **chosen)
    except SweepError as error:
        print(error, file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    return 0


def _grid(experiment: str, words: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values of every option that is written ``NAME=VALUE,VALUE``."""
    defaults = dataclasses.asdict(configure(experiment))
    grid: dict[str, list[Any]] = {}
    for word in words:
        name, _, values = word.partition("=")
        if name not in defaults or name in grid or not values:
            raise ValueError(
                f"--grid {word}: give NAME=VALUE,VALUE, each NAME once, of {', '.join(defaults)}"
            )
        kind = type(defaults[name])
        try:
            grid[name] = [_parsed(value, kind) for value in values.split(",")]
        except ValueError:
            raise ValueError(
                f"--grid {word}: {name} takes {kind.__name__} values, such as {defaults[name]}"
            ) from None
    return grid


def _parsed(text: str, kind: type) -> Any:
    if kind is not bool:
        return kind(text)
    if text not in {"True", "False"}:
        raise ValueError(text)
    return text == "True"


if __name__ == "__main__":
    sys.exit(main())
