"""Sweeps and the command line."""

import json
import os
import signal

import joblib
import pandas as pd
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

import bayeshmm as bh
import training
from training.__main__ import main
from training.attempts import ATTEMPTS, Setting, train
from training.store import RunWriter, read_end
from training.sweep import SweepError

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
    RunWriter(other / "seed-0", {"config": {"experiment": "mine"}}).close()
    with pytest.raises(FileExistsError, match="seed-0 holds no run of sparse_parity"):
        sweep(other)


def test_unknown_names_are_answered_with_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"unknown experiment 'parity': .*sparse_parity"):
        training.sweep("parity", seeds=1, out=tmp_path)
    with pytest.raises(ValueError, match=r"no option \['depth'\]: it has \['bits'"):
        sweep(tmp_path, depth=3)


class TestGrid:
    def test_every_combination_has_its_folder(self, tmp_path):
        paths = sweep(tmp_path, grid={"lr": [0.001, 1], "batch": [16, 32]})
        names = [
            f"lr={lr},batch={batch}/seed-{seed}"
            for lr in (0.001, 1)
            for batch in (16, 32)
            for seed in (0, 1)
        ]
        assert paths == [tmp_path / name for name in names]
        attributes = training.store.read(tmp_path).attributes.set_index("run").loc[names]
        assert attributes["config.lr"].tolist() == [0.001] * 4 + [1] * 4
        assert attributes["config.batch"].tolist() == [16, 16, 32, 32] * 2
        assert attributes["config.epochs"].unique().tolist() == [2]

    def test_what_has_finished_is_reused(self, tmp_path):
        sweep(tmp_path, grid={"batch": [4, 8]})
        before = ids(tmp_path)
        (tmp_path / "batch=8" / "seed-0" / "end.json").unlink()
        sweep(tmp_path, seeds=3, grid={"batch": [4, 8, 16]})
        after = ids(tmp_path)
        assert len(after) == 9
        assert {name for name in before if after[name] != before[name]} == {"batch=8/seed-0"}
        with pytest.raises(ValueError, match=r"batch=4/seed-0 was trained with .*'lr'"):
            sweep(tmp_path, grid={"batch": [4]}, lr=0.5)

    def test_values_are_encoded_as_in_a_url(self, tmp_path):
        def act(seed, directory, what):
            (directory / "what").write_text(repr(what))

        values = ["a/b", "a:b", "../c", [1, 2], 1e30, -0.5, None]
        paths = training.sweep(act, seeds=1, out=tmp_path, grid={"what": values}, progress=False)
        assert [path.parent.name for path in paths] == [
            "what=a%2Fb",
            "what=a%3Ab",
            "what=..%2Fc",
            "what=%5B1%2C%202%5D",
            "what=1e+30",
            "what=-0.5",
            "what=None",
        ]
        assert [(path / "what").read_text() for path in paths] == [repr(value) for value in values]

    @pytest.mark.parametrize(
        ("grid", "message"),
        [
            ({"lr": "0.1"}, "lr='0.1' is no list"),
            ({"lr": 0.1}, "lr=0.1 is no list"),
            ({"lr": []}, r"lr=\[\] must be values"),
            ({"lr": [0.1, 0.2, 0.1]}, r"lr=\[0.1, 0.2, 0.1\] must be values, each once"),
            ({"width": [4]}, "width is both in the grid and an option"),
            ({"depth": [4]}, r"no option \['depth'\]"),
        ],
    )
    def test_mistakes(self, tmp_path, grid, message):
        with pytest.raises(ValueError, match=message):
            sweep(tmp_path / "runs", grid=grid)
        assert not (tmp_path / "runs").exists()


def walk(seed, directory, *, pace=1.0, rows=3):
    """A training run without a network."""
    writer = RunWriter(directory, {"seed": seed, "config": {"pace": pace}})
    for step in range(rows):
        writer.write({"step": step, "train/loss": seed + pace * step})
    writer.close(status="finished")


