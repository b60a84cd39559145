"""The benchmark on numbers of phases: its worlds, the file of tables, the rule and the verdicts."""

import numpy as np
import pandas as pd
import pytest

from bayeshmm.comparison.choice import choose
from benchmarks import state_counts
from benchmarks.state_counts import cells, learning_rate, report, rules, worlds
from benchmarks.state_counts.cells import DRIFT, Cache, Task, all_tasks, measure
from benchmarks.state_counts.rules import Rule, counted, drifting
from benchmarks.state_counts.worlds import FAMILIES, SEEDS, WORLDS


def drawn(world, phases=4, seed=0):
    """Phase of every row, and the values of a world."""
    rng = np.random.default_rng(seed)
    path = worlds.paths(phases, rng)
    return path, WORLDS[world].values(path, phases, rng)


def means(values, path, skip=0):
    """Mean of every phase, (K, D), from rows at least `skip` rows into it."""
    since = np.zeros_like(path)
    for t in range(1, path.shape[1]):
        since[:, t] = np.where(path[:, t] == path[:, t - 1], since[:, t - 1] + 1, 0)
    late = since >= skip
    return np.stack([values[late & (path == k)].mean(0) for k in range(path.max() + 1)])


@pytest.mark.parametrize("rungs", [3, 10])
def test_phases_differ_from_their_neighbours_in_every_metric_and_never_come_back(rungs):
    for seed in range(20):
        walk = worlds.distinct_walks(5, rungs, np.random.default_rng(seed))
        assert (np.abs(np.diff(walk, axis=0)) == 1).all()
        assert len(np.unique(walk, axis=0)) == 5
        assert walk.min() >= 0
        assert walk.max() < rungs


def test_every_run_goes_through_all_phases_in_order_at_times_of_its_own():
    path = worlds.paths(5, np.random.default_rng(0))
    assert set(np.diff(path, axis=1).ravel()) == {0, 1}
    assert (path[:, 0] == 0).all()
    visits = (path[..., None] == np.arange(5)).sum(1)
    assert visits.min() >= worlds.SHORTEST
    assert len(np.unique(visits, axis=0)) == worlds.RUNS


@pytest.mark.parametrize(("world", "skip"), [("levels", 0), ("Student-t", 0), ("AR(1)", 12)])
def test_neighbouring_levels_are_two_standard_deviations_of_the_noise_apart(world, skip):
    path, values = drawn(world)
    centres = means(values, path, skip)
    assert np.abs(np.diff(centres, axis=0)) == pytest.approx(worlds.STEP, abs=0.4)
    first = values[:, : worlds.SHORTEST] - centres[0]  # rows of the first phase in every run
    assert first.std() == pytest.approx(1.0, abs=0.12)
    carried = (first[:, 1:] * first[:, :-1]).mean() / first.var()
    assert carried == pytest.approx(worlds.CARRY if world == "AR(1)" else 0.0, abs=0.12)


def test_heavy_tails():
    for world, outliers in (("levels", False), ("Student-t", True)):
        path, values = drawn(world)
        noise = values - means(values, path)[path]
        assert (np.abs(noise).max() > 6) == outliers


def test_runs_are_off_by_one_standard_deviation_in_all_phases_alike():
    path, values = drawn("run offsets")
    off = values - means(values, path)[path]
    first, last = ([off[n][path[n] == k].mean(0) for n in range(len(off))] for k in (0, 3))
    assert np.std(first) == pytest.approx(1.0, abs=0.3)
    assert np.corrcoef(np.ravel(first), np.ravel(last))[0, 1] > 0.9


def test_averages_have_the_law_of_the_family():
    path, values = drawn("averages")
    reference, features = worlds.AVERAGES.past(values)
    assert features.shape[-1] == 2 + len(worlds.HALF_LIVES)
    pulled = values - reference - worlds.PULL * features[..., 2:].sum(-1)
    drifts = means(pulled[:, 1:], path[:, 1:])
    residuals = (pulled[:, 1:] - drifts[path[:, 1:]]).reshape(-1, worlds.METRICS)
    assert residuals.std(0) == pytest.approx(np.ones(worlds.METRICS), abs=0.05)
    factors = np.abs(drifts[1:] / drifts[:-1])
    assert np.maximum(factors, 1 / factors) == pytest.approx(3.0, abs=0.4)


