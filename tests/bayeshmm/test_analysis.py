"""The command line: tables, pictures and the few lines that a person wants first."""

import re
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import EVERY, change_rows, moving_runs

import bayeshmm as bh
from bayeshmm.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:.*the most that were compared")

LAWS = np.array(
    [
        [(-0.3, 0.0, 0.10), (0.0, 0.3, 0.3)],
        [(0.0, 0.0, 0.05), (0.5, 0.0, 0.2)],
    ]
)
WRITTEN = [
    *("comparison.csv", "entry_times.csv", "transition_times.csv", "posterior.nc"),
    *("phases.png", "ribbon.png", "training_map.png", "state_counts.png"),
]


@pytest.fixture(scope="module")
def changes():
    return change_rows(8, 0, [(10, 20)])[:, 0]


@pytest.fixture(scope="module")
def file(changes, tmp_path_factory):
    """Eight runs of 30 rows: two metrics, a function of one of them, and an accuracy."""
    frame = moving_runs(changes[:, None], [30] * 8, LAWS, np.array([10.0, 0.0]), 2).to_dataframe()
    late = frame["step"] / EVERY - np.repeat(changes, 30)
    noise = 0.02 * np.random.default_rng(0).standard_normal(len(frame))
    frame = frame.assign(square=frame["m0"] ** 2, acc=0.95 / (1 + np.exp(1.5 - late)) + noise)
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    frame.rename(columns={"acc": "test/acc"}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def analyzed(file, tmp_path_factory):
    """Exit status, what was printed, and the folder."""
    out, printed = tmp_path_factory.mktemp("out") / "new" / "folder", StringIO()
    words = ["analyze", str(file), "--states", "1:2", "--out", str(out), "--quiet", "--jobs", "1"]
    with redirect_stdout(printed):
        status = main([*words, "--event", "test/acc > 0.5", "--blind-to", "test/*"])
    return status, printed.getvalue(), out


class TestAnalyze:
    def test_everything_is_written_and_listed(self, analyzed):
        status, printed, out = analyzed
        assert status == 0
        assert sorted(path.name for path in out.iterdir()) == sorted(WRITTEN)
        listed = printed[printed.index("written:") :].split()[1:]
        assert listed == [str(out / name) for name in WRITTEN]
        for name in WRITTEN[4:]:
            assert (out / name).read_bytes().startswith(b"\x89PNG")

    def test_the_tables_are_those_of_the_saved_posterior(self, analyzed):
        _, _, out = analyzed
        posterior = bh.load(out / "posterior.nc")
        for name in ("entry_times", "transition_times"):
            table = pd.read_csv(out / f"{name}.csv")
            pd.testing.assert_frame_equal(table, getattr(posterior, name)(), check_dtype=False)

    def test_the_comparison_holds_both_families(self, analyzed):
        _, printed, out = analyzed
        table = pd.read_csv(out / "comparison.csv").set_index(["emission", "states"])
        assert list(table.index) == [
            (family, K) for family in ("autoregressive", "gaussian") for K in (1, 2)
        ]
        assert table["elpd"].idxmax() == ("autoregressive", 2)
        assert "2 phases (autoregressive; the best held-out log density" in printed
        assert "what the model does not describe:" in printed

    def test_functions_of_other_metrics_are_left_out_and_said_to_be(self, analyzed):
        _, printed, out = analyzed
        assert "metric 'square' is left out: it is a function of m0" in printed
        assert bh.load(out / "posterior.nc").metrics == ("m0", "m1", "test/acc")

    def test_the_phase_of_the_event_and_its_entry_in_every_run(self, analyzed, changes):
        _, printed, out = analyzed
        found = re.findall(
            r"(phase \d) contains 'test/acc > 0.5' in (\d) of the (\d) runs", printed
        )
        assert found == [("phase 1", "4", "4")] * 2
        entries = bh.load(out / "posterior.nc").entry_times().query("state == 'phase 1'")
        lines = re.findall(r"  (seed-\d): step (\d+) \[(\d+), (\d+)\]; event at (\d+)", printed)
        assert [line[0] for line in lines] == entries["run"].tolist()
        numbers = np.array([line[1:] for line in lines], dtype=int)
        np.testing.assert_array_equal(numbers[:, :3], entries[["median", "lower", "upper"]])
        assert (np.abs(numbers[:, 0] - EVERY * changes) <= 3 * EVERY).all()
        assert (np.abs(numbers[:, 3] - EVERY * (changes + 2)) <= 2 * EVERY).all()

    def test_the_blind_fit_finds_it_too(self, analyzed):
        _, printed, _ = analyzed
        assert "a blind fit, which sees only m0, m1:" in printed
        found = re.findall(r"over (\d) runs its correlation with the event is (\S+);", printed)
        assert [int(runs) for runs, _ in found] == [4, 4]
        assert all(float(correlation) > 0.9 for _, correlation in found)


@pytest.mark.filterwarnings("default::bayeshmm.ComparisonWarning")
@pytest.mark.filterwarnings("default::bayeshmm.ConvergenceWarning")
def test_few_runs_a_choice_of_metrics_and_no_event(file, tmp_path, capfd):
    """Doubts of the choice are in the report, warnings plain lines on standard error."""
    frame = pd.read_csv(file)
    some = tmp_path / "some.csv"
    frame[frame["run"] < "seed-3"].to_csv(some, index=False)
    words = ["analyze", str(some), "--states", "2", "--out", str(tmp_path), "--quiet"]
    assert main([*words, "--jobs", "1", "--metrics", "m0", "m1"]) == 0
    printed, said = capfd.readouterr()
    assert "2 phases" in printed
    assert "one-step-ahead" in printed
    assert re.search(r"phase 0: 0, in 3 of 3 runs", printed)
    assert re.search(r"phase 1: \d+, in 3 of 3 runs", printed)
    assert "with 3 runs, fewer than 5, none can be held out" in printed
    assert all(line.startswith("warning: ") for line in said.splitlines())
    assert "cli.py" not in said


def test_an_event_that_never_happens_and_a_blind_fit_that_cannot_be_judged(file, tmp_path, capsys):
    words = ["analyze", str(file), "--states", "1", "--out", str(tmp_path), "--quiet"]
    words += ["--jobs", "1", "--metrics", "m0", "m1", "--blind-to", "m1"]
    assert main([*words, "--event", "test/acc > 2"]) == 0
    printed = capsys.readouterr().out
    assert "'test/acc > 2' happens in too few runs to say which phase contains it" in printed
    blind = printed[printed.index("a blind fit, which sees only m0") : printed.index("written:")]
    assert "too few" in blind


class TestErrors:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--event", "test/acc 0.5"], "'test/acc 0.5' is not an event"),
            (["--event", "test/accuracy > 0.5"], "'test/accuracy'.*'test/acc'"),
            (["--metrics", "m0", "m7"], "unknown metric 'm7'"),
            (["--states", "1:99"], "states=31 is more than the 30 rows"),
        ],
    )
    def test_are_said_without_a_traceback(self, file, tmp_path, capsys, words, message):
        given = ["analyze", str(file), "--states", "1", "--out", str(tmp_path / "out"), "--quiet"]
        assert main([*given, "--jobs", "1", *words]) == 2
        printed, said = capsys.readouterr()
        assert said.startswith("bayeshmm: ")
        assert re.search(message, said)
        assert "Traceback" not in said
        assert printed == ""
        assert not (tmp_path / "out").exists()

    def test_a_blind_fit_that_would_see_nothing(self, file, tmp_path, capsys, monkeypatch):
        """It is found out before the long comparison."""
        monkeypatch.setattr("bayeshmm.analysis.compare", lambda *_, **__: pytest.fail("too late"))
        words = ["analyze", str(file), "--out", str(tmp_path), "--quiet", "--blind-to", "*"]
        assert main(words) == 2
        assert re.match("bayeshmm: .*blind", capsys.readouterr().err)

    def test_no_runs(self, tmp_path, capsys):
        assert main(["analyze", str(tmp_path / "nowhere"), "--out", str(tmp_path)]) == 2
        assert re.match("bayeshmm: .*nowhere.*no such file", capsys.readouterr().err)

    @pytest.mark.parametrize("states", ["x", "3:1", "0:2", "1:2:3", "-1"])
    def test_ranges_of_states(self, file, tmp_path, capsys, states):
        with pytest.raises(SystemExit) as stop:
            main(["analyze", str(file), f"--states={states}", "--out", str(tmp_path)])
        assert stop.value.code == 2
        assert f"{states!r} is not of the form 1:8" in capsys.readouterr().err

    def test_infinite_values(self, file, tmp_path, capsys):
        frame = pd.read_csv(file)
        frame.loc[40, "m1"] = np.inf
        broken = tmp_path / "broken.csv"
        frame.to_csv(broken, index=False)
        assert main(["analyze", str(broken), "--out", str(tmp_path / "out")]) == 2
        assert re.search("'seed-1'.*'m1'.*truncate", capsys.readouterr().err)
