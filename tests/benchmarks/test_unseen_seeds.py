"""The benchmark on unseen runs: splits, units, the file of finished cells, tables and verdicts."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import changed, moving_runs

from bayeshmm import Gaussian
from benchmarks import s5_grokking, unseen_seeds
from benchmarks.unseen_seeds import cells, datasets, report
from benchmarks.unseen_seeds.cells import Cache, Cell, Settings, Task, fill, measure
from benchmarks.unseen_seeds.datasets import DataSet
from benchmarks.unseen_seeds.families import COUPLED, Family, all_families

LEVELS = Family("levels", Gaussian(noise="normal", run_effects=False), minimum_dwell=4)
ONCE = Settings(folds=1, restarts=1, seed=0)


@pytest.fixture(scope="module")
def data():
    return DataSet("moving", moving_runs(np.full((6, 1), 20), [40, 45, 38, 41, 36, 44]))


def task(data, family=LEVELS, states=1, settings=ONCE):
    return Task.all(data, family, states, settings)[-1]


def per_row(cell):
    return sum(cell.density) / sum(cell.rows)


def test_folds_hold_out_every_run_once(data):
    folds = [data.fold(first) for first in range(datasets.FOLDS)]
    assert folds[0].held_out.names == ("seed-0", "seed-4")
    assert sorted(name for fold in folds for name in fold.held_out.names) == list(data.runs.names)
    for fold in folds:
        assert set(fold.training.names) == set(data.runs.names) - set(fold.held_out.names)


@pytest.mark.parametrize("family", [LEVELS, all_families()[4]], ids=lambda family: family.name)
def test_figures_do_not_depend_on_the_units_of_the_data(data, family):
    other = DataSet("moving", changed(data.runs, m1=lambda rows: 1000 * rows["m1"] - 7))
    expected = measure(data, family, task(data, family))
    assert per_row(measure(other, family, task(other, family))) == pytest.approx(per_row(expected))


def test_logarithms_are_undone(data):
    # the log of an exponential is the data again, so that its standardised figures are as well
    other = DataSet("moving", changed(data.runs, m1=lambda rows: np.exp(rows["m1"])), {"m1": 0.0})
    expected = measure(data, LEVELS, task(data))
    assert per_row(measure(other, LEVELS, task(other))) == pytest.approx(per_row(expected))


def test_standard_normal_rows_have_the_entropy_of_a_standard_normal():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((8, 300, 2)) * [3.0, 0.1]
    frame = pd.DataFrame(values.reshape(-1, 2), columns=["a", "b"])
    frame = frame.assign(run=np.repeat([f"r{n}" for n in range(8)], 300), step=[*range(300)] * 8)
    noise = DataSet("noise", datasets.Runs.from_dataframe(frame))
    figure = per_row(measure(noise, LEVELS, task(noise)))
    assert figure == pytest.approx(-np.log(2 * np.pi) - 1, abs=0.1)


def test_a_cut_off_run_goes_on(data, tmp_path, monkeypatch, capsys):
    file = tmp_path / "cells.jsonl"
    fill(Cache(file), [data], [LEVELS], [1], ONCE)
    with file.open("a") as torn:
        torn.write('\n{"task": {"da')
    asked = []

    def count(data, family, task):
        asked.append(task.states)
        if task.states == 3:
            raise ValueError("singular")
        return Cell((1.0, 2.0), (10, 20), 0.5)

    monkeypatch.setattr(cells, "measure", count)
    fill(Cache(file), [data], [LEVELS], [1, 2, 3], ONCE)
    assert asked == [2, 3]
    assert "singular" in capsys.readouterr().err
    cache = Cache(file)
    table = cache.table(data, [LEVELS], [1, 2, 3], ONCE)
    assert table.loc["levels", 2] == pytest.approx(3 / 30)
    assert table.isna().loc["levels"].tolist() == [False, False, True]
    fill(cache, [data], [LEVELS], [1, 2, 3], ONCE)
    assert asked == [2, 3, 3]


def test_cells_of_other_data_or_settings_are_not_taken(data):
    cache = Cache(None)
    cache.add(task(data), Cell((1.0,), (1,), 0.0))
    others = [
        (dataclasses.replace(data, runs=changed(data.runs, m0=0.5)), LEVELS, ONCE),
        (dataclasses.replace(data, log={"m0": 9.0}), LEVELS, ONCE),
        (data, dataclasses.replace(LEVELS, minimum_dwell=5), ONCE),
        (data, LEVELS, ONCE._replace(restarts=2)),
    ]
    assert len(cache.table(data, [LEVELS], [1], ONCE)) == 1
    for runs, family, settings in others:
        assert cache.table(runs, [family], [1], settings).empty


def test_another_floor_is_another_task(data):
    logged = dataclasses.replace(data, log={"m0": 9.0})
    assert logged.floored(8.0).log == {"m0": 8.0}
    assert task(logged.floored(8.0)) != task(logged) == task(logged.floored(9.0))


def test_folds_are_pooled_by_rows(data):
    both = Settings(folds=2, restarts=1, seed=0)
    first, second = Task.all(data, LEVELS, 1, both)
    cache = Cache(None)
    cache.add(first, Cell((10.0,), (10,), 0.0))
    assert cache.table(data, [LEVELS], [1], both).empty
    cache.add(second, Cell((0.0,), (30,), 0.0))
    assert cache.table(data, [LEVELS], [1], both).loc["levels", 1] == pytest.approx(0.25)


def test_families_have_names_of_their_own_and_pairs_differ_in_coupling_alone():
    by_name = {family.name: family for family in all_families()}
    assert len(by_name) == len(all_families())
    coupled = [family for name, family in by_name.items() if COUPLED in name]
    assert len(coupled) == 4
    for family in coupled:
        other = by_name[family.name.replace(COUPLED, "")]
        assert family.emission.coupling == "full"
        assert dataclasses.replace(family.emission, coupling="diagonal") == other.emission


def table(**rows):
    names = pd.Index(list(rows), name="family")
    return pd.DataFrame(list(rows.values()), names, [1, 2, 3], dtype=float)


def test_a_fall_is_measured_from_the_best_of_fewer_states():
    found = report.fall(table(a=[1, 3, 1.5], b=[1, 2, 3], c=[5, np.nan, 3]))
    assert found.to_dict() == pytest.approx({"a": 1.5, "b": 0.0, "c": 2.0})


@pytest.mark.parametrize(
    ("rows", "held"),
    [
        ({"AR, t": [1, 2, 3], "AR, coupled, t": [1, 3, 3]}, True),
        ({"AR, t": [1, 2, 3], "AR, coupled, t": [1, 1.9, 3]}, False),
        ({"AR, t": [1, 3, 1.9]}, False),
        ({"AR, t": [1, 3, 2.1]}, True),
        ({"AR, t": [1, 3, np.nan], "AR, coupled, t": [1, 4, 5]}, True),
        ({"AR, coupled, t": [1, 1.9, 3]}, True),
    ],
)
def test_verdicts(rows, held):
    assert report.kept(table(**rows)) is held


def test_what_to_add_for_other_units(data):
    text = report.units(data, folds=1)
    training, held_out = data.fold(0)
    pooled = {
        runs: np.nanstd(runs.values, axis=(0, 1)) for runs in (training, data.runs)
    }  # mean and floor leave densities alone
    expected = np.log(pooled[data.runs]).sum() - np.log(pooled[training]).sum()
    assert f"higher by {expected:.2f}," in text
    assert f"({held_out.lengths.sum()} rows)" in text


def test_s5_makes_a_table_of_every_optimiser_with_enough_runs(tmp_path):
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame(rng.uniform(1, 2, (12, 8)), columns=s5_grokking.METRICS).assign(
            run=f"{optimiser}_s{seed}", step=range(12), train_acc=0.5
        )
        for optimiser, seeds in (("muon", 5), ("adamw", 4))
        for seed in range(seeds)
    ]
    pd.concat(frames).to_csv(tmp_path / s5_grokking.FILE)
    (muon,) = datasets.s5(tmp_path)
    assert (muon.name, len(muon.runs), muon.log) == ("S5 grokking, muon", 5, s5_grokking.LOG)
    assert muon.runs.metrics == s5_grokking.METRICS


def test_functions_of_other_metrics_are_left_out(data, tmp_path):
    file = tmp_path / "runs.csv"
    twice = data.runs.to_dataframe().assign(m3=lambda rows: 2 * rows["m0"])
    twice.to_csv(file, index=False)
    (found,) = datasets.parity(file)
    assert found.runs.metrics == ("m0", "m1", "m2")


def test_the_command_line(data, tmp_path, capsys):
    source, out, cache = (tmp_path / name for name in ("runs.csv", "tables.md", "cells.jsonl"))
    data.runs.to_dataframe().to_csv(source, index=False)
    words = ["--parity", str(source), "--families", "levels, normal", "AR(1), normal"]
    words += ["--states", "1", "--restarts", "1", "--out", str(out), "--cache", str(cache)]
    assert unseen_seeds.main([*words[:2], "--no-fits", *words[2:]]) == 2  # no figures yet
    assert unseen_seeds.main(words) == 0
    first = out.read_text()
    assert "| levels, normal |" in first
    assert "| AR(1), normal  |" in first
    cells_of = cache.read_text()
    assert unseen_seeds.main([*words, "--no-fits"]) == 0
    assert (out.read_text(), cache.read_text()) == (first, cells_of)
    assert "written to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no folder was named"),
        (["--parity", "nowhere"], "nowhere"),
        (["--parity", "nowhere", "--families", "SETAR"], "no name fits ['SETAR']"),
    ],
)
def test_it_says_why_it_cannot_run(words, said, capsys):
    assert unseen_seeds.main(words) == 2
    assert said in capsys.readouterr().err