class TestOwnFunction:
    def test_its_runs(self, tmp_path):
        paths = training.sweep(
            walk, seeds=2, out=tmp_path, grid={"pace": [0.5, 2]}, rows=4, progress=False
        )
        assert paths[-1] == tmp_path / "pace=2" / "seed-1"
        rows = training.store.read(tmp_path).rows.set_index("run")
        assert rows.loc["pace=2/seed-1", "train/loss"].tolist() == [1, 3, 5, 7]
        assert json.loads((paths[0] / "sweep.json").read_text()) == {
            "experiment": "walk",
            "pace": 0.5,
            "rows": 4,
        }

    def test_reuse(self, tmp_path):
        training.sweep(walk, seeds=2, out=tmp_path, progress=False)
        before = ids(tmp_path)
        training.sweep(walk, seeds=3, out=tmp_path, pace=1.0, progress=False)
        assert ids(tmp_path).items() > before.items()
        with pytest.raises(ValueError, match=r"seed-0 was trained with .*'pace': \(1.0, 2\)"):
            training.sweep(walk, seeds=1, out=tmp_path, pace=2, progress=False)

    def test_a_new_argument_had_its_default(self, tmp_path):
        training.sweep(walk, seeds=1, out=tmp_path, progress=False)
        before = ids(tmp_path)

        def later(seed, directory, *, pace=1.0, rows=3, depth=2):
            raise AssertionError("trained again")

        later.__name__ = "walk"
        training.sweep(later, seeds=1, out=tmp_path, progress=False)
        assert ids(tmp_path) == before
        with pytest.raises(ValueError, match="'depth'"):
            training.sweep(later, seeds=1, out=tmp_path, depth=3, progress=False)

    def test_it_need_not_log_here(self, tmp_path):
        """Other libraries may."""

        def note(seed, directory):
            (directory / "metrics.csv").write_text(f"step,loss\n{seed},1.0\n")

        (path,) = training.sweep(note, seeds=[7], out=tmp_path, progress=False)
        assert (path / "metrics.csv").read_text() == "step,loss\n7,1.0\n"

    def test_mistakes(self, tmp_path):
        with pytest.raises(ValueError, match=r"walk\(seed, directory, .*cannot train: .*'depth'"):
            training.sweep(walk, seeds=1, out=tmp_path, depth=2)
        with pytest.raises(ValueError, match="small=True is for"):
            training.sweep(walk, seeds=1, out=tmp_path, small=True)
        walk(0, tmp_path / "seed-0")
        with pytest.raises(FileExistsError, match="seed-0 holds no run of walk"):
            training.sweep(walk, seeds=1, out=tmp_path)


class TestFailures:
    @staticmethod
    def odd(seed, directory, *, mended):
        """Fails for odd seeds when half the rows are logged."""
        writer = RunWriter(directory, {"seed": seed})
        writer.write({"step": 0, "train/loss": 1.0})
        if seed % 2 and not mended.exists():
            writer.close(status="failed")
            raise ArithmeticError(f"seed {seed} has diverged")
        writer.write({"step": 1, "train/loss": 0.5})
        writer.close(status="finished")

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_the_other_runs_go_on(self, tmp_path, jobs):
        runs, mended = tmp_path / "runs", tmp_path / "mended"
        settings = {"seeds": 5, "out": runs, "jobs": jobs, "mended": mended, "progress": False}
        with pytest.raises(SweepError, match="2 of 5 runs failed: seed-1, seed-3") as failure:
            training.sweep(self.odd, **settings)
        assert "ArithmeticError: seed 1 has diverged" in str(failure.value)
        assert "seed 3" in failure.value.tracebacks["seed-3"]
        before = ids(runs)
        assert list(before) == ["seed-0", "seed-2", "seed-4"]
        left = training.store.read(runs / ".training")
        assert left.rows["step"].tolist() == [0, 0]
        assert [name.partition(".")[0] for name in left.attributes["run"]] == ["seed-1", "seed-3"]

        mended.touch()
        training.sweep(self.odd, **settings)
        assert sorted(ids(runs)) == [f"seed-{seed}" for seed in range(5)]
        assert ids(runs).items() > before.items()
        assert not (runs / ".training").exists()

    def test_many_failures_are_named_in_short(self, tmp_path):
        with pytest.raises(
            SweepError, match=r"40 of 40 .*seed-7, \.\.\., seed-39\. The"
        ) as failure:
            training.sweep(lambda seed, directory: 1 / 0, seeds=40, out=tmp_path, progress=False)
        assert len(failure.value.tracebacks) == 40
        assert "<lambda>: " in str(failure.value)

    def test_a_dead_worker_of_joblib(self, tmp_path):
        def die(seed, directory, *, mended):
            if seed == 2 and not mended.exists():
                os.kill(os.getpid(), signal.SIGKILL)

        settings = {"seeds": 4, "out": tmp_path / "runs", "jobs": 2, "mended": tmp_path / "mended"}
        with pytest.raises(TerminatedWorkerError) as death:
            training.sweep(die, progress=False, **settings)
        assert "sweep again to train the others" in death.value.__notes__[0]
        settings["mended"].touch()
        paths = training.sweep(die, progress=False, **settings)
        assert sorted(settings["out"].iterdir()) == paths