def test_trends_change_their_slope_by_a_factor_of_three():
    path, values = drawn("noisy trends")
    slopes = means(np.diff(values, axis=1), path[:, 1:])
    nearest = worlds.SLOPES[np.abs(np.abs(slopes)[..., None] - worlds.SLOPES).argmin(-1)]
    assert np.abs(slopes) == pytest.approx(nearest, abs=0.08)
    assert (nearest[1:] != nearest[:-1]).all()


def test_what_drifts_falls_to_a_floor_and_more_runs_are_further_runs():
    for number, name in enumerate(worlds.DRIFTS):
        few, many = (worlds.without_phases(number, runs) for runs in (8, 60))
        assert np.array_equal(few.values, many.values[:8])
        rise = np.diff(many.values.mean(0)[[0, -1]], axis=0)
        expected = 0.0 if name == "no change" else -0.9
        assert rise == pytest.approx(expected, abs=4 * 0.27 * 2 if "200%" in name else 0.7)
        noise = np.diff(many.values[:, 100:], axis=1).std() / np.sqrt(2)
        share = name.partition("noise ")[2].rstrip("%")
        assert noise == pytest.approx(float(share) / 100 if share else 1.0, rel=0.05)
    rates = [np.log(run[20, 0]) for run in worlds.without_phases(0, 60).values if run[20, 0] > 0]
    assert np.std(rates) > 0.1


def test_set_numbers_go_through_the_true_numbers_of_phases():
    assert [worlds.true_phases(number) for number in range(5)] == [2, 3, 4, 5, 2]
    assert len(worlds.with_phases("levels", 0)) == worlds.RUNS
    one, other = (worlds.with_phases("levels", number).values for number in (0, 4))
    assert not np.array_equal(one, other)


def scores(best, states=5, gain=1.0):
    """A table that levels off at `best` states."""
    counts = np.arange(1, states + 1)
    elpd = gain * np.minimum(counts, best) + 1e-4 * counts
    table = pd.DataFrame({"elpd": elpd, "diff_se": 0.0, "agreement": 1.0})
    return table.set_index(pd.Index(counts, name="states"))


def filled(cache, sets=1, wrong=()):
    """Tables as they should be, but for the tasks in `wrong`: theirs level off at four states."""
    for task in all_tasks(sets, restarts=1):
        truth = 1 if task.world == DRIFT else worlds.true_phases(task.number)
        right = "AR(5)" if task.world == DRIFT else WORLDS[task.world].right
        gain = 1.0 if task.family == right else 0.5
        key = task.world, task.number, task.runs
        cache.add(task, scores(4 if key in wrong else truth, gain=gain))
    return cache


def test_a_rule_is_that_of_the_library_with_other_numbers():
    table = pd.concat({"a": scores(3), "b": scores(2, gain=1.49)}, names=["emission", "states"])
    assert Rule(0.0, 0.0, 0.0).choose(table, 4) == ("a", 5)
    assert Rule(0.0, 0.01, 0.0).choose(table, 4) == ("a", 3)
    assert Rule(0.3, 0.0, 0.0).choose(table, 4) == ("a", 1)  # 1.2 nats; a phase is worth 1
    assert Rule(0.01, 0.0, 0.02).choose(table, 4) == ("b", 2)  # 0.02 nats below: within 0.08
    assert Rule().choose(table, 4) == choose(table, 4)


