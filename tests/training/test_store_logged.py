"""What was written, restarts and all, is there to look at."""

import math

import pandas as pd
import pytest

from training import store


def write(directory, rows, *, resume_step=None):
    writer = store.RunWriter(directory, {}, resume_step=resume_step)
    for row in rows:
        writer.write(row)
    writer.close()


@pytest.fixture
def restarted(tmp_path):
    """A run that is restarted from step 3, whose row is logged again, and then from step 1."""
    write(tmp_path, [{"step": s, "loss": 0.0} for s in range(6)])
    write(tmp_path, [{"step": s, "loss": 1.0, "new": s} for s in range(3, 5)], resume_step=3)
    write(tmp_path, [{"step": s, "loss": 2.0} for s in range(2, 4)], resume_step=1)
    return tmp_path


def test_every_written_row_is_there_in_the_order_of_writing(restarted):
    rows = store.logged_rows(restarted)
    expected = pd.DataFrame(
        {
            "segment": [0] * 6 + [1] * 2 + [2] * 2,
            "superseded": [False] * 2 + [True] * 6 + [False] * 2,
            "step": [0, 1, 2, 3, 4, 5, 3, 4, 2, 3],
            "loss": [0.0] * 6 + [1.0] * 2 + [2.0] * 2,
            "new": [math.nan] * 6 + [3.0, 4.0] + [math.nan] * 2,
        }
    )
    pd.testing.assert_frame_equal(rows, expected, check_exact=True)
    assert rows.attrs == {"nan": []}


def test_rows_that_count_are_those_that_are_read(restarted):
    rows = store.logged_rows(restarted)
    kept = rows[~rows["superseded"]].sort_values("step")
    read = store.read(restarted).rows
    assert kept["step"].tolist() == read["step"].tolist() == [0, 1, 2, 3]
    assert kept["loss"].tolist() == read["loss"].tolist() == [0.0, 0.0, 2.0, 2.0]
    assert list(read) == ["run", "step", "loss"]  # `new` was logged in rows that do not count


def test_what_reading_refuses_can_be_looked_at(tmp_path):
    write(tmp_path, [{"step": s, "loss": float(s)} for s in (0, 2, 1, 1)])
    rows = store.logged_rows(tmp_path)
    assert rows["step"].tolist() == [0, 2, 1, 1]
    assert not rows["superseded"].any()


def test_logged_nan_is_told_from_nothing(tmp_path):
    write(tmp_path, [{"step": 0, "x": math.nan, "y": math.inf}, {"step": 1, "y": math.nan}])
    write(tmp_path, [{"step": 2, "x": math.nan, "y": -math.inf}], resume_step=1)
    rows = store.logged_rows(tmp_path)
    assert rows.attrs["nan"] == [(0, "x"), (1, "y"), (2, "x")]
    assert rows["y"].iloc[[0, 2]].tolist() == [math.inf, -math.inf]
    assert rows["x"].isna().all()


def test_a_run_without_rows(tmp_path):
    write(tmp_path, [])
    assert list(store.logged_rows(tmp_path)) == ["segment", "superseded", "step"]
    assert store.restarts(tmp_path).empty


def test_the_record_of_restarts(restarted):
    (restarted / "metrics.0003.jsonl").write_bytes(b'{"_segment":3,"resumed')  # killed in there
    write(restarted, [], resume_step=9)
    record = store.restarts(restarted)
    assert list(record) == ["segment", "resumed_from", "started", "superseded"]
    assert record["segment"].tolist() == [1, 2, 4]
    assert record["resumed_from"].tolist() == [3, 1, 9]
    assert record["superseded"].tolist() == [3, 3, 0]
    assert pd.to_datetime(record["started"]).dt.tz is not None
    assert store.read(restarted).attributes["restarts"].tolist() == [3]


def test_a_directory_that_is_not_there(tmp_path):
    for look in (store.logged_rows, store.restarts):
        with pytest.raises(FileNotFoundError):
            look(tmp_path / "nowhere")
