import numpy as np
import pandas as pd
import pytest
from state_paths import NAMES, PATHS, STATES, STEPS, random_paths, row

from bayeshmm import phases


def test_entry_times_by_hand():
    table = phases.entry_times(PATHS, STEPS, NAMES, STATES)
    assert list(table) == ["run", "state", "probability", "median", "lower", "upper"]
    assert table["run"].tolist() == ["a"] * 3 + ["b"] * 3
    assert table["state"].tolist() == STATES * 2
    entry = row(table, run="a", state="plateau")  # rows 2, 1, 1, never
    assert entry.tolist()[2:] == [0.75, 10, 10, 30]
    assert row(table, run="a", state="warm-up").tolist()[2:] == [1, 0, 0, 0]
    assert row(table, run="a", state="grok").tolist()[2:] == [0.25, 100, 100, 100]
    never = row(table, run="b", state="grok")
    assert never["probability"] == 0
    assert never[["median", "lower", "upper"]].isna().all()


def test_transition_times_by_hand():
    table = phases.transition_times(PATHS, STEPS, NAMES, STATES)
    columns = ["run", "source", "target", "occurrence", "probability", "median", "lower", "upper"]
    assert list(table) == columns
    assert table.to_numpy().tolist() == [
        ["a", "warm-up", "plateau", 1, 0.75, 10, 10, 30],
        ["a", "plateau", "warm-up", 1, 0.5, 30, 30, 70],
        ["a", "warm-up", "plateau", 2, 0.5, 70, 70, 80],
        ["a", "plateau", "warm-up", 2, 0.25, 80, 80, 80],
        ["a", "warm-up", "plateau", 3, 0.25, 100, 100, 100],
        ["a", "plateau", "grok", 1, 0.25, 100, 100, 100],
        ["b", "warm-up", "plateau", 1, 0.75, 25, 15, 35],
    ]


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_tables_agree_with_a_loop_over_draws(level):
    paths, steps, names, lengths = random_paths()
    entries = phases.entry_times(paths, steps, names, STATES, level)
    changes = phases.transition_times(paths, steps, names, STATES, level)
    expected: dict[tuple, list] = {}
    for path in paths:
        for n, name in enumerate(names):
            first, seen = {}, {}
            for t in range(lengths[n]):
                first.setdefault(STATES[path[n, t]], steps[n, t])
                if t and path[n, t] != path[n, t - 1]:
                    edge = STATES[path[n, t - 1]], STATES[path[n, t]]
                    seen[edge] = seen.get(edge, 0) + 1
                    expected.setdefault((name, *edge, seen[edge]), []).append(steps[n, t])
            for state, step in first.items():
                expected.setdefault((name, state), []).append(step)
    tables = [
        entries.set_index(["run", "state"]),
        changes.set_index(["run", "source", "target", "occurrence"]),
    ]
    assert sum(map(len, tables)) == len(expected)
    quantiles = [0.5, (1 - level) / 2, (1 + level) / 2]
    for table in tables:
        for key, found in table.iterrows():
            times = np.quantile(expected[key], quantiles, method="inverted_cdf")
            assert found.tolist() == [len(expected[key]) / len(paths), *times]


def test_transitions_are_sorted_by_run_then_median():
    paths, steps, names, _ = random_paths(1)
    table = phases.transition_times(paths, steps, names, STATES)
    assert table["run"].drop_duplicates().tolist() == names
    assert all(group["median"].is_monotonic_increasing for _, group in table.groupby("run"))


def test_no_change_gives_an_empty_table():
    paths = np.zeros((3, 2, 6), dtype=np.int8)
    table = phases.transition_times(paths, STEPS, NAMES, STATES)
    assert table.empty
    assert "occurrence" in table
    assert phases.edge_usage(paths, STATES).empty


def test_young_visits_are_unconfirmed():
    entries = phases.entry_times(PATHS, STEPS, NAMES, STATES, minimum_dwell=3)
    assert row(entries, run="a", state="plateau")["confirmed"] == 0.75
    assert row(entries, run="b", state="plateau")["confirmed"] == 0.25  # 2, 3 and 1 rows left
    assert row(entries, run="a", state="grok")["confirmed"] == 0
    assert row(entries, run="b", state="grok")["confirmed"] == 0
    per_state = phases.transition_times(PATHS, STEPS, NAMES, STATES, minimum_dwell=[3, 2, 1])
    assert row(per_state, run="a", target="grok")["confirmed"] == 0.25
    assert row(per_state, run="b", target="plateau")["confirmed"] == 0.5


