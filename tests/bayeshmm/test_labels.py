"""What a fit reports does not hang on labels, on the seed, or on the order of runs and metrics."""

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_runs import QUICK

import bayeshmm as bh
from bayeshmm import phases
from bayeshmm.aligned import align
from bayeshmm.hmm import HMM
from bayeshmm.inference.search import refine
from bayeshmm.inference_data import run_log_likelihoods
from bayeshmm.relabelling import relabelled

ORDER = [2, 0, 1]


def assert_same_rows(one, other, keys):
    """Two tables but for the order of their rows."""
    one, other = (table.sort_values(keys, ignore_index=True) for table in (one, other))
    pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def moved(posterior):
    """The same posterior under other labels."""
    return relabelled(posterior, ORDER)


class TestPermutingStates:
    def test_times(self, posterior, moved):
        assert_same_rows(posterior.entry_times(), moved.entry_times(), ["run", "state"])
        keys = ["run", "source", "target", "occurrence"]
        assert_same_rows(posterior.transition_times(), moved.transition_times(), keys)

    @pytest.mark.parametrize(
        ("table", "keys"), [("edge_usage", ["source", "target"]), ("state_occupancy", ["state"])]
    )
    def test_counts(self, posterior, moved, table, keys):
        tables = (getattr(phases, table)(one.paths, one.state_names) for one in (posterior, moved))
        assert_same_rows(*tables, keys)

    @pytest.mark.parametrize("kind", ["smooth", "filter"])
    def test_state_probabilities(self, posterior, moved, kind):
        one, other = (getattr(p, kind)() for p in (posterior, moved))
        np.testing.assert_allclose(other.sel(state=one["state"]), one, atol=1e-12)

    def test_new_runs_draw_parameters_of_their_own(self, posterior, moved, unseen):
        one, other = (p.smooth(unseen) for p in (posterior, moved))
        difference = other.sel(state=one["state"]) - one
        assert float(abs(difference).max()) < 0.2
        assert float(abs(difference).mean()) < 0.005

    def test_densities(self, posterior, moved, moving, unseen):
        for runs in (moving, unseen):
            one, other = (p.log_density(runs) for p in (posterior, moved))
            np.testing.assert_allclose(other, one, rtol=1e-9)
        np.testing.assert_allclose(
            run_log_likelihoods(moved), run_log_likelihoods(posterior), rtol=1e-9
        )

    def test_parameters(self, posterior, moved):
        one, other = (p.idata.posterior for p in (posterior, moved))
        names = [f"phase {k}" for k in range(3)]
        for name in one.data_vars:
            if name != "path":
                by_name = {dim: names for dim in ("state", "state_to") if dim in one[name].dims}
                np.testing.assert_allclose(
                    other[name].sel(by_name), one[name].sel(by_name), rtol=1e-9, atol=1e-14
                )
        np.testing.assert_array_equal(np.array([*ORDER, -1])[other["path"]], one["path"])

    def test_sensitivity(self, posterior, moved):
        one, other = (p.sensitivity(1.2) for p in (posterior, moved))
        pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=1e-6)

    def test_conditions(self, short):
        attributes = {name: "ab"[n % 2] for n, name in enumerate(short.names)}
        frame = short.to_dataframe().assign(condition=lambda rows: rows["run"].map(attributes))
        runs = bh.Runs.from_dataframe(frame, attributes=["condition"])
        grouped = bh.fit(runs, 2, transition=bh.Grouped(), **QUICK)
        tables = [
            one.condition_differences().query("quantity in ['transition', 'dwell']")
            for one in (grouped, relabelled(grouped, [1, 0]))
        ]
        assert len(tables[0]) == 4
        assert_same_rows(*tables, ["quantity", "place"])


class TestReordering:
    """The objective is the same to rounding; searches differ in their starts alone."""

    @pytest.mark.parametrize("what", ["runs", "metrics"])
    def test_the_bound(self, posterior, what):
        runs, states = posterior.runs, posterior.variational.states
        if what == "runs":
            other, begin = runs.subset(runs.names[::-1]), states.flip(0)
        else:
            other, begin = runs.select(runs.metrics[::-1]), states
        hmm = HMM(3, minimum_dwell=5)
        one, again = (
            refine(hmm.prior(some), hmm.encode(some)[1], start)
            for some, start in ((runs, states), (other, begin))
        )
        assert again.bound == pytest.approx(one.bound, rel=1e-9)
        found = again.states.flip(0) if what == "runs" else again.states
        torch.testing.assert_close(found, one.states, rtol=0, atol=1e-8)

    def test_the_search_finds_the_same_mode(self, posterior, moving):
        rows = moving.lengths.sum()
        for runs in (moving.subset(moving.names[::-1]), moving.select(moving.metrics[::-1])):
            again = bh.fit(runs, 3, **QUICK | {"minimum_dwell": 5, "restarts": 4})
            objective = posterior.restarts["objective"].max()
            assert again.restarts["objective"].max() == pytest.approx(objective, abs=1e-3 * rows)

    def test_comparison_and_times(self, short, comparison):
        backwards = short.subset(short.names[::-1])
        again = compared(backwards, seed=0)
        assert_same_findings(again, comparison)


def compared(runs, seed):
    return bh.compare(
        runs, range(1, 4), minimum_dwell=4, restarts=3, draws=400, seed=seed, progress=False
    )


def assert_same_findings(one, other):
    """Number of phases, scores, order, and medians of entry times within each other's intervals."""
    assert one.best_key == other.best_key
    scores = [found.table["elpd"].xs("autoregressive")[:2] for found in (one, other)]
    np.testing.assert_allclose(*scores, atol=0.01)
    first, second = align([one.best, other.best])
    assert first.state_names == second.state_names
    tables = [p.entry_times().set_index(["run", "state"]).sort_index() for p in (first, second)]
    entered = [table["probability"] > 0.5 for table in tables]
    pd.testing.assert_series_equal(*entered)
    one_times, other_times = (table[known] for table, known in zip(tables, entered, strict=True))
    for inner, outer in ((one_times, other_times), (other_times, one_times)):
        assert inner["median"].between(outer["lower"], outer["upper"]).all()


def test_another_seed_finds_the_same(short, comparison):
    assert_same_findings(compared(short, seed=1), comparison)
