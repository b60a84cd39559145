"""Training on two processes: every number is that of the whole tensors, and one process writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import process_worker
import pytest
import torch
from direct_metrics import core
from measuring import measured
from run_files import end_of, written_rows

from training.metrics.hu2023 import Hu2023
from training.metrics.spectral import Spectral

WORKER = Path(process_worker.__file__)
RANKS = 2

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="needs gloo",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder in which two processes have trained every case."""
    out = tmp_path_factory.mktemp("processes")
    path = os.pathsep.join([str(WORKER.parents[2]), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(RANKS), str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(RANKS)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * RANKS, "\n".join(said)
    return out


def found(trained, case):
    texts = [(trained / case / f"found-{rank}.json").read_text() for rank in range(RANKS)]
    for rank in map(json.loads, texts):
        assert "raised" not in rank, rank["raised"]
        yield rank


class Whole:
    """The whole tensors at a step."""

    def __init__(self, truth, step):
        self.step = step
        self.tensors = {"weight": {}, "grad": {}, "before": {}}
        for key in truth.files:
            at, kind, name = key.split("|")
            if int(at) == step:
                self.tensors[kind][name] = truth[key]

    def row(self):
        weights, gradients, before = (self.tensors[kind] for kind in ("weight", "grad", "before"))
        moves = {name: weights[name] - old for name, old in before.items()}
        net = process_worker.Net().double()
        net.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        return (
            core(weights, gradients, moves, process_worker.INCLUDED)
            | measured(Spectral, net, process_worker.INCLUDED)
            | measured(Hu2023, net, process_worker.INCLUDED)
        )

    def activations(self, case):
        """Of the first layer, over the batches of all processes."""
        weight, bias = self.tensors["before"]["0.weight"], self.tensors["before"]["0.bias"]
        streams = [process_worker.stream(case, rank) for rank in range(RANKS)]
        inputs = torch.cat([process_worker.batch(self.step, each) for each in streams])
        values = np.maximum(inputs.double().numpy() @ weight.T + bias, 0.0)
        return {
            "act/1/mean": values.mean(),
            "act/1/rms": np.sqrt((values**2).mean()),
            "act/1/zero": (values == 0).mean(),
        }


@pytest.mark.parametrize("case", process_worker.CASES)
def test_every_number_is_that_of_the_whole_tensors(trained, case):
    for rank in found(trained, case):
        assert rank == {"steps": 5, "hooks_left": False, "same_as_without": True}
    assert not (trained / case / "rank-1").exists()
    directory = trained / case / "rank-0"
    rows = written_rows(directory)
    assert list(rows) == [0, 2, 4]
    assert end_of(directory)["errors"] == 0
    options = process_worker.CASES[case].options()
    truth = np.load(trained / case / "truth.npz")
    for calls, (step, row) in enumerate(rows.items(), start=1):
        whole = Whole(truth, step)
        expected = whole.row()
        if step > 0 and "activations" in options:
            expected |= whole.activations(case)
        if case == "one fails":
            expected["failing"] = calls
        assert ("train_loss" in row) == (step > 0)
        metrics = {key: value for key, value in row.items() if not key.startswith("log/")}
        metrics.pop("train_loss", None)
        assert metrics == pytest.approx(expected, rel=1e-5), f"row {step}"


@pytest.mark.parametrize(
    ("case", "mend"), [("flat", "fully_shard"), ("stage", "hold different models")]
)
def test_what_cannot_be_added_up_is_refused(trained, case, mend):
    for rank in found(trained, case):
        assert mend in rank["error"]
    assert not (trained / case / "run").exists()
