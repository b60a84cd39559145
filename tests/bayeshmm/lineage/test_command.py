"""``bayeshmm audit``, and what ``bayeshmm analyze`` says of the same findings."""

import re
import sys

import numpy as np
import pandas as pd
import pytest
from planted import part, synthetic

from bayeshmm.cli import main


def test_clean_runs(folder, capsys):
    assert main(["audit", str(folder)]) == 0
    assert capsys.readouterr() == ("nothing was found\n", "")


def test_findings_are_listed_by_severity(frame, tmp_path, capsys):
    frame = frame[~part(frame, "seed-3", 50)]
    again = frame[part(frame, "seed-5", 4, 4)]
    pd.concat([frame, again]).to_csv(tmp_path / "runs.csv", index=False)
    assert main(["audit", str(tmp_path / "runs.csv")]) == 1
    printed, said = capsys.readouterr()
    pattern = (
        r"errors: 1\n  duplicate_rows: run 'seed-5': .*\n    mend: .*drop_duplicates.*\n"
        r"warnings: 1\n  truncated: run 'seed-3': .*\n    mend: .*\n"
    )
    assert re.fullmatch(pattern, printed)
    assert said == ""


@pytest.mark.parametrize("name", ["nowhere", "empty.csv", "notes.txt"])
def test_what_cannot_be_read(tmp_path, capsys, name):
    (tmp_path / "empty.csv").touch()
    (tmp_path / "notes.txt").write_text("nothing")
    assert main(["audit", str(tmp_path / name)]) == 2
    assert re.match(f"bayeshmm: .*{name}", capsys.readouterr().err)


def test_an_analysis_warns_first_and_goes_on(tmp_path, capsys):
    runs = synthetic(5, 30, np.random.default_rng(0))
    runs[~part(runs, "seed-3", 20)].to_csv(tmp_path / "runs.csv", index=False)
    words = ["analyze", str(tmp_path / "runs.csv"), "--states", "1", "--out", str(tmp_path / "out")]
    assert main([*words, "--quiet", "--jobs", "1"]) == 0
    printed, said = capsys.readouterr()
    assert said.startswith("warning: truncated: run 'seed-3'")
    assert "1 phases" in printed


def test_which_logs_are_meant(folder, frame, tmp_path, capsys):
    """A folder of run directories in which tables lie, one row of them repeated."""
    twice = pd.concat([frame, frame[part(frame, "seed-5", 4, 4)]])
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    twice.to_csv(tmp_path / "runs.csv", index=False)
    assert main(["audit", str(tmp_path / "runs.csv")]) == 1
    assert main(["audit", str(tmp_path), "--format", "tidy"]) == 1
    assert "duplicate_rows" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["audit", str(tmp_path), "--format", "papyrus"])


def test_a_library_that_lacks_is_named(frame, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"anything")
    assert main(["audit", str(tmp_path)]) == 2
    assert "pip install 'bayeshmm[readers]'" in capsys.readouterr().err
