import numpy as np
import pandas as pd
import pytest
from state_paths import NAMES, PATHS, STATES, STEPS, random_paths, row

from bayeshmm import phases
from bayeshmm.phases import changes, routes


def visits_of(path):
    """The visits of one path as (state, first row, row after)."""
    starts = [t for t in range(len(path)) if t == 0 or path[t] != path[t - 1]]
    ends = [*starts[1:], len(path)]
    return [(int(path[t]), t, end) for t, end in zip(starts, ends, strict=True)]


class TestExitTimes:
    def test_by_hand(self):
        table = changes.exit_times(PATHS, STEPS, NAMES, STATES)
        assert list(table) == ["run", "state", "probability", "median", "lower", "upper"]
        assert table["run"].tolist() == ["a"] * 3 + ["b"] * 3
        # Run a leaves it for good at rows 2, 4 and 5, and in one draw never.
        assert row(table, run="a", state="warm-up").tolist()[2:] == [0.75, 80, 30, 100]
        # The third draw ends inside its last visit to the plateau, whatever it left before.
        assert row(table, run="a", state="plateau").tolist()[2:] == [0.25, 100, 100, 100]
        never = row(table, run="a", state="grok")
        assert never["probability"] == 0
        assert never[["median", "lower", "upper"]].isna().all()

    def test_the_first_visit_may_end_though_the_last_does_not(self):
        table = changes.exit_times(PATHS, STEPS, NAMES, STATES, visit="first")
        assert row(table, run="a", state="warm-up").tolist()[2:] == [0.75, 10, 10, 30]
        assert row(table, run="a", state="plateau").tolist()[2:] == [0.75, 70, 30, 100]

    def test_an_exit_is_confirmed_by_the_visit_that_follows(self):
        table = changes.exit_times(PATHS, STEPS, NAMES, STATES, minimum_dwell=2)
        assert row(table, run="a", state="warm-up")["confirmed"] == 0.5
        assert row(table, run="a", state="plateau")["confirmed"] == 0
        assert row(table, run="b", state="warm-up")["confirmed"] == 0.5

    @pytest.mark.parametrize("visit", ["first", "last"])
    def test_agrees_with_a_loop_over_draws(self, visit):
        paths, steps, names, lengths = random_paths(stay=3)
        table = changes.exit_times(paths, steps, names, STATES, visit=visit)
        for n, name in enumerate(names):
            for k, state in enumerate(STATES):
                ends = []
                for path in paths[:, n, : lengths[n]]:
                    own = [after for s, _, after in visits_of(path) if s == k]
                    end = own[0 if visit == "first" else -1] if own else lengths[n]
                    ends += [steps[n, end]] if end < lengths[n] else []
                found = row(table, run=name, state=state)
                assert found["probability"] == len(ends) / len(paths)
                if ends:
                    tails = np.quantile(ends, [0.5, 0.05, 0.95], method="inverted_cdf")
                    assert found.tolist()[3:] == tails.tolist()

    def test_another_word_is_an_error(self):
        with pytest.raises(ValueError, match="visit='every' must be"):
            changes.exit_times(PATHS, STEPS, NAMES, STATES, visit="every")


class TestChangeDensity:
    def test_by_hand(self):
        table = changes.change_density(PATHS, STEPS, NAMES, STATES)
        assert table[table["run"] == "b"].to_numpy().tolist() == [
            ["b", "warm-up", "plateau", 1, 15, 0.25],
            ["b", "warm-up", "plateau", 1, 25, 0.25],
            ["b", "warm-up", "plateau", 1, 35, 0.25],
        ]
        second = table.query("run == 'a' and source == 'warm-up' and occurrence == 2")
        assert second[["step", "probability"]].to_numpy().tolist() == [[70, 0.25], [80, 0.25]]

    def test_it_adds_up_to_the_table_of_changes(self):
        paths, steps, names, _ = random_paths(1, stay=3)
        keys = ["run", "source", "target", "occurrence"]
        density = changes.change_density(paths, steps, names, STATES).groupby(keys)
        times = phases.transition_times(paths, steps, names, STATES).set_index(keys).sort_index()
        total = density["probability"].sum().sort_index()
        np.testing.assert_allclose(total, times["probability"])
        assert (total.index == times.index).all()
        for key, own in density:
            below = own["probability"].cumsum() / own["probability"].sum()
            median = own["step"].to_numpy()[(below >= 0.5 - 1e-9).argmax()]
            assert median == times.loc[key, "median"]


