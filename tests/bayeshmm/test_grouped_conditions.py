"""Conditions compared in one model: real differences are found, and none where there are none."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linear_sum_assignment

import bayeshmm as bh
from bayeshmm import Dirichlet, Gaussian, Grouped
from bayeshmm.differences import condition_differences

LEVELS = np.array([[0.0, 0.0], [3.0, 1.0], [0.0, 3.0]])
ROWS, GAP = 150, 10
STILL = np.array([[0.90, 0.05, 0.05], [0.05, 0.90, 0.05], [0.05, 0.05, 0.90]])
SAME = np.array([[0.92, 0.04, 0.04], *STILL[1:]])
OTHER = np.array([[0.80, 0.16, 0.04], *STILL[1:]])
"""Another first row: shorter visits, which lead more often to the second phase."""


def simulated(seed, first, second, runs=10):
    """Level data of two conditions, whose phases are visited about five times a run."""
    rng = np.random.default_rng(seed)
    rows, paths = [], []
    for condition, transition in (("a", first), ("b", second)):
        for n in range(runs):
            path = [int(rng.integers(3))]
            for _ in range(ROWS - 1):
                path.append(int(rng.choice(3, p=transition[path[-1]])))
            values = LEVELS[path] + rng.normal(size=(ROWS, 2))
            paths.append(path)
            rows.append(
                pd.DataFrame(
                    {
                        "run": f"{condition}-{n}",
                        "step": GAP * np.arange(ROWS),
                        "x": values[:, 0],
                        "y": values[:, 1],
                        "condition": condition,
                    }
                )
            )
    table = pd.concat(rows)
    return bh.Runs.from_dataframe(table, metrics=["x", "y"], attributes=["condition"]), paths


def fitted(runs, paths, transition, draws=600):
    """The posterior, its phases named 0, 1, 2 after the true ones that they lie in."""
    family = Gaussian(covariance="diagonal", noise="normal", run_effects=False)
    settings = {"restarts": 4, "draws": draws, "progress": False}
    posterior = bh.fit(runs, 3, emission=family, transition=transition, minimum_dwell=1, **settings)
    shared = [
        [((posterior.paths == k) & (np.array(paths) == j)).sum() for j in range(3)]
        for k in range(3)
    ]
    found, true = linear_sum_assignment(-np.array(shared))
    return posterior.rename({int(k): str(j) for k, j in zip(found, true, strict=True)})


def excluded(posterior):
    """Which rows' 90 % intervals of a difference exclude 0, by quantity and place."""
    table = condition_differences(posterior).set_index(["quantity", "place"])
    return (table["lower"] > 0) | (table["upper"] < 0)


def by_name(posterior):
    """Draws of transitions between the phases in the order of their names, (S, G, 3, 3)."""
    order = np.argsort(posterior.state_names)
    return posterior.draws.chain.transition.numpy()[..., order, :][..., order]


OTHER_ROWS = [
    ("dwell", "1"),
    ("dwell", "2"),
    *(("transition", place) for place in ("1 -> 0", "1 -> 2", "2 -> 0", "2 -> 1")),
]


def study_of_differences(seeds):
    """Exclusions of 0 in pairs of conditions that differ in their first row, a column a pair."""
    return pd.concat(
        [
            excluded(fitted(*simulated(seed, SAME, OTHER), Grouped(by="condition")))
            for seed in seeds
        ],
        axis=1,
    )


def study_of_sameness(seeds):
    """For pairs of one condition: exclusions, and how far pooling reaches.

    Returns
    -------
    exclusions
        As above.
    distance
        Of a condition's mean transition from that of the fit that pools, in its deviations.
    width
        Posterior deviation in units of that fit's.
    """
    exclusions, distance, width = [], [], []
    between = ~np.eye(3, dtype=bool)
    for seed in seeds:
        data = simulated(seed, SAME, SAME)
        grouped, pooled = (
            fitted(*data, transition) for transition in (Grouped(by="condition"), Dirichlet())
        )
        exclusions.append(excluded(grouped))
        each, all_runs = by_name(grouped)[..., between], by_name(pooled)[..., between]
        spread = all_runs.std(0)
        distance.append((each.mean(0) - all_runs.mean(0)) / spread)
        width.append(each.std(0) / spread)
    return pd.concat(exclusions, axis=1), np.array(distance), np.array(width)


def test_a_row_that_differs_is_found():
    posterior = fitted(*simulated(0, SAME, OTHER), Grouped(by="condition"), draws=300)
    table = posterior.condition_differences().set_index(["quantity", "place"])
    assert table.loc[("dwell", "0"), "upper"] < 0.0
    assert table.loc[("transition", "0 -> 1"), "lower"] > 0.0
    true = GAP / 0.20 - GAP / 0.08
    assert table.loc[("dwell", "0"), "lower"] < true < table.loc[("dwell", "0"), "upper"]
    assert set(table["first"]) == {"a"}


@pytest.mark.calibration
def test_differences_are_found_where_they_are():
    exclusions = study_of_differences(range(1000, 1020))
    assert exclusions.loc[("dwell", "0")].sum() >= 18
    assert exclusions.loc[("transition", "0 -> 1")].sum() >= 18
    # at most nominal: 10 % of 120 intervals, with three standard errors of independent ones
    assert exclusions.loc[OTHER_ROWS].to_numpy().sum() <= 12 + 3 * np.sqrt(120 * 0.1 * 0.9)


@pytest.mark.calibration
def test_conditions_that_are_one_give_the_pooled_answer():
    exclusions, distance, width = study_of_sameness(range(2000, 2020))
    rows = exclusions.loc[["dwell", "transition"]].to_numpy()
    assert rows.sum() <= 0.1 * rows.size + 3 * np.sqrt(rows.size * 0.1 * 0.9)
    # apart, the distance would be 1 and the width the root of 2
    assert np.sqrt((distance**2).mean()) < 0.8
    assert width.mean() < 1.35