def test_relabelling_states_changes_no_number():
    paths, steps, names, _ = random_paths(2)
    new = np.array([2, 0, 1])
    relabelled = np.where(paths >= 0, new[paths], -1)
    renamed = [STATES[k] for k in np.argsort(new)]
    for function, keys in (
        (phases.entry_times, ["run", "state"]),
        (phases.transition_times, ["run", "source", "target", "occurrence"]),
    ):
        one = function(paths, steps, names, STATES).set_index(keys).sort_index()
        two = function(relabelled, steps, names, renamed).set_index(keys).sort_index()
        pd.testing.assert_frame_equal(one, two)


def test_edge_usage_by_hand():
    table = phases.edge_usage(PATHS, STATES).set_index(["source", "target"])
    # Runs that go warm-up -> plateau, by draw: 2, 2, 2, 0.
    assert table.loc[("warm-up", "plateau")].tolist() == [0.75, 0, 1, 2, 2]
    # Once in draws 1 and 2 of run a, however often within a path: a tie is not certain.
    assert table.loc[("plateau", "warm-up")].tolist() == [0.25, 0, 0.5, 0, 0]
    assert table.loc[("plateau", "grok")].tolist() == [0.125, 0, 0.5, 0, 0]
    assert len(table) == 3


def test_occupied_states_by_hand():
    table = phases.occupied_states(PATHS, STATES)  # 3, 2, 2 and 1 of the states have rows
    assert table["states"].tolist() == [0, 1, 2, 3]
    assert table["probability"].tolist() == [0, 0.25, 0.5, 0.25]
    # of 10 rows, the states have 4 5 1, 3 7 0, 6 4 0 and 10 0 0
    for least, expected in ((0.1, [0, 0.25, 0.5, 0.25]), (0.35, [0, 0.5, 0.5, 0])):
        table = phases.occupied_states(PATHS, STATES, least)
        assert table["probability"].tolist() == expected
        assert table.attrs == {"least": least}
    many = phases.occupied_states(PATHS, STATES, 0.9)
    assert many["probability"].tolist() == [0.75, 0.25, 0, 0]


@pytest.mark.parametrize("least", [-0.1, 1.0, np.nan])
def test_a_share_of_rows_that_is_none_is_an_error(least):
    with pytest.raises(ValueError, match="must be a share of all rows"):
        phases.occupied_states(PATHS, STATES, least)


def test_state_occupancy_by_hand():
    table = phases.state_occupancy(PATHS, STATES).set_index("state")
    assert table["rows"].sum() == pytest.approx(1)
    assert table.loc["grok"].tolist() == [0.125, 0, 0.5, 0, 1 / 40]
    assert table.loc["warm-up", "runs"] == 2


def test_modal_path_is_the_most_frequent_state():
    modal = phases.modal_path(PATHS)
    np.testing.assert_array_equal(modal, [[0, 0, 0, 0, 0, 1], [0, 0, 0, 1, -1, -1]])


def test_containing_phase_counts_draws():
    found = phases.containing_phase(PATHS, [2, -1], states=3)
    np.testing.assert_array_equal(found, [[0.5, 0.5, 0], [np.nan] * 3])


def test_event_beyond_the_run_is_an_error():
    with pytest.raises(ValueError, match="run 1: the event is at row 4, but the run has 4 rows"):
        phases.containing_phase(PATHS, [2, 4])
    with pytest.raises(ValueError, match="3 event rows for 2 runs"):
        phases.containing_phase(PATHS, [2, 1, 0])


def test_boundary_entry_steps_are_the_medians_of_probable_entries():
    np.testing.assert_array_equal(phases.boundary_entry_steps(PATHS, STEPS, 1), [10, 25])
    np.testing.assert_array_equal(phases.boundary_entry_steps(PATHS, STEPS, 2), [np.nan] * 2)
    np.testing.assert_array_equal(phases.boundary_entry_steps(PATHS, STEPS, 7), [np.nan] * 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": PATHS[0]}, "expected \\(draws, runs, rows\\)"),
        ({"steps": STEPS[:, :3]}, "steps have shape"),
        ({"names": ["a"]}, "1 run names for 2 runs"),
        ({"state_names": ["x", "y"]}, "visits state 2, but 2 are named"),
        ({"level": 90}, "level=90 must lie between 0 and 1"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"paths": PATHS, "steps": STEPS, "names": NAMES, "state_names": STATES}
    with pytest.raises(ValueError, match=message):
        phases.entry_times(**(good | change))
