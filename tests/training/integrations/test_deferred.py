"""`DeferredHook`: a hook that is made later, and goes on from checkpoints."""

import inspect

import pytest
import torch
from plain_loop import adam, attributes_of, loss_of, network, pairs, rows_of

from training import MetricHook
from training.integrations.deferred import DeferredHook, HookOptions


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, pairs()).backward()
        optimizer.step()


def test_the_options_are_those_of_the_hook():
    given = set(inspect.signature(MetricHook).parameters)
    assert set(HookOptions.__annotations__) == given - {
        "model",
        "optimizer",
        "directory",
        "resume_step",
    }


def test_a_wrong_option_is_refused_at_once(tmp_path):
    with pytest.raises(TypeError, match="evry"):
        DeferredHook(tmp_path, {"evry": 2})


def test_nothing_is_logged_before_and_after(tmp_path):
    model = network()
    run = DeferredHook(tmp_path / "run", {"every": 1})
    run.log({"early": 1.0}, force=True)
    run.close()
    assert run.state_dict() == {}
    assert not (tmp_path / "run").exists()
    optimizer = adam(model)
    run.attach(model, optimizer, {})
    train(model, optimizer, 2)
    run.log({"within": 1.0})
    run.close()
    run.log({"late": 1.0}, force=True)
    train(model, optimizer, 1)
    rows = rows_of(tmp_path / "run")
    assert rows.index.tolist() == [0, 1, 2]
    assert rows["within"].dropna().to_dict() == {2: 1.0}
    assert not {"early", "late"} & set(rows)
    assert attributes_of(tmp_path / "run")["status"] == "finished"
    assert run.state_dict()["step"] == 2


def test_a_checkpoint_is_gone_back_to(tmp_path):
    model = network()
    optimizer = adam(model)
    run = DeferredHook(tmp_path / "run", {"every": 2})
    run.attach(model, optimizer, {})
    train(model, optimizer, 4)
    saved = run.state_dict()
    train(model, optimizer, 3)
    run.attach(model, optimizer, saved)  # as after an exception that nobody told of
    assert run.state_dict() == saved
    train(model, optimizer, 2)
    run.close()
    assert rows_of(tmp_path / "run").index.tolist() == [0, 2, 4, 6]
    attributes = attributes_of(tmp_path / "run")
    assert (attributes["last_step"], attributes["restarts"]) == (6, 1)
    run.load_state_dict({})
    with pytest.raises(FileExistsError, match="already holds a run"):
        run.attach(model, optimizer, run.state_dict())


def test_what_measurements_depend_on_is_restored(tmp_path):
    model = torch.nn.Linear(1030, 1030)  # too large for all its singular values
    torch.nn.init.eye_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    saved = {"step": 3, "measures": {"spectral": {"weight": torch.eye(1030, 8)}}}
    run = DeferredHook(tmp_path / "run", {"every": 5, "metrics": "spectral"})
    run.attach(model, optimizer, saved)
    assert run.state_dict()["step"] == 3
    assert torch.equal(run.state_dict()["measures"]["spectral"]["weight"], torch.eye(1030, 8))
    run.close()
