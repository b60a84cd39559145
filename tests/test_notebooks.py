"""The notebooks run from top to bottom, and were committed as they ran."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 800 * 1024  # bytes; what is committed stays in every clone
PLACES = ("/tmp", "/home", "/root", "/Users", "site-packages", str(ROOT))

# appended to the grokking notebook: what it found, in its own variables
GROKKING_FINDS = """
import json

print(json.dumps({
    "seen": list(posterior.metrics),
    "families": comparison.table["elpd"].groupby(level="emission").max().to_dict(),
    "states": posterior.states,
    "kinds": kinds,
    "entered": {event: table.reset_index().to_dict("list") for event, table in entered.items()},
    "crossed": {event: steps.to_dict() for event, steps in crossed.items()},
}))
"""

# appended to the others
COUNTS_FINDS = """
import json

print(json.dumps({
    name: comparison.table["elpd"].groupby(level="emission").max().to_dict()
    for name, comparison in comparisons.items()
}))
"""
UNCERTAINTY_FINDS = """
import json

print(json.dumps({
    "switches": switch["median"].tolist(),
    "stages": list(stages.runs.names),
    "shares": explained["share"].sum(),
    "entered": entries["probability"].tolist(),
}))
"""


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]


def text(output: nbformat.NotebookNode) -> str:
    """What an output says, pictures aside."""
    said = {kind: data for kind, data in output.get("data", {}).items() if kind != "image/png"}
    return output.get("text", "") + "".join(map(str, said.values()))


def executed(name: str, finds: str, folder: Path) -> nbformat.NotebookNode:
    """A notebook after a run on its small setting, from a clean kernel; runs in the folder."""
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    notebook.cells.append(new_code_cell(finds))
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "BAYESHMM_SETTING": "small",
        "BAYESHMM_RUNS": str(folder),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    done = client.execute(env=environment)
    assert [out for out in outputs(done) if out.get("name") == "stderr"] == []  # no warning either
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The runs of all notebooks, as a reader has them, who runs one after the other."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="module")
def finds(folder):
    return json.loads(outputs(executed("01_grokking.ipynb", GROKKING_FINDS, folder))[-1].text)


def test_levels_foretell_no_run_better_than_laws_of_motion(folder):
    notebook = executed("02_state_counts.ipynb", COUNTS_FINDS, folder)
    scores = json.loads(outputs(notebook)[-1].text)
    assert len(scores) == 5
    for name, families in scores.items():
        assert families["autoregressive"] > families["gaussian"], name


def test_the_changes_of_the_uncertainty_notebook(folder):
    notebook = executed("03_transition_uncertainty.ipynb", UNCERTAINTY_FINDS, folder)
    found = json.loads(outputs(notebook)[-1].text)
    assert len(found["switches"]) == len(found["stages"])
    assert max(abs(step - 305) for step in found["switches"]) <= 10  # two rows
    assert found["shares"] == pytest.approx(1)
    assert all(0 <= probability <= 1 for probability in found["entered"])


def test_grokking_judges_phases_by_what_the_model_did_not_see(finds):
    assert not {"train/acc", "test/acc"} & set(finds["seen"])
    assert {"train/loss", "test/loss", "weight/_all/log_l2"} < set(finds["seen"])


def test_laws_of_motion_foretell_an_unseen_run_better_than_levels(finds):
    assert finds["families"]["autoregressive"] > finds["families"]["gaussian"] + 5


def test_every_seed_memorises_before_it_groks(finds):
    memorised, grokked = finds["entered"]["memorised"], finds["entered"]["grokked"]
    assert memorised["run"] == grokked["run"] == [f"seed-{n}" for n in range(5)]
    for n in range(5):
        assert 0 < memorised["lower"][n] <= memorised["median"][n] <= memorised["upper"][n]
        assert memorised["upper"][n] < grokked["lower"][n]
        assert grokked["lower"][n] <= grokked["median"][n] <= grokked["upper"][n]


def test_the_phases_lie_near_the_steps_of_the_thresholds(finds):
    for event in ("memorised", "grokked"):
        entered = dict(zip(*(finds["entered"][event][c] for c in ("run", "median")), strict=True))
        assert entered.keys() == finds["crossed"][event].keys()
        for run, step in finds["crossed"][event].items():
            assert abs(entered[run] - step) <= 300, (event, run)  # of 1600 steps


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_notebook_was_executed_in_order(path):
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert [out for out in outputs(notebook) if out.output_type == "error"] == []
    assert any("image/png" in out.get("data", {}) for out in outputs(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_notebook_is_small_and_names_no_place(path):
    assert path.stat().st_size <= LARGEST
    for output in outputs(nbformat.read(path, as_version=4)):
        assert not [place for place in PLACES if place in text(output)]
