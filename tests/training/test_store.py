"""The run store: what was written is read, and nothing else."""

import json
import math
import threading
from datetime import datetime, timedelta

import pandas as pd
import pytest

from training import store
from training.store import logged

HEADER = {"_segment": 0, "resumed_from": None, "schema": 2}


def write(directory, rows, *, resume_step=None, description=None, end=True):
    writer = store.RunWriter(directory, description or {}, resume_step=resume_step)
    for row in rows:
        writer.write(row)
    writer.close(status="finished", last_step=0, errors=0)
    if not end:
        (directory / "end.json").unlink()


def losses(directory):
    rows = store.read(directory).rows
    return dict(zip(rows["step"], rows["loss"], strict=True))


def segment(directory, number=0):
    return directory / f"metrics.{number:04d}.jsonl"


def test_rows_come_back_as_they_were(tmp_path):
    rows = [
        {"step": 0, "loss": 0.1, "größe/ß 損失": 1e-300},
        {"step": 10, "loss": 1 / 3, "late": 5},
        {"step": 20, "loss": 2**53},
    ]
    write(tmp_path / "a", rows)
    runs = store.read(tmp_path / "a")
    expected = pd.DataFrame(
        {
            "run": ["a", "a", "a"],
            "step": [0, 10, 20],
            "loss": [0.1, 1 / 3, 2.0**53],
            "größe/ß 損失": [1e-300, math.nan, math.nan],
            "late": [math.nan, 5, math.nan],
        }
    )
    pd.testing.assert_frame_equal(runs.rows, expected, check_exact=True)
    assert runs.nonfinite.empty
    assert list(runs.nonfinite) == ["run", "step", "metric", "value"]


def test_the_files_are_what_the_format_says(tmp_path):
    description = {"seed": 3, "config": {"lr": 0.1}, "cadence": {"every": 5}}
    write(tmp_path, [{"step": 0, "loss": math.nan, "acc": 0.5}], description=description)
    header, row = segment(tmp_path).read_text("utf-8").splitlines()
    started = datetime.fromisoformat(json.loads(header).pop("started"))
    assert started.utcoffset() == timedelta(0)
    assert json.loads(header) == HEADER | {"started": started.isoformat()}
    assert json.loads(row) == {"step": 0, "loss": None, "acc": 0.5, "_nonfinite": {"loss": "nan"}}
    recorded = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert recorded.items() >= (description | {"schema": 2}).items()
    assert {"run_id", "started", "git_commit", "python"} <= recorded.keys()
    assert {path.name for path in tmp_path.iterdir()} == {
        "run.json",
        "end.json",
        "metrics.0000.jsonl",
    }


def test_nan_infinity_and_nothing_are_three_things(tmp_path):
    write(
        tmp_path / "a",
        [
            {"step": 0, "x": math.nan, "y": math.inf},
            {"step": 1, "y": -math.inf},
            {"step": 2, "x": 1.0, "y": 2.0},
        ],
    )
    runs = store.read(tmp_path)
    assert runs.rows["y"].tolist() == [math.inf, -math.inf, 2.0]
    assert runs.rows["x"].isna().tolist() == [True, True, False]
    found = list(runs.nonfinite.itertuples(index=False, name=None))
    assert found[1:] == [("a", 0, "y", math.inf), ("a", 1, "y", -math.inf)]
    assert found[0][:3] == ("a", 0, "x")
    assert math.isnan(found[0][3])


def test_many_columns(tmp_path):
    row = {"step": 4} | {f"weight/blocks.{i}/l2": i / 7 for i in range(3000)}
    write(tmp_path, [row])
    rows = store.read(tmp_path).rows
    assert rows.iloc[0].drop("run").to_dict() == row


def test_a_restart_supersedes_what_came_after_its_state(tmp_path):
    write(tmp_path, [{"step": s, "loss": 1.0} for s in range(0, 60, 10)])
    write(tmp_path, [{"step": s, "loss": 2.0} for s in range(30, 80, 10)], resume_step=20)
    assert losses(tmp_path) == dict.fromkeys([0, 10, 20], 1.0) | dict.fromkeys(
        [30, 40, 50, 60, 70], 2.0
    )
    write(tmp_path, [{"step": 40, "loss": 3.0}], resume_step=40)  # the step of the state itself
    assert losses(tmp_path) == {0: 1.0, 10: 1.0, 20: 1.0, 30: 2.0, 40: 3.0}
    write(tmp_path, [], resume_step=0)
    assert losses(tmp_path) == {0: 1.0}