class TestDwellTimes:
    def test_by_hand(self):
        table = changes.dwell_times(PATHS, STEPS, NAMES, STATES)
        assert list(table)[:4] == ["run", "state", "visit", "probability"]
        # To the next phase's first row: 30, 10, 10; the whole run, 100 steps, in the last draw.
        first = row(table, run="a", state="warm-up", visit=1)
        assert first.tolist()[3:] == [1, 10, 10, 100, 0.25]
        # One row at the very end has been seen for no step.
        assert row(table, run="a", state="grok", visit=1).tolist()[3:] == [0.25, 0, 0, 0, 0.25]
        assert row(table, run="a", state="warm-up", visit=3).tolist()[3:] == [0.25, 20, 20, 20, 0]

    def test_agrees_with_a_loop_over_draws(self):
        paths, steps, names, lengths = random_paths(2, stay=3)
        expected: dict[tuple, list] = {}
        for path in paths:
            for n, name in enumerate(names):
                seen: dict[int, int] = {}
                for k, first, after in visits_of(path[n, : lengths[n]]):
                    seen[k] = seen.get(k, 0) + 1
                    last = min(after, lengths[n] - 1)
                    visit = steps[n, last] - steps[n, first], after == lengths[n]
                    expected.setdefault((name, STATES[k], seen[k]), []).append(visit)
        table = changes.dwell_times(paths, steps, names, STATES)
        table = table.set_index(["run", "state", "visit"])
        assert set(table.index) == set(expected)
        for key, own in expected.items():
            lengths_of, cut = np.array(own).T
            tails = np.quantile(lengths_of, [0.5, 0.05, 0.95], method="inverted_cdf")
            shares = len(own) / len(paths), cut.sum() / len(paths)
            assert table.loc[key].tolist() == [shares[0], *tails, shares[1]]


class TestRoutes:
    def test_over_the_runs_by_hand(self):
        table = routes.routes(PATHS, STATES).set_index("route")
        # Once in run a, and in three of four draws of run b.
        assert table.loc["warm-up -> plateau"].tolist() == [0.375, 0, 0.5, 1]
        assert table.loc["warm-up"].tolist() == [0.25, 0, 1, 0]
        assert table["probability"].sum() == 1
        assert table["probability"].is_monotonic_decreasing

    def test_by_run(self):
        table = routes.routes(PATHS, STATES, names=NAMES)
        assert table[table["run"] == "b"].to_numpy().tolist() == [
            ["b", "warm-up -> plateau", 0.75],
            ["b", "warm-up", 0.25],
        ]
        assert (table.groupby("run")["probability"].sum() == 1).all()

    def test_visits_too_young_to_be_told_from_noise_are_left_out(self):
        table = routes.routes(PATHS, STATES, minimum_dwell=2, names=["a", "b"])
        found = set(table["route"][table["run"] == "a"])
        assert "warm-up -> plateau" in found  # without the single row of grok
        assert not any(route.endswith("grok") for route in found)
        young = routes.routes(PATHS, STATES, minimum_dwell=9)  # none is old enough but the first
        assert young["route"].tolist() == ["warm-up"]

    def test_only_the_most_probable_ones_are_listed(self):
        paths, _, names, _ = random_paths(3, stay=3)
        everything = routes.routes(paths, STATES, most=10_000)
        assert len(everything) > 20
        pd.testing.assert_frame_equal(routes.routes(paths, STATES), everything[:20])
        assert routes.routes(paths, STATES, names=names, most=2).groupby("run").size().max() == 2


