"""Logs in the form of Lightning's CSVLogger, written by hand."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bayeshmm import Runs
from bayeshmm.sources import lightning_csv

LOG = """epoch,lr-Adam,step,train_loss,val_loss
0,,4,0.1,
0,,9,0.30000000000000004,
0,,9,,2.5
,0.01,9,,
1,,14,nan,
1,,19,inf,
1,,19,,1.5
"""


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "logs" / "version_0", LOG)
    return tmp_path / "logs" / "version_0"


def write(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text(text)


def test_rows_of_one_step_are_one_row(folder):
    imported = lightning_csv.read(folder)
    rows = imported.rows
    assert rows["run"].tolist() == ["version_0"] * 4
    assert rows["step"].tolist() == [4, 9, 14, 19]
    assert_array_equal(rows["train_loss"], [0.1, 0.1 + 0.2, np.inf, np.inf])
    assert_array_equal(rows["val_loss"], [np.nan, 2.5, np.nan, 1.5])
    assert_array_equal(rows["epoch"], [0, 0, 1, 1])
    assert imported[2:] == ((), ())


def test_what_is_modelled(folder):
    runs = Runs.read(folder.parents[1], nonfinite="missing")
    assert runs.names == ("logs/version_0",)
    assert runs.metrics == ("train_loss", "val_loss")
    assert runs.columns == ("epoch", "lr-Adam", "train_loss", "val_loss")
    assert Runs.read(folder / "metrics.csv", nonfinite="missing").names == ("version_0",)


def test_a_second_fit_takes_the_place_of_the_first(folder):
    write(folder, "step,loss\n0,5\n10,4\n20,3\n0,6\n10,5\n")
    with pytest.warns(UserWarning, match=r"values were logged again.*\(3 of 'loss'\)"):
        runs = Runs.read(folder)
    assert_array_equal(runs.column("loss"), [[6, 5]])


def test_means_over_an_epoch_are_called_so(folder):
    write(folder, "step,loss_step,loss_epoch,acc_epoch\n0,5,,\n1,4,4.5,1\n2,3,,1\n")
    (said,) = lightning_csv.read(folder).caveats
    assert said == "means over an epoch, not values at their steps: 'loss_epoch'"


def test_columns_of_text_are_named(folder):
    write(folder, "step,loss,note\n0,5,warm\n1,4,\n")
    imported = lightning_csv.read(folder)
    assert imported.left_out == ("columns that are not numeric ('note')",)
    assert list(imported.rows) == ["run", "step", "loss"]


def test_a_last_line_that_was_not_written_to_its_end(folder):
    write(folder, "step,loss\n0,5.25\n1,4.75\n2,3.")
    imported = lightning_csv.read(folder)
    assert imported.rows["loss"].tolist() == [5.25, 4.75]
    assert imported.left_out == ("the last line, which was not written to its end",)


class TestVersions:
    def test_one_that_may_continue_another_is_named(self, folder):
        write(folder.with_name("version_1"), "step,loss\n24,5\n29,4\n")
        write(folder.with_name("version_2"), "step,loss\n4,5\n9,4\n")
        with pytest.warns(
            UserWarning, match="'version_1': it begins at step 24, version_0 at step"
        ):
            runs = Runs.read(folder.parent, nonfinite="missing")
        assert runs.names == ("version_0", "version_1", "version_2")
        assert "Runs.from_dataframe" in runs.source.left_out[0]

    def test_one_without_rows(self, folder):
        write(folder.with_name("version_1"), "step,loss\n")
        write(folder.with_name("version_2"), "step,loss\n24,5\n29,4\n")
        runs = Runs.read(folder.parent, nonfinite="missing")
        assert runs.names == ("version_0", "version_2")


class TestHyperparameters:
    @staticmethod
    def read(folder, text):
        (folder / "hparams.yaml").write_text(text)
        return lightning_csv.read(folder)

    def test_are_attributes(self, folder):
        pytest.importorskip("yaml")
        imported = self.read(folder, "lr: 0.1\nmodel:\n  width: 8\nbetas:\n- 0.9\n- 0.95\n")
        assert imported.attributes.to_dict("index") == {
            "version_0": {
                "config.lr": 0.1,
                "config.model.width": 8,
                "config.betas": "[0.9, 0.95]",
            }
        }

    def test_none(self, folder):
        pytest.importorskip("yaml")
        assert self.read(folder, "{}\n").attributes.shape == (1, 0)

    def test_objects_are_never_made(self, folder):
        pytest.importorskip("yaml")
        text = "x: !!python/object/apply:os.getcwd []\nbetas: !!python/tuple\n- 0.9\n- 0.95\n"
        imported = self.read(folder, text)
        assert imported.attributes.to_dict("index") == {
            "version_0": {"config.x": "object/apply:os.getcwd", "config.betas": "[0.9, 0.95]"}
        }

    def test_that_cannot_be_read(self, folder):
        pytest.importorskip("yaml")
        imported = self.read(folder, "x: [1\n")
        assert imported.attributes.shape == (1, 0)
        assert imported.left_out[0].startswith("hparams.yaml, which cannot be read (while parsing")

    def test_without_a_library_they_are_left_out(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "yaml", None)
        imported = self.read(folder, "lr: 0.1\n")
        assert imported.attributes.shape == (1, 0)
        assert imported.left_out == ("hparams.yaml, which takes PyYAML",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "No columns"),
        ("step,loss\n0,1\n1,2,3\n", "Expected 2 fields"),
        ("step,loss\n0,1\n,2\n", "'step' must hold a number in every row"),
        ("loss\n1\n", "'step' must hold a number in every row"),
    ],
)
def test_another_file(folder, text, said):
    write(folder, text)
    with pytest.raises(ValueError, match=f"metrics.csv: .*{said}"):
        Runs.read(folder / "metrics.csv", format="lightning")
