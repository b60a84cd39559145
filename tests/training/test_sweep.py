"""Sweeps and the command line."""

import json

import pandas as pd
import pytest

import training
from training.__main__ import main
from training.store import read_end

TINY = {"width": 20, "train_points": 64, "test_points": 20, "epochs": 2}
WORDS = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]


def sweep(out, seeds=2, **options):
    return training.sweep(
        "sparse_parity", seeds=seeds, out=out, progress=False, **{**TINY, **options}
    )


def ids(out):
    return training.store.read(out).attributes.set_index("run")["run_id"].to_dict()


def test_every_seed_has_its_directory(tmp_path):
    assert sweep(tmp_path, seeds=2) == [tmp_path / "seed-0", tmp_path / "seed-1"]
    assert sweep(tmp_path, seeds=[5]) == [tmp_path / "seed-5"]
    attributes = training.store.read(tmp_path).attributes
    assert attributes["seed"].tolist() == [0, 1, 5]
    assert attributes["config.width"].tolist() == [20, 20, 20]
    assert attributes["config.experiment"].unique().tolist() == ["sparse_parity"]


def test_finished_runs_are_reused_and_others_trained_again(tmp_path):
    sweep(tmp_path, seeds=3)
    before = ids(tmp_path)
    (tmp_path / "seed-1" / "end.json").unlink()
    end = read_end(tmp_path / "seed-2")
    (tmp_path / "seed-2" / "end.json").write_text(json.dumps(end | {"status": "failed"}))
    sweep(tmp_path, seeds=4)
    after = ids(tmp_path)
    assert after["seed-0"] == before["seed-0"]
    assert after["seed-1"] != before["seed-1"]
    assert after["seed-2"] != before["seed-2"]
    assert training.store.read(tmp_path).attributes["status"].unique().tolist() == ["finished"]


def test_the_number_of_jobs_changes_no_row(tmp_path):
    sweep(tmp_path / "one", jobs=1)
    sweep(tmp_path / "two", jobs=2)
    one, two = (training.store.read(tmp_path / name).rows for name in ("one", "two"))
    assert one.equals(two)


def test_a_finished_run_with_another_setting_is_not_replaced(tmp_path):
    sweep(tmp_path, seeds=1)
    before = ids(tmp_path)
    with pytest.raises(ValueError, match=r"seed-0 was trained with another setting \(.*'width'"):
        sweep(tmp_path, seeds=2, width=30)
    assert ids(tmp_path) == before


def test_a_run_from_before_an_option_had_its_default(tmp_path):
    sweep(tmp_path, seeds=1)
    before = ids(tmp_path)
    file = tmp_path / "seed-0" / "run.json"
    run = json.loads(file.read_text())
    del run["config"]["weight_decay"]
    file.write_text(json.dumps(run))
    sweep(tmp_path, seeds=1)
    assert ids(tmp_path) == before
    with pytest.raises(ValueError, match=r"another setting \(.*'weight_decay'"):
        sweep(tmp_path, seeds=1, weight_decay=0.5)


def test_what_is_no_run_of_the_experiment_is_not_removed(tmp_path):
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="seed-0 holds no run of sparse_parity"):
        sweep(tmp_path)
    assert (tmp_path / "seed-0" / "thesis.tex").exists()
    other = tmp_path / "other"
    training.store.RunWriter(other / "seed-0", {"config": {"experiment": "mine"}}).close()
    with pytest.raises(FileExistsError, match="seed-0 holds no run of sparse_parity"):
        sweep(other)


def test_unknown_names_are_answered_with_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"unknown experiment 'parity': .*sparse_parity"):
        training.sweep("parity", seeds=1, out=tmp_path)
    with pytest.raises(ValueError, match=r"no option \['depth'\]: it has \['bits'"):
        sweep(tmp_path, depth=3)


def test_command_line(tmp_path, capsys):
    command = ["sparse_parity", "--seeds", "2", "--out", str(tmp_path / "runs"), *WORDS]
    assert main(command) == 0
    assert f"sparse_parity: 2 trained, 0 reused, in {tmp_path / 'runs'}" in capsys.readouterr().out
    assert main([*command, "--jobs", "2"]) == 0
    assert "0 trained, 2 reused" in capsys.readouterr().out
    assert training.store.read(tmp_path / "runs").attributes["config.epochs"].tolist() == [2, 2]


def test_command_line_collects(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["collect", str(tmp_path)])
    assert "is empty: a run is a directory with a run.json" in capsys.readouterr().err
    sweep(tmp_path, seeds=2)
    before = training.store.read(tmp_path)
    assert main(["collect", str(tmp_path)]) == 0
    collected = tmp_path / "trajectories.parquet"
    assert capsys.readouterr().out.strip() == str(collected)
    assert collected.exists()
    pd.testing.assert_frame_equal(training.store.read(tmp_path).rows, before.rows)


def test_command_line_switches(tmp_path):
    words = ["--modulus", "5", "--width", "4", "--heads", "1", "--hidden", "4", "--steps", "10"]
    for name, switch in (("on", ["--layer_norm"]), ("off", ["--no-layer_norm"]), ("default", [])):
        command = ["modular_addition", "--seeds", "1", "--out", str(tmp_path / name)]
        assert main([*command, *words, *switch]) == 0
    setting = training.store.read(tmp_path).attributes.set_index("run")["config.layer_norm"]
    assert setting.to_dict() == {
        "default/seed-0": False,
        "off/seed-0": False,
        "on/seed-0": True,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sparse_parity", "--seeds", "1"], "--out"),
        (["chess", "--seeds", "1", "--out", "x"], "sparse_parity"),
        (["sparse_parity", "--seeds", "1", "--out", "x", "--depth", "3"], "--depth"),
        (["sparse_parity", "--seeds", "1", "--out", "{out}", "--width", "30"], "another setting"),
    ],
)
def test_command_line_mistakes(tmp_path, capsys, words, message):
    sweep(tmp_path, seeds=1)
    with pytest.raises(SystemExit, match="2"):
        main([word.format(out=tmp_path) for word in words])
    assert message in capsys.readouterr().err
