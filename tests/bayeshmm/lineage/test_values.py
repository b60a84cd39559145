"""Values that blow up, and metrics that some runs lack or hold still."""

import json

import numpy as np
import pytest
from planted import named, part, rewrite, synthetic

import bayeshmm as bh


class TestDiverged:
    def test_a_loss_that_blows_up(self, frame):
        late = part(frame, "seed-3", 30)
        frame.loc[late, "train/loss"] += np.exp(np.minimum(0.3 * np.arange(late.sum()), 5.0))
        found = bh.audit(frame)
        [(name, runs, (step,), metrics)] = named(found)
        assert (name, runs, metrics) == ("diverged", ("seed-3",), ("train/loss",))
        assert 300 <= step <= 400

    def test_infinite_values(self, frame):
        frame.loc[part(frame, "seed-3", 30), ["train/loss", "test/loss"]] = np.inf
        found = bh.audit(frame)
        assert named(found) == [("diverged", ("seed-3",), (300,), ("train/loss", "test/loss"))]
        assert "nonfinite='truncate'" in found["mend"][0]

    def test_a_loss_that_is_missing_from_a_row_on(self, frame):
        """In a tidy file NaN is missing: that is how a run that diverged comes."""
        frame.loc[part(frame, "seed-3", 30), "train/loss"] = np.nan
        assert named(bh.audit(frame)) == [("diverged", ("seed-3",), (300,), ("train/loss",))]

    def test_logged_nan_in_a_folder(self, folder, tmp_path):
        def lose(rows):
            bad = {"train/loss": None, "_nonfinite": {"train/loss": "nan"}}
            return rows[:30] + [row | bad for row in rows[30:]]

        found = bh.audit(rewrite(folder, tmp_path / "runs", "seed-3", lose))
        assert named(found) == [("diverged", ("seed-3",), (300,), ("train/loss",))]
        assert "not finite" in found["detail"][0]

    def test_the_mend_is_code_that_mends(self, frame):
        frame.loc[part(frame, "seed-3", 58), "train/loss"] = np.inf
        space, mend = {"df": frame}, bh.audit(frame)["mend"][0]
        exec(mend[mend.index("df = ") : mend.index(" (values")], space)
        assert bh.audit(space["df"]).empty

    def test_a_spike_is_none(self, frame):
        frame.loc[part(frame, "seed-3", 30, 33), "train/loss"] += 100.0
        assert bh.audit(frame).empty

    def test_a_test_loss_that_rises_in_all_runs_is_none(self, frame):
        frame["test/loss"] += frame["step"] / 50
        assert bh.audit(frame).empty

    def test_a_metric_measured_in_every_tenth_row_is_none(self, frame):
        frame.loc[frame["step"] % 100 != 50, "test/loss"] = np.nan
        assert bh.audit(frame).empty


class TestSomeRunsOnly:
    def test_a_metric_that_was_never_recorded(self, frame):
        frame.loc[part(frame, "seed-3"), ["test/acc", "test/loss"]] = np.nan
        found = bh.audit(frame)
        assert named(found) == [("missing_metric", ("seed-3",), (), ("test/loss", "test/acc"))]

    def test_in_a_folder(self, folder, tmp_path):
        def lose(rows):
            return [{key: x for key, x in row.items() if key != "test/acc"} for row in rows]

        found = bh.audit(rewrite(folder, tmp_path / "runs", "seed-3", lose))
        assert named(found) == [("missing_metric", ("seed-3",), (), ("test/acc",))]

    def test_a_metric_that_is_no_longer_recorded(self, frame):
        frame.loc[part(frame, "seed-3", 30), "test/acc"] = np.nan
        assert named(bh.audit(frame)) == [("missing_metric", ("seed-3",), (300,), ("test/acc",))]

    def test_a_metric_that_never_moves(self, frame):
        frame.loc[part(frame, "seed-3"), "test/acc"] = 0.5
        found = bh.audit(frame)
        assert named(found) == [("constant_metric", ("seed-3",), (), ("test/acc",))]

    def test_metrics_that_never_move_in_any_run_are_none(self, frame):
        assert bh.audit(frame.assign(still=1.0)).empty


class TestUnits:
    @pytest.mark.parametrize(
        ("metrics", "factor", "row"),
        [
            (("train/acc", "test/acc"), 100, 30),
            (("test/acc",), 100, 20),
            (("weight/_all/l1_l2",), 0.001, 25),
        ],
    )
    def test_a_metric_that_is_multiplied_from_a_row_on(self, frame, metrics, factor, row):
        frame.loc[part(frame, "seed-3", row), list(metrics)] *= factor
        found = bh.audit(frame)
        assert named(found) == [("unit_jump", ("seed-3",), (10 * row,), metrics)]
        space = {"df": frame}
        exec(found["mend"][0], space)
        assert bh.audit(space["df"]).empty

    def test_a_sum_in_place_of_a_mean(self, frame):
        """A loss that is as much larger may also be one that blew up: both are said."""
        frame.loc[part(frame, "seed-3", 20), "test/loss"] *= 1000
        jump, far = (
            (name, ("seed-3",), (200,), ("test/loss",)) for name in ("unit_jump", "diverged")
        )
        assert set(named(bh.audit(frame))) == {jump, far}

    def test_in_a_folder(self, folder, tmp_path):
        def percent(rows):
            return rows[:30] + [row | {"test/acc": 100 * row["test/acc"]} for row in rows[30:]]

        found = bh.audit(rewrite(folder, tmp_path / "runs", "seed-3", percent))
        assert named(found) == [("unit_jump", ("seed-3",), (300,), ("test/acc",))]

    @pytest.mark.parametrize(
        ("metrics", "factor"),
        [(("train/acc", "test/acc"), 100), (("train/loss",), 1000), (("train/loss",), 1 / 200)],
    )
    def test_one_run_in_another_unit(self, frame, metrics, factor):
        frame.loc[part(frame, "seed-3"), list(metrics)] *= factor
        found = bh.audit(frame)
        assert named(found) == [("other_unit", ("seed-3",), (), metrics)]
        assert found["severity"][0] == ("warning" if factor < 1 else "error")
        space = {"df": frame}
        exec(found["mend"][0], space)
        assert bh.audit(space["df"]).empty

    def test_a_collapse_is_none(self, frame):
        """Accuracy and loss jump by a factor of 100, and stay: but not as a change of unit does."""
        late = part(frame, "seed-3", 40)
        rng = np.random.default_rng(0)
        frame.loc[late, "train/acc"] = 0.01 + 0.002 * rng.random(late.sum())
        frame.loc[late, "train/loss"] = 2.0 + 0.2 * rng.random(late.sum())
        assert "unit_jump" not in set(bh.audit(frame)["finding"])

    def test_a_run_that_learns_less_is_none(self):
        runs = synthetic(8, 200, np.random.default_rng(3))
        behind = part(runs, "seed-3", 60)
        runs.loc[behind, "train/loss"] += 4.0
        assert bh.audit(runs).empty


def test_a_configuration_is_no_metric(folder, tmp_path):
    """Settings are read from where they are recorded."""
    planted = rewrite(folder, tmp_path / "runs", "seed-3", lambda rows: rows)
    record = planted / "seed-3" / "run.json"
    content = json.loads(record.read_text())
    content["config"]["lr"] = 0.3
    record.write_text(json.dumps(content))
    assert named(bh.audit(planted)) == [("settings_differ", ("seed-3",), (), ("config.lr",))]
