"""``python -m training EXPERIMENT --seeds N --out DIR [--jobs J] [--<option> VALUE ...]``.

``python -m training collect DIR`` gathers the runs of a folder in one Parquet file.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from training.experiments import EXPERIMENTS
from training.store import collect
from training.sweep import configure, sweep


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
    parser = argparse.ArgumentParser(prog="python -m training", description="Train an experiment.")
    experiments = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    collecting = experiments.add_parser(
        "collect", help="gather the runs of a folder in one Parquet file, which is read faster"
    )
    collecting.add_argument("root", metavar="DIR", help="folder of the runs")
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
        else:
            sweep(experiment, **chosen)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