def test_tables_of_what_is_right():
    cache = filled(Cache(), sets=2, wrong=[("levels", 0, 12), (DRIFT, 1, 60)])
    found = counted(cache, Rule(), range(2), 1).set_index(["world", "number"])
    assert found.loc[("levels", 0), ["true", "states", "offered"]].tolist() == [2, 4, 4]
    assert found.loc[("AR(1)", 1), ["true", "states", "family"]].tolist() == [3, 3, "AR(1)"]
    assert found["family"].isna().groupby("world").all().loc["noisy trends"]
    flat = drifting(cache, Rule(), range(2), 1)
    assert flat[list(SEEDS)].to_numpy().tolist() == [[1, 1, 1], [1, 1, 4]]
    table = report.by_world(found.reset_index())
    assert table.loc["levels"].tolist() == ["1 of 2", "2 of 2", "1 of 2"]
    assert table.loc["noisy trends"].tolist() == ["2 of 2", "", ""]
    assert report.grid(cache, range(2), 1).loc["0.01", "0.1"] == "9/10, 5/6"
    assert "At most 2 states: 5 of 6." in report.said_of_seeds(flat)
    ties = report.by_tie(cache, range(2), 1)
    assert list(ties.columns) == [*(name for name, world in WORLDS.items() if world.exact), DRIFT]
    assert ties.loc["0.005", ["levels", DRIFT]].tolist() == ["2 of 2", "5 of 6"]


@pytest.mark.parametrize(
    ("wrong", "missed"),
    [
        ([], []),
        ([("levels", 0, 12)], ["levels: the number of states"]),
        ([("noisy trends", 0, 12)], []),
        ([(DRIFT, 0, 20)], ["drift: at most two states"]),
        (
            [(DRIFT, 0, 60)],
            ["drift: at most two states", "drift: no more states with more runs"],
        ),
    ],
)
def test_verdicts(wrong, missed):
    cache = filled(Cache(), wrong=wrong)
    found, flat = (made(cache, Rule(), range(1), 1) for made in (counted, drifting))
    assert report.misses(found, flat) == missed
    assert report.complete(found, flat, 1)
    assert not report.complete(found, flat, 2)


def test_a_family_that_is_not_chosen_is_a_miss():
    cache = filled(Cache())
    for task in Task.families("AR(1)", 0, worlds.RUNS, 1, ["AR(5)"]):
        cache.add(task, scores(2, gain=9.0))
    found, flat = (made(cache, Rule(), range(1), 1) for made in (counted, drifting))
    assert report.misses(found, flat) == ["AR(1): the family"]


def test_a_benchmark_that_was_cut_off_goes_on(tmp_path, monkeypatch, capsys):
    file, out = tmp_path / "cells.jsonl", tmp_path / "tables.md"
    words = ["--sets", "1", "--restarts", "1", "--cache", str(file), "--out", str(out)]
    monkeypatch.setattr(cells, "measure", lambda task: pytest.fail("measured again"))
    assert state_counts.main([*words, "--no-fits"]) == 2
    filled(Cache(file))
    with file.open("a") as torn:
        torn.write('\n{"task": {"wor')
    assert state_counts.main(words) == 0
    assert "| levels " in out.read_text()
    assert "written to" in capsys.readouterr().out


def test_a_table_is_measured():
    table = measure(Task(DRIFT, 6, 8, "levels", restarts=1))
    assert list(table.columns) == cells.COLUMNS
    assert list(table.index) == list(cells.DRIFT_STATES)
    assert np.isfinite(table).all(axis=None)
    assert rules.Rule().choose(pd.concat({"levels": table}), worlds.DRIFT_METRICS)[1] == 1


def test_the_drop_of_the_learning_rate(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    epochs = np.arange(1, 201)
    frames = []
    for n in range(5):
        level = np.where(epochs < learning_rate.DROP, 10.0, 1.0)[:, None]
        errors = level * np.exp(0.2 * rng.standard_normal((200, 2)))
        accuracy = {"train_acc": 100 - errors[:, 0], "test_acc": 100 - errors[:, 1]}
        frames.append(pd.DataFrame({"run": f"r{n}", "step": epochs, **accuracy}))
    pd.concat(frames).to_csv(tmp_path / "cifar10.csv", index=False)
    monkeypatch.setattr(learning_rate, "FAMILIES", {"levels": FAMILIES["levels"]})
    monkeypatch.setattr(learning_rate, "STATES", range(1, 4))
    drop = learning_rate.Drop.of(tmp_path, restarts=1)
    assert drop.chosen == ("levels", 2)
    assert drop.near.all()
    assert (drop.changes == 1).all()
    assert "**5 of 5 runs**" in drop.section()
    assert drop.misses() == ["the learning rate's drop: a change near it"]  # of 27 runs