class TestVisitOrder:
    def test_over_the_runs_by_hand(self):
        table = routes.visit_order(PATHS, STATES).set_index(["first", "second"])
        assert table.loc[("warm-up", "plateau")].tolist() == [0.75, 0, 1, 2, 0.75]
        assert table.loc[("plateau", "warm-up")].tolist() == [0, 0, 0, 0, 0.75]
        assert table.loc[("plateau", "grok")].tolist() == [0.125, 0, 0.5, 0, 0.125]
        assert len(table) == 6

    def test_by_run(self):
        table = routes.visit_order(PATHS, STATES, names=NAMES, minimum_dwell=2)
        assert row(table, run="a", first="warm-up", second="plateau")["probability"] == 0.75
        assert row(table, run="b", first="warm-up", second="plateau")["both"] == 0.5
        assert row(table, run="a", first="plateau", second="grok")["both"] == 0


class TestRecurrence:
    def test_over_the_runs_by_hand(self):
        table = routes.recurrence(PATHS, STATES).set_index("state")
        # Run a comes back to the warm-up in two draws: 1, 2, 3, 1 visits, and 1 in run b.
        assert table.loc["warm-up"].tolist() == [0.25, 0, 0.5, 0, 11 / 8]
        assert table.loc["grok"].tolist() == [0, 0, 0, 0, 1]

    def test_by_run(self):
        table = routes.recurrence(PATHS, STATES, names=NAMES)
        assert row(table, run="a", state="plateau")["probability"] == 0.5
        assert row(table, run="a", state="plateau")["visits"] == 2
        assert np.isnan(row(table, run="b", state="grok")["visits"])


def tables(paths, steps, names, states):
    """Every table, indexed by what its rows are of."""
    data = paths, steps, names, states
    keyed = {
        "exit": (changes.exit_times(*data, minimum_dwell=4), ["run", "state"]),
        "density": (
            changes.change_density(*data),
            ["run", "source", "target", "occurrence", "step"],
        ),
        "dwell": (changes.dwell_times(*data), ["run", "state", "visit"]),
        "routes": (routes.routes(paths, states, minimum_dwell=4, most=10_000), ["route"]),
        "routes of runs": (
            routes.routes(paths, states, minimum_dwell=4, names=names, most=10_000),
            ["run", "route"],
        ),
        "order": (routes.visit_order(paths, states, minimum_dwell=4), ["first", "second"]),
        "order of runs": (
            routes.visit_order(paths, states, names=names),
            ["run", "first", "second"],
        ),
        "recurrence": (routes.recurrence(paths, states, minimum_dwell=4), ["state"]),
        "recurrence of runs": (routes.recurrence(paths, states, names=names), ["run", "state"]),
        "edges": (phases.edge_usage(paths, states, minimum_dwell=4), ["source", "target"]),
    }
    return {name: table.set_index(keys).sort_index() for name, (table, keys) in keyed.items()}


def test_relabelling_states_and_reordering_runs_change_no_number():
    paths, steps, names, _ = random_paths(4, stay=3)
    new, order = np.array([2, 0, 1]), np.array([3, 1, 0, 2])
    relabelled = np.where(paths >= 0, new[paths], -1)[:, order]
    renamed = [STATES[k] for k in np.argsort(new)]
    one = tables(paths, steps, names, STATES)
    two = tables(relabelled, steps[order], [names[n] for n in order], renamed)
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, two[name], obj=name)


def test_edges_into_young_visits_are_left_out():
    table = phases.edge_usage(PATHS, STATES, minimum_dwell=2).set_index(["source", "target"])
    assert ("plateau", "grok") not in table.index
    assert table.loc[("warm-up", "plateau"), "probability"] == 5 / 8
