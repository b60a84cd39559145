"""The preferred number of states where each run counts less than once."""

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import PLAIN

import bayeshmm as bh


@pytest.fixture(scope="module")
def drifting():
    """Runs of one trend each, that levels cut into states."""
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame(
            {
                "run": f"run-{n}",
                "step": np.arange(60),
                "loss": np.linspace(0, 6, 60) + rng.normal(0, 0.5, 60),
            }
        )
        for n in range(6)
    ]
    levels = bh.Gaussian(**PLAIN)
    return bh.compare(
        bh.Runs.from_dataframe(pd.concat(frames)),
        range(1, 6),
        levels,
        minimum_dwell=2,
        restarts=3,
        progress=False,
    )


def preferred(curve):
    """The number of states with the highest bound, by weight."""
    return [states for _, states in curve.idxmax()]


def test_misfit_asks_for_fewer_states_where_runs_count_less(drifting):
    curve = drifting.tempering(weights=(1.0, 0.3, 0.03, 0.003), progress=False)
    assert curve.index.equals(drifting.table.index)
    numbers = preferred(curve)
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == 5
    assert numbers[-1] == 1
    assert (curve.max() == 0).all()


def test_a_weight_of_one_is_the_bound_of_the_table(drifting):
    curve = drifting.tempering(weights=[1.0], progress=False)[1.0]
    bound = drifting.table["elbo"]
    np.testing.assert_allclose(curve, bound - bound.max(), atol=0.05)


@pytest.mark.parametrize("weights", [(), (0.0,), (1.5,), (0.5, -1.0)])
def test_weights_are_checked(drifting, weights):
    with pytest.raises(ValueError, match="above 0, and at most 1"):
        drifting.tempering(weights=weights)
