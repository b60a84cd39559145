"""A fit and a comparison as text, to be made again in another process."""

import json
import sys

import bayeshmm as bh


def tables(path: str, jobs: int = 1) -> dict[str, str]:
    """What a fit and a comparison say of the runs in a file, to the last digit."""
    runs = bh.Runs.read(path)
    posterior = bh.fit(runs, 2, minimum_dwell=4, restarts=3, draws=200, progress=False)
    comparison = bh.compare(
        runs, [1, 2], minimum_dwell=4, restarts=3, jobs=jobs, draws=40, progress=False
    )
    found = {
        "entry_times": posterior.entry_times(),
        "transition_times": posterior.transition_times(),
        "density": posterior.log_density(runs).to_series().to_frame(),
        "comparison": comparison.table,
    }
    return {name: table.to_csv() for name, table in found.items()}


if __name__ == "__main__":
    print(json.dumps(tables(sys.argv[1])))