class TestAttempts:
    """Schedulers train a run twice when they lose sight of a worker."""

    @staticmethod
    def setting(function):
        return Setting(function, {"experiment": "walk"}, {}, own=True)

    def test_the_first_to_finish_counts(self, tmp_path):
        def overtaken(seed, directory):
            writer = RunWriter(directory, {"seed": seed})
            writer.write({"step": 0, "attempt": 1.0})
            train(self.setting(overtaking), seed, tmp_path, "a/seed-0", "call")
            assert ids(tmp_path).keys() == {"a/seed-0"}
            writer.write({"step": 1, "attempt": 1.0})
            writer.close(status="finished")

        def overtaking(seed, directory):
            writer = RunWriter(directory, {"seed": seed})
            writer.write({"step": 0, "attempt": 2.0})
            writer.close(status="finished")

        assert train(self.setting(overtaken), 0, tmp_path, "a/seed-0", "call") is None
        assert training.store.read(tmp_path).rows["attempt"].tolist() == [2.0]
        assert not any((tmp_path / ".training" / "a").iterdir())

    def test_a_finished_run_is_not_trained_again(self, tmp_path):
        assert train(self.setting(walk), 0, tmp_path, "seed-0", "call") is None
        before = ids(tmp_path)
        assert train(self.setting(walk), 0, tmp_path, "seed-0", "call") is None
        assert ids(tmp_path) == before

    def test_a_run_that_its_workers_die_of_is_given_up(self, tmp_path):
        def die(seed, directory):
            raise SystemExit

        for _ in range(ATTEMPTS):
            with pytest.raises(SystemExit):
                train(self.setting(die), 1, tmp_path, "seed-1", "call")
        said = train(self.setting(walk), 1, tmp_path, "seed-1", "call")
        assert f"{ATTEMPTS} workers died" in said
        assert train(self.setting(walk), 1, tmp_path, "seed-1", "later") is None
        assert not any((tmp_path / ".training").iterdir())

    def test_a_run_that_was_not_logged_has_failed(self, tmp_path):
        full = Setting(lambda seed, directory: None, {"experiment": "walk"}, {}, own=False)
        assert "could not be logged" in train(full, 0, tmp_path, "seed-0", "call")
        assert not (tmp_path / "seed-0").exists()

    def test_readers_see_no_run_that_trains(self, tmp_path):
        seen = []

        def watched(seed, directory):
            walk(seed, directory)
            if seed:
                seen.append(ids(tmp_path).keys() | set(bh.Runs.read(tmp_path).names))
                seen.append({name[:6] for name in ids(tmp_path / ".training")})

        training.sweep(watched, seeds=2, out=tmp_path, jobs=1, progress=False)
        assert seen == [{"seed-0"}, {"seed-1"}]


def processes(**settings):
    """The processes that train."""

    def note(seed, directory):
        (directory / "process").write_text(str(os.getpid()))

    paths = training.sweep(note, seeds=2, progress=False, **settings)
    return {int((path / "process").read_text()) for path in paths}


def test_the_active_backend_is_used(tmp_path):
    here = {os.getpid()}
    assert processes(out=tmp_path / "none") == here
    with joblib.parallel_config(n_jobs=2):
        assert not processes(out=tmp_path / "two") & here
        assert processes(out=tmp_path / "one", jobs=1) == here


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress(tmp_path, capfd, jobs):
    training.sweep(walk, seeds=3, out=tmp_path, jobs=jobs)
    assert "walk: 100%" in capfd.readouterr().err


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


def test_command_line_grid(tmp_path):
    command = ["sparse_parity", "--seeds", "1", "--out", str(tmp_path), *WORDS[2:]]
    assert main([*command, "--grid", "width=4,8", "--grid", "lr=0.1,1e-3"]) == 0
    assert set(ids(tmp_path)) == {
        f"width={width},lr={lr}/seed-0" for width in (4, 8) for lr in ("0.001", "0.1")
    }
    words = ["--modulus", "5", "--width", "4", "--heads", "1", "--hidden", "4", "--steps", "10"]
    command = ["modular_addition", "--seeds", "1", "--out", str(tmp_path / "norm"), *words]
    assert main([*command, "--grid", "layer_norm=False,True"]) == 0
    attributes = training.store.read(tmp_path / "norm").attributes.set_index("run")
    assert attributes["config.layer_norm"].to_dict() == {
        "layer_norm=False/seed-0": False,
        "layer_norm=True/seed-0": True,
    }


def test_command_line_tells_of_failed_runs(tmp_path, capsys):
    command = ["sparse_parity", "--seeds", "1", "--out", str(tmp_path), *WORDS]
    assert main([*command, "--grid", "batch=32,0"]) == 1
    said = capsys.readouterr().err
    assert "1 of 2 runs failed: batch=0/seed-0" in said
    assert "ZeroDivisionError" in said
    assert list(ids(tmp_path)) == ["batch=32/seed-0"]


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
        (["sparse_parity", "--seeds", "1", "--out", "x", "--grid", "lr"], "NAME=VALUE,VALUE"),
        (["sparse_parity", "--seeds", "1", "--out", "x", "--grid", "depth=1,2"], "of bits, "),
        (["sparse_parity", "--seeds", "1", "--out", "x", "--grid", "width=4,big"], "takes int"),
        (["modular_addition", "--seeds", "1", "--out", "x", "--grid", "layer_norm=1"], "bool"),
        (["sparse_parity", "--seeds", "1", "--out", "x", *("--grid", "lr=1") * 2], "once"),
    ],
)
def test_command_line_mistakes(tmp_path, capsys, words, message):
    sweep(tmp_path, seeds=1)
    with pytest.raises(SystemExit, match="2"):
        main([word.format(out=tmp_path) for word in words])
    assert message in capsys.readouterr().err
