"""The benchmark of the run store runs, on two runs."""

import pytest

from benchmarks import store


@pytest.mark.parametrize(("seconds", "status", "word"), [(1e9, 0, "reached"), (0.0, 1, "missed")])
def test_claims_are_held_against_what_is_measured(
    tmp_path, monkeypatch, capsys, seconds, status, word
):
    monkeypatch.setattr(store, "CLAIMS", dict.fromkeys(store.CLAIMS, seconds))
    monkeypatch.setattr(store, "ROWS", 5)
    assert store.main(["--runs", "2", "--out", str(tmp_path / "store.md")]) == status
    text = (tmp_path / "store.md").read_text("utf-8")
    assert text.count(f"s: {word} |") == 2
    assert text in capsys.readouterr().out
