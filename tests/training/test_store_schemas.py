"""What older versions wrote is read, and gone on with."""

import json

import pytest

from training import store

# as schema 1 wrote them
RUN_1 = """{
 "schema": 1,
 "run_id": "seed-3-0f3c9d2a",
 "started": "2026-03-01T12:00:00+00:00",
 "python": "3.11.7",
 "git_commit": "745c8890d5ae2f1c6a3be9d0c1f7a2b84e5d9f60",
 "seed": 3,
 "config": {
  "lr": 0.001,
  "betas": [0.9, 0.98],
  "model": {"width": 128}
 },
 "every": 10,
 "metrics": {
  "weight/_all/l2": "root of the sum of squares"
 },
 "include": [],
 "torch": "2.13.0"
}
"""
SEGMENT_1 = """\
{"_segment":0,"resumed_from":null,"schema":1}
{"step":0,"weight/_all/l2":1.5,"größe":3}
{"step":10,"weight/_all/l2":null,"größe":4,"_nonfinite":{"weight/_all/l2":"nan"}}
{"step":20,"weight/_all/l2":2.5,"größe":5}
"""
RESTART_1 = """\
{"_segment":1,"resumed_from":10,"schema":1}
{"step":20,"weight/_all/l2":-2.5}
"""
END_1 = """{
 "schema": 1,
 "ended": "2026-03-01T13:00:00+00:00",
 "status": "finished",
 "last_step": 20,
 "errors": 0,
 "log/overhead": 0.004
}
"""
METRICS = {"weight/_all/l2": "root of the sum of squares"}


@pytest.fixture
def run_1(tmp_path):
    """The directory of a run of schema 1."""
    directory = tmp_path / "seed-3"
    directory.mkdir()
    (directory / "run.json").write_text(RUN_1, "utf-8")
    (directory / "metrics.0000.jsonl").write_text(SEGMENT_1, "utf-8")
    (directory / "metrics.0001.jsonl").write_text(RESTART_1, "utf-8")
    (directory / "end.json").write_text(END_1, "utf-8")
    return directory


def test_a_run_of_schema_1_is_read(run_1):
    runs = store.read(run_1)
    assert list(runs.rows) == ["run", "step", "weight/_all/l2", "größe"]
    assert runs.rows["step"].tolist() == [0, 10, 20]
    assert runs.rows["weight/_all/l2"].tolist()[::2] == [1.5, -2.5]
    assert runs.rows["größe"].tolist()[:2] == [3.0, 4.0]
    assert runs.nonfinite["step"].tolist() == [10]
    (attributes,) = runs.attributes.to_dict("records")
    assert attributes == {
        "run": "seed-3",
        "run_id": "seed-3-0f3c9d2a",
        "seed": 3,
        "status": "finished",
        "last_step": 20,
        "errors": 0,
        "overhead": 0.004,
        "every": 10,
        "cadence": "every 10",
        "restarts": 1,
        "started": "2026-03-01T12:00:00+00:00",
        "git_commit": "745c8890d5ae2f1c6a3be9d0c1f7a2b84e5d9f60",
        "config.lr": 0.001,
        "config.betas": "[0.9, 0.98]",
        "config.model.width": 128,
    }


def test_its_records_come_in_the_present_schema(run_1):
    recorded = store.read_run(run_1)
    assert recorded["schema"] == 2
    assert recorded["cadence"] == {"every": 10}
    assert "every" not in recorded
    record = store.restarts(run_1)
    assert record[["segment", "resumed_from", "superseded"]].to_numpy().tolist() == [[1, 10, 1]]
    assert record["started"].isna().all()


def test_a_run_of_schema_1_goes_on(run_1):
    description = {"cadence": {"every": 10}, "metrics": METRICS}
    with pytest.raises(ValueError, match=r"begun with cadence=\{'every': 10\} and cannot go on"):
        store.RunWriter(run_1, description | {"cadence": {"every": 5}}, resume_step=20)
    writer = store.RunWriter(run_1, description, resume_step=20)
    writer.write({"step": 30, "weight/_all/l2": 9.0})
    writer.close()
    runs = store.read(run_1)
    assert runs.rows["step"].tolist() == [0, 10, 20, 30]
    assert runs.attributes["restarts"].item() == 2
    assert (run_1 / "run.json").read_text("utf-8") == RUN_1


@pytest.mark.parametrize(
    ("cadence", "every", "text"),
    [
        ({"every": 25}, 25, "every 25"),
        ({"at": [0, 1, 2, 512]}, None, "at 4 steps, 0 to 512"),
        ({"log_spaced": {"max_steps": 1000, "rows": 50}}, None, "log-spaced, 50 rows to 1000"),
        ({"by_night": True}, None, '{"by_night": true}'),
        (None, None, None),
    ],
)
def test_the_cadence_of_a_run(tmp_path, cadence, every, text):
    store.RunWriter(tmp_path, {"cadence": cadence}).close()
    attributes = store.read(tmp_path).attributes
    assert attributes["every"].tolist() == [every]
    assert attributes["cadence"].tolist() == [text]
    assert json.loads((tmp_path / "run.json").read_text())["cadence"] == cadence


@pytest.mark.parametrize("changed", ["cadence", "metrics"])
def test_a_restart_measures_as_the_run_did(tmp_path, changed):
    description = {"cadence": {"every": 1}, "metrics": ["l2"]}
    store.RunWriter(tmp_path, description).close()
    with pytest.raises(ValueError, match=rf"begun with {changed}=.*cannot go on with None"):
        store.RunWriter(tmp_path, description | {changed: None}, resume_step=0)
    assert store.read(tmp_path).attributes["restarts"].item() == 0
    assert (tmp_path / "end.json").exists()