def test_segments_are_read_in_the_order_of_their_numbers(tmp_path):
    write(tmp_path, [{"step": 0, "loss": 0.0}])
    for start in range(1, 12):
        write(tmp_path, [{"step": 1, "loss": float(start)}], resume_step=0)
    segment(tmp_path, 11).rename(segment(tmp_path, 12345))
    segment(tmp_path, 3).unlink()
    assert losses(tmp_path)[1] == 11.0
    write(tmp_path, [{"step": 1, "loss": -1.0}], resume_step=0)
    assert segment(tmp_path, 12346).exists()
    assert losses(tmp_path)[1] == -1.0


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    write(tmp_path, [{"step": 0, "loss": 0.5}, {"step": 1, "loss": 0.25, "ß": 1.0}], end=False)
    data = segment(tmp_path).read_bytes()
    segment(tmp_path).write_bytes(data[:-cut])
    expected = {0: 0.5, 1: 0.25} if cut == 1 else {0: 0.5}  # only the newline is missing
    assert losses(tmp_path) == expected
    write(tmp_path, [{"step": 1, "loss": 9.0}], resume_step=0)
    assert losses(tmp_path) == {0: 0.5, 1: 9.0}


def test_a_start_that_was_killed_within_its_header_changes_nothing(tmp_path):
    write(tmp_path, [{"step": 0, "loss": 0.5}])
    segment(tmp_path, 1).write_bytes(b'{"_segment":1,"resu')
    segment(tmp_path, 2).write_bytes(b"")
    assert losses(tmp_path) == {0: 0.5}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"step": 1, "loss"', "unexpected end of data"),
        (b"", "empty"),
        (b'{"loss": 1.0}', "no row with an integer step"),
        (b'{"step": 1.5}', "no row with an integer step"),
        (b"[1, 2]", "no row with an integer step"),
        (b'{"step": 1, "loss": "low"}', "a value is no number"),
        (b'{"step": 1, "loss": NaN}', "expected a JSON value"),
        (b'{"step": 1, "_nonfinite": {"loss": "nan"}}', "_nonfinite names no metric"),
        (b'{"step": 1, "loss": null, "_nonfinite": {"loss": "low"}}', "_nonfinite knows only"),
        (b'{"step": 1, "_nonfinite": ["loss"]}', "_nonfinite names no metric"),
        (b'{"step": 9223372036854775808}', "no row with an integer step"),
        (b'{"step": 1, "loss": true}', "a value is no number"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_any_other_corrupt_line_is_named(tmp_path, line, reason):
    write(tmp_path / "a", [{"step": s, "loss": 0.5} for s in range(3)])
    lines = segment(tmp_path / "a").read_bytes().split(b"\n")
    lines[2] = line
    segment(tmp_path / "a").write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=rf"a/metrics.0000.jsonl:3: corrupt line \(.*{reason}"):
        store.read(tmp_path)


def test_a_lost_header_is_named(tmp_path):
    write(tmp_path, [{"step": 0, "loss": 0.5}])
    for line in ('{"step": 0, "loss": 0.5}', '{"_segment": 0, "resumed_from": "1"}', "[]"):
        segment(tmp_path).write_text(line + "\n")
        with pytest.raises(ValueError, match=r"metrics.0000.jsonl:1: .*no segment header"):
            store.read(tmp_path)


def test_newer_versions_are_refused(tmp_path):
    write(tmp_path, [{"step": 0, "loss": 0.5}])
    segment(tmp_path).write_text(json.dumps(HEADER | {"schema": 3}) + "\n")
    with pytest.raises(ValueError, match=r"metrics.0000.jsonl has schema 3.*upgrade"):
        store.read(tmp_path)
    for content in ("{", "[1]"):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ValueError, match=r"run.json is corrupt"):
            store.read_run(tmp_path)


def test_a_folder_is_read_recursively_and_numbers_are_ordered_as_numbers(tmp_path):
    for name in ("lr-0.1/seed-10", "lr-0.1/seed-9", "alone"):
        write(tmp_path / name, [{"step": 0, "loss": 0.5}], description={"seed": len(name)})
    (tmp_path / "lr-0.1" / "notes").mkdir()
    (tmp_path / "lr-0.1" / "seed-9" / "checkpoint").mkdir()
    runs = store.read(tmp_path)
    names = ["alone", "lr-0.1/seed-9", "lr-0.1/seed-10"]
    assert runs.rows["run"].tolist() == names
    assert runs.attributes["run"].tolist() == names
    assert runs.attributes["seed"].tolist() == [5, 13, 14]
    assert store.read(tmp_path / "alone").rows["run"].tolist() == ["alone"]


