"""The table of differences between conditions, on draws that are made by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import beta
from scipy.stats import t as student_t

from bayeshmm.differences import UNITS, condition_differences
from bayeshmm.emissions import Autoregressive
from bayeshmm.runs import Runs
from bayeshmm.transitions import Calendar, Chain

S = 4000


def posterior_of(paths, transition, names, kinds, steps=None, minimum_dwell=1):
    """What the table reads of a posterior: paths (S, N, T) and transitions (S, G, K, K)."""
    paths, transition = np.asarray(paths), torch.tensor(transition, dtype=torch.float64)
    N, T = paths.shape[1:]
    steps = np.arange(T) * 10 if steps is None else np.asarray(steps)
    frame = pd.DataFrame(
        {
            "run": np.repeat([f"run-{n}" for n in range(N)], T),
            "step": np.tile(steps, N),
            "loss": np.random.default_rng(0).normal(size=N * T),
            "kind": np.repeat(kinds, T),
        }
    )
    runs = Runs.from_dataframe(frame, metrics=["loss"], attributes=["kind"])
    K = transition.shape[-1]
    chain = Chain(torch.full((len(paths), 1, K), 1 / K, dtype=torch.float64), transition)
    return SimpleNamespace(
        runs=runs,
        states=K,
        state_names=tuple(names),
        paths=paths,
        draws=SimpleNamespace(chain=chain),
        encoding=SimpleNamespace(calendar=Calendar.of(runs, "kind")),
        minimum_dwell=minimum_dwell,
        hmm=SimpleNamespace(family=Autoregressive()),
        seed=0,
    )


def stays(first, second):
    """Transitions (S, 2, 2, 2) in which the first phase is left with these probabilities."""
    exits = np.broadcast_arrays(np.asarray(first, float), np.asarray(second, float), np.ones(S))
    exits = np.stack(exits[:2], 1)
    other = np.full_like(exits, 0.5)
    return np.stack([np.stack([1 - exits, exits], -1), np.stack([other, 1 - other], -1)], -2)


# five runs of each condition, which enter the second phase at these rows; never: 99
ENTRIES = {"a": [4, 5, 6, 7, 8], "b": [2, 2, 3, 99, 99]}
PATHS = np.array([(np.arange(12) >= row).astype(int) for row in [*ENTRIES["a"], *ENTRIES["b"]]])
KINDS = ["a"] * 5 + ["b"] * 5


@pytest.fixture(scope="module")
def table():
    transition = stays(np.linspace(0.1, 0.2, S), 0.05)
    posterior = posterior_of(
        np.broadcast_to(PATHS, (S, *PATHS.shape)), transition, ["start", "end"], KINDS
    )
    return condition_differences(posterior).set_index(["quantity", "place"])


def test_a_row_per_quantity_and_place(table):
    assert table.index.tolist() == [
        ("transition", "start -> end"),
        ("transition", "end -> start"),
        ("dwell", "start"),
        ("dwell", "end"),
        ("entry", "start"),
        ("entry", "end"),
        ("entered", "start"),
        ("entered", "end"),
        ("used", "start -> end"),
    ]
    assert set(table["first"]) == {"a"}
    assert set(table["second"]) == {"b"}
    assert table.attrs == {"units": UNITS, "level": 0.9, "by": "kind"}


def test_parameters_are_the_differences_of_draws(table):
    row = table.loc[("transition", "start -> end")]
    draws = 0.05 - np.linspace(0.1, 0.2, S)
    assert row[["lower", "median", "upper"]].tolist() == pytest.approx(
        np.quantile(draws, [0.05, 0.5, 0.95]).tolist()
    )
    assert row["positive"] == 0.0
    dwell = 10 * (1 / 0.05 - 1 / np.linspace(0.1, 0.2, S))  # a row is ten steps
    assert table.loc[("dwell", "start"), "median"] == pytest.approx(np.median(dwell))
    assert table.loc[("dwell", "start"), "positive"] == 1.0
    same = table.loc[("dwell", "end"), ["lower", "median", "upper"]]
    assert same.tolist() == [0.0, 0.0, 0.0]


def test_entry_times_count_the_spread_of_seeds(table):
    """Behrens-Fisher: two t laws, of five runs and of the three that enter."""
    rng = np.random.default_rng(5)
    drawn = []
    for rows in (ENTRIES["a"], ENTRIES["b"][:3]):
        error = 10 * np.std(rows, ddof=1) / np.sqrt(len(rows))
        drawn.append(student_t(len(rows) - 1, 10 * np.mean(rows), error).rvs(200_000, rng))
    row = table.loc[("entry", "end")]
    exact = np.quantile(drawn[1] - drawn[0], [0.05, 0.5, 0.95])
    assert np.abs(row[["lower", "median", "upper"]].to_numpy(float) - exact).max() < 2.0
    assert row["upper"] < 0.0
    assert row["positive"] < 0.05


def test_probabilities_count_the_spread_of_seeds(table):
    rng = np.random.default_rng(5)
    exact = beta(3.5, 2.5).rvs(200_000, rng) - beta(5.5, 0.5).rvs(200_000, rng)
    for place in (("entered", "end"), ("used", "start -> end")):
        row = table.loc[place, ["lower", "median", "upper"]].to_numpy(float)
        assert np.abs(row - np.quantile(exact, [0.05, 0.5, 0.95])).max() < 0.02
    assert table.loc[("entered", "start"), "lower"] < 0.0 < table.loc[("entered", "start"), "upper"]


def test_intervals_of_entry_times_cover_at_the_nominal_rate():
    rng, transition, covered, sets = np.random.default_rng(0), stays(0.1, 0.1)[:300], 0, 150
    rows = np.arange(80)
    for _ in range(sets):
        entries = np.concatenate([rng.normal(30, 3, 6), rng.normal(45, 8, 6)]).round()
        paths = (rows >= entries[:, None]).astype(int)
        posterior = posterior_of(
            np.broadcast_to(paths, (300, *paths.shape)),
            transition,
            ["start", "end"],
            ["a"] * 6 + ["b"] * 6,
        )
        table = condition_differences(posterior).set_index(["quantity", "place"])
        row = table.loc[("entry", "end")]
        covered += row["lower"] <= 150 <= row["upper"]
    assert 0.84 < covered / sets < 0.98  # 0.90 to 0.93 expected, standard error 0.02


def test_steps_of_unevenly_spaced_rows_are_read_off_the_runs():
    steps = np.arange(12) ** 2 * 10
    posterior = posterior_of(
        np.broadcast_to(PATHS, (S, *PATHS.shape)), stays(0.1, 0.1), "xy", KINDS, steps
    )
    table = condition_differences(posterior).set_index(["quantity", "place"])
    expected = np.mean(steps[[2, 2, 3]]) - np.mean(steps[ENTRIES["a"]])
    assert table.loc[("entry", "y"), "median"] == pytest.approx(expected, abs=20)


def test_what_too_few_runs_enter_has_no_interval():
    paths = PATHS.copy()
    paths[6:] = 0  # one run of b is left
    posterior = posterior_of(
        np.broadcast_to(paths, (S, *paths.shape)), stays(0.1, 0.1), "xy", KINDS
    )
    table = condition_differences(posterior).set_index(["quantity", "place"])
    assert table.loc[("entry", "y"), ["median", "lower", "upper", "positive"]].isna().all()
    assert table.loc[("entered", "y"), "upper"] < 0.0


def test_every_pair_of_conditions_is_compared():
    transition = np.broadcast_to(np.full((2, 2), 0.5), (S, 3, 2, 2))
    kinds = ["a"] * 3 + ["b"] * 3 + ["c"] * 4
    posterior = posterior_of(np.broadcast_to(PATHS, (S, *PATHS.shape)), transition, "xy", kinds)
    table = condition_differences(posterior)
    pairs = table[["first", "second"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["a", "b"], ["a", "c"], ["b", "c"]]


def test_a_single_phase_has_nothing_to_leave():
    posterior = posterior_of(
        np.zeros((S, 4, 5), dtype=int), np.ones((S, 2, 1, 1)), "x", ["a", "a", "b", "b"]
    )
    table = condition_differences(posterior)
    assert table["quantity"].tolist() == ["entry", "entered"]
    assert table.loc[0, ["median", "lower", "upper"]].tolist() == [0.0, 0.0, 0.0]


def test_a_fit_without_conditions_names_the_mend():
    posterior = posterior_of(
        np.broadcast_to(PATHS, (S, *PATHS.shape)), stays(0.1, 0.1), "xy", KINDS
    )
    posterior.encoding.calendar = Calendar.of(posterior.runs)
    with pytest.raises(ValueError, match=r"transition=Grouped\(by="):
        condition_differences(posterior)
