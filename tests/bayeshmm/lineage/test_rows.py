"""Rows that are there twice, in the wrong place or not at all."""

import numpy as np
import pandas as pd
import pytest
from planted import named, part, rewrite, synthetic

import bayeshmm as bh


def steps(first, last):
    return tuple(range(10 * first, 10 * last + 1, 10))


class TestDuplicateRows:
    def test_equal_rows(self, frame):
        again = pd.concat([frame, frame[part(frame, "seed-3", 10, 14)]])
        found = bh.audit(again)
        assert named(found) == [("duplicate_rows", ("seed-3",), steps(10, 14), ())]
        assert "equal rows" in found["detail"][0]

    def test_the_mend_is_code_that_mends(self, frame):
        again = pd.concat([frame, frame[part(frame, "seed-3", 10, 14)]])
        space = {"df": again}
        exec(bh.audit(again)["mend"][0], space)
        assert bh.audit(space["df"]).empty

    def test_rows_that_differ(self, frame):
        other = frame[part(frame, "seed-3", 10, 14)].assign(**{"test/loss": 9.0})
        found = bh.audit(pd.concat([frame, other]))
        assert named(found) == [("duplicate_rows", ("seed-3",), steps(10, 14), ())]
        assert "differ, most often in 'test/loss'" in found["detail"][0]

    def test_times_may_differ(self, frame):
        rows = frame.assign(time=np.arange(len(frame)))
        again = pd.concat([rows, rows[part(rows, "seed-3", 4, 4)].assign(time=-1.0)])
        assert "equal rows" in bh.audit(again)["detail"][0]

    def test_of_all_runs_at_once(self, frame):
        found = bh.audit(pd.concat([frame, frame]))
        assert named(found) == [
            ("duplicate_rows", tuple(f"seed-{n}" for n in range(10)), steps(0, 60), ())
        ]

    def test_in_a_folder(self, folder, tmp_path):
        planted = rewrite(
            folder, tmp_path / "runs", "seed-3", lambda rows: [*rows[:20], rows[19], *rows[20:]]
        )
        assert named(bh.audit(planted)) == [("duplicate_rows", ("seed-3",), (190,), ())]


class TestDisorder:
    def test_a_row_that_comes_late(self, frame):
        order = np.arange(len(frame))
        start = int(part(frame, "seed-3").argmax())
        order[start + 20 : start + 24] = start + np.array([21, 22, 23, 20])
        found = bh.audit(frame.iloc[order])
        assert named(found) == [("steps_out_of_order", ("seed-3",), (200,), ())]

    def test_interleaved_runs_are_in_order(self, frame):
        assert bh.audit(frame.sort_values("step", kind="stable")).empty

    def test_in_a_folder(self, folder, tmp_path):
        planted = rewrite(
            folder, tmp_path / "runs", "seed-3", lambda rows: rows[:30] + rows[31:] + rows[30:31]
        )
        assert named(bh.audit(planted)) == [("steps_out_of_order", ("seed-3",), (300,), ())]


class TestGaps:
    def test_lost_rows_are_listed(self, frame):
        found = bh.audit(frame[~part(frame, "seed-3", 20, 27)])
        assert named(found) == [("gap", ("seed-3",), steps(20, 27), ())]

    def test_runs_that_lack_the_same_rows_share_a_finding(self, frame):
        lost = part(frame, "seed-3", 20, 27) | part(frame, "seed-5", 20, 27)
        assert named(bh.audit(frame[~lost])) == [("gap", ("seed-3", "seed-5"), steps(20, 27), ())]

    def test_a_change_of_schedule_is_none(self, frame):
        late = frame["step"] > 300
        assert bh.audit(frame[~late | (frame["step"] % 50 == 0)]).empty

    def test_log_spaced_steps_are_none(self, frame):
        kept = {int(step) for step in 10 * np.unique(np.geomspace(1, 60, 25).round())}
        assert bh.audit(frame[frame["step"].isin(kept)]).empty

    def test_extra_rows_are_none(self, frame):
        extra = frame[part(frame, "seed-3", 20, 22)]
        extra = extra.assign(step=extra["step"] + 3)
        assert bh.audit(pd.concat([frame, extra]).sort_values(["run", "step"])).empty


class TestGrids:
    def test_every_second_row(self, frame):
        found = bh.audit(frame[(frame["run"] != "seed-3") | (frame["step"] % 20 == 0)])
        assert named(found) == [("different_grids", ("seed-3",), (), ())]
        assert "every 20 steps from 0, and 9 other runs every 10 steps" in found["detail"][0]

    def test_another_offset(self, frame):
        found = bh.audit(frame.assign(step=frame["step"] + 5 * (frame["run"] == "seed-3")))
        assert named(found) == [("different_grids", ("seed-3",), (), ())]

    def test_steps_of_no_grid(self, frame):
        rng = np.random.default_rng(0)
        jitter = np.where(frame["run"] == "seed-3", rng.integers(0, 8, len(frame)), 0)
        found = bh.audit(frame.assign(step=frame["step"] + jitter))
        assert named(found) == [("different_grids", ("seed-3",), (), ())]
        assert "unevenly" in found["detail"][0]

    def test_the_mend_is_code_that_mends(self, frame):
        planted = frame[(frame["run"] != "seed-3") | (frame["step"] % 20 == 0)]
        space = {"df": planted}
        mend = bh.audit(planted)["mend"][0]
        exec(mend[mend.index("df = ") :], space)
        assert bh.audit(space["df"]).empty


class TestTruncated:
    def test_a_run_that_ends_early(self, frame):
        found = bh.audit(frame[~part(frame, "seed-3", 40)])
        assert named(found) == [("truncated", ("seed-3",), (390,), ())]
        assert "go on to 600" in found["detail"][0]

    def test_a_run_that_begins_late(self, frame):
        found = bh.audit(frame[~part(frame, "seed-3", 0, 19)])
        assert named(found) == [("late_start", ("seed-3",), (200,), ())]

    def test_early_stopping_is_none(self):
        rng = np.random.default_rng(1)
        runs = synthetic(8, 200, rng)
        ends = rng.integers(1300, 2000, 8)
        kept = runs["step"] <= ends[runs["run"].factorize()[0]]
        assert bh.audit(runs[kept]).empty

    def test_runs_of_other_folders_may_be_longer(self, frame):
        shorter = frame[frame["step"] <= 300].assign(run="short/" + frame["run"])
        longer = frame.assign(run="long/" + frame["run"])
        found = bh.audit(pd.concat([shorter, longer]))
        assert set(found["finding"]) == {"duplicate_runs"}

    @pytest.mark.parametrize("status", ["unfinished", "failed"])
    def test_a_run_without_a_proper_end(self, folder, tmp_path, status):
        planted = rewrite(folder, tmp_path / "runs", "seed-3", lambda rows: rows[:40])
        end = planted / "seed-3" / "end.json"
        if status == "failed":
            end.write_text(end.read_text().replace("finished", "failed"))
        else:
            end.unlink()
        found = bh.audit(planted)
        assert named(found) == [("truncated", ("seed-3",), (390,), ())]
        said = {"unfinished": "still training, or killed", "failed": "ended with an exception"}
        assert said[status] in found["detail"][0]