def test_a_folder_without_runs_is_an_error_that_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        store.read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"is empty: a run is a directory with a run.json"):
        store.read(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        store.read(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"notes.txt is a file"):
        store.read(tmp_path / "notes.txt")


def test_a_run_that_has_not_logged_is_a_run(tmp_path):
    write(tmp_path / "a", [], end=False)
    write(tmp_path / "b", [{"step": 7, "loss": 0.5}], end=False)
    runs = store.read(tmp_path)
    assert runs.rows["run"].tolist() == ["b"]
    assert runs.attributes["run"].tolist() == ["a", "b"]
    assert runs.attributes["status"].tolist() == ["unfinished", "unfinished"]
    assert runs.attributes["last_step"].tolist()[1] == 7


def test_a_run_is_read_while_it_is_written(tmp_path):
    writer = store.RunWriter(tmp_path, {})
    done = threading.Event()

    def log():
        for step in range(3000):
            writer.write({"step": step, "loss": step / 2, "wide": 1 / 3})
        done.set()

    thread = threading.Thread(target=log)
    thread.start()
    lengths = []
    while not done.is_set():
        rows = store.read(tmp_path).rows
        assert rows["step"].tolist() == list(range(len(rows)))
        lengths.append(len(rows))
    thread.join()
    writer.close()
    assert lengths == sorted(lengths)
    assert len(store.read(tmp_path).rows) == 3000


def test_a_line_that_is_being_written_ends_what_is_read():
    growing = [b"{}\n", b'{"step": 1, "lo', b'ss": 0.5}\n']  # what reads of a growing file return
    assert list(logged._whole_lines(growing)) == [b"{}\n"]


def test_two_writers_never_share_a_file(tmp_path):
    first = store.RunWriter(tmp_path, {})
    with pytest.raises(FileExistsError, match=r"already holds a run.*resume_step="):
        store.RunWriter(tmp_path, {})
    second = store.RunWriter(tmp_path, {}, resume_step=0)
    first.write({"step": 1, "loss": 1.0})
    second.write({"step": 1, "loss": 2.0})
    first.write({"step": 2, "loss": 1.0})
    first.close()
    second.close()
    assert losses(tmp_path) == {1: 2.0}


def test_a_step_that_a_segment_repeats_is_named(tmp_path):
    write(tmp_path / "a", [{"step": s, "loss": 0.5} for s in (0, 1, 2, 1, 1)])
    with pytest.raises(
        ValueError, match=r"a/metrics.0000.jsonl: lines 3 and 5 both hold step 1.*remove"
    ):
        store.read(tmp_path)


def test_rows_out_of_order_are_put_in_order(tmp_path):
    write(tmp_path, [{"step": s, "loss": float(s)} for s in (0, 20, 10)])
    assert store.read(tmp_path).rows["step"].tolist() == [0, 10, 20]
    assert store.read(tmp_path).rows["loss"].tolist() == [0.0, 10.0, 20.0]


def test_a_long_segment_with_metrics_that_come_and_go(tmp_path):
    rows = [
        {"step": s, "loss": s / 7} | ({"eval/é": -s, "late": math.inf} if s % 1000 == 999 else {})
        for s in range(3000)
    ]
    write(tmp_path, rows)
    runs = store.read(tmp_path)
    assert runs.rows["loss"].tolist() == [s / 7 for s in range(3000)]
    assert list(runs.rows) == ["run", "step", "loss", "eval/é", "late"]
    assert runs.rows["eval/é"].dropna().to_dict() == {999: -999, 1999: -1999, 2999: -2999}
    assert runs.nonfinite["step"].tolist() == [999, 1999, 2999]


def test_metrics_that_are_asked_for(tmp_path):
    write(tmp_path / "a", [{"step": 0, "loss": 0.5, "acc": math.nan}, {"step": 1, "loss": 0.25}])
    write(tmp_path / "b", [{"step": 0, "other": math.inf}])
    whole = store.read(tmp_path)
    some = store.read(tmp_path, metrics=["other", "acc"])
    pd.testing.assert_frame_equal(some.rows, whole.rows[["run", "step", "other", "acc"]])
    pd.testing.assert_frame_equal(some.attributes, whole.attributes)
    assert some.nonfinite["metric"].tolist() == ["acc", "other"]
    assert list(store.read(tmp_path, metrics="loss").rows) == ["run", "step", "loss"]
    assert store.read(tmp_path, metrics="loss").nonfinite.empty
    assert list(store.read(tmp_path, metrics=[]).rows) == ["run", "step"]
    with pytest.raises(ValueError, match=r"no run has a metric 'los': there are loss"):
        store.read(tmp_path, metrics=["acc", "los"])


def test_reading_executes_nothing(tmp_path):
    write(tmp_path / "a", [{"step": 0, "__import__('os').abort()": 1.0}])
    (tmp_path / "a" / "run.py").write_text("raise SystemExit")
    (tmp_path / "a" / "metrics.pkl").write_bytes(b"cos\nabort\n(tR.")
    assert list(store.read(tmp_path).rows) == ["run", "step", "__import__('os').abort()"]
