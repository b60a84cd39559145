"""A fit and a comparison as text, to be made again in another process."""

import bayeshmm as bh


def fitted(runs: bh.Runs) -> dict[str, str]:
    """What a fit says of the runs, to the last digit."""
    posterior = bh.fit(runs, 2, minimum_dwell=4, restarts=3, draws=200, progress=False)
    return {
        "entry times": posterior.entry_times().to_csv(),
        "transition times": posterior.transition_times().to_csv(),
        "density": posterior.log_density(runs).to_series().to_csv(),
    }


def compared(runs: bh.Runs, jobs: int = 1) -> str:
    """What a comparison says of the runs, to the last digit."""
    comparison = bh.compare(runs, [1, 2], minimum_dwell=4, restarts=3, jobs=jobs, progress=False)
    return comparison.table.to_csv()
