"""What is read, and what cannot be."""

import numpy as np
import pandas as pd
import pytest
from planted import named, part, rewrite

import bayeshmm as bh

COLUMNS = ["finding", "severity", "runs", "steps", "metrics", "detail", "mend"]


def test_clean_runs_give_nothing(folder, clean, tmp_path):
    clean.to_csv(tmp_path / "runs.csv", index=False)
    clean.to_parquet(tmp_path / "runs.parquet")
    clean.to_json(tmp_path / "runs.jsonl", orient="records", lines=True)
    for source in (folder, str(folder), clean, *tmp_path.iterdir()):
        found = bh.audit(source)
        assert list(found.columns) == COLUMNS
        assert found.empty


def test_the_frame_is_left_as_it_is(clean):
    before = clean.copy()
    bh.audit(clean)
    pd.testing.assert_frame_equal(clean, before)


def test_a_single_run(folder):
    assert bh.audit(folder / "seed-3").empty


def test_errors_come_first(frame):
    frame = frame[~part(frame, "seed-3", 50)]
    found = bh.audit(pd.concat([frame, frame[part(frame, "seed-5", 4, 4)]]))
    assert found["finding"].tolist() == ["duplicate_rows", "truncated"]
    assert found["severity"].tolist() == ["error", "warning"]


class TestWhatCannotBeRead:
    def test_rows_without_a_run_or_a_step(self, frame):
        frame["step"] = frame["step"].astype(float)
        frame.loc[5, "step"] = np.nan
        frame.loc[6, "step"] = 0.5
        frame.loc[61, "run"] = None
        found = bh.audit(frame)
        assert set(named(found)) >= {("invalid_rows", ("seed-0",), (), ())}
        assert "3 rows" in found["detail"][0]
        assert set(found["finding"]) == {"invalid_rows", "gap"}

    def test_text_among_numbers(self, frame):
        frame["test/acc"] = frame["test/acc"].astype(object)
        frame.loc[part(frame, "seed-3", 4, 4), "test/acc"] = "lost"
        found = bh.audit(frame)
        assert named(found) == [("not_numeric", ("seed-3",), (40,), ("test/acc",))]
        space = {"df": frame, "pd": pd}
        exec(found["mend"][0], space)
        assert bh.audit(space["df"]).empty

    def test_a_doubled_column(self, frame):
        found = bh.audit(pd.concat([frame, frame["test/acc"]], axis="columns"))
        assert named(found) == [("doubled_column", (), (), ("test/acc",))]

    def test_no_rows(self):
        assert bh.audit(pd.DataFrame({"run": [], "step": []}))["finding"].tolist() == ["no_rows"]

    def test_a_corrupt_line(self, folder, tmp_path):
        planted = rewrite(folder, tmp_path / "runs", "seed-3", lambda rows: rows)
        path = planted / "seed-3" / "metrics.0000.jsonl"
        path.write_text(path.read_text().replace('"step"', "step", 3))
        found = bh.audit(planted)
        assert named(found) == [("unreadable_run", ("seed-3",), (), ())]
        assert "metrics.0000.jsonl:2" in found["detail"][0]

    def test_a_run_without_rows(self, folder, tmp_path):
        planted = rewrite(folder, tmp_path / "runs", "seed-3", lambda rows: [])
        assert named(bh.audit(planted)) == [("no_rows", ("seed-3",), (), ())]

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere.*no such file"):
            bh.audit(tmp_path / "nowhere")

    def test_no_column_of_steps(self, frame):
        with pytest.raises(ValueError, match=r"no column 'step'.*'train/loss'"):
            bh.audit(frame.drop(columns="step"))


@pytest.mark.parametrize("seed", range(40))
def test_nothing_that_can_be_reported_is_raised(seed):
    """Rows of a random kind: repeated, shuffled, lost, of any type and any size."""
    rng = np.random.default_rng(seed)
    runs, rows = rng.integers(1, 6), rng.integers(1, 50)
    df = pd.DataFrame(
        {"run": np.repeat(np.arange(runs), rows), "step": np.tile(np.arange(rows), runs)}
    )
    n = len(df)
    kinds = [
        rng.standard_normal(n),
        np.round(rng.random(n), 1),
        np.full(n, np.nan),
        np.exp(100 * rng.standard_normal(n)),
        rng.choice([np.inf, -np.inf, np.nan, 1e308, 0.0], n),
        rng.choice(["a", "1", None], n),
        pd.array(rng.random(n) < 0.5, dtype="boolean"),
        pd.date_range("2026-01-01", periods=n),
        pd.Categorical(rng.choice(["x", "y"], n)),
    ]
    names = ["train/loss", "acc", "weight/a", "weight/b", "lr", "group", "time", "grad"]
    names += ["log/fingerprint/0", "log/fingerprint/1"]
    for name in rng.choice(names, rng.integers(0, 8), replace=False):
        df[name] = kinds[rng.integers(len(kinds))]
    df = pd.concat([df, df.sample(frac=0.3, random_state=seed)])
    df = df.sample(frac=0.8, random_state=seed)
    assert list(bh.audit(df).columns) == COLUMNS
