"""Activations are those of the last training-mode forward pass before a step."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from run_files import written_rows
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from training import MetricHook, store

STATISTICS = ("mean", "rms", "zero")


class Net(nn.Module):
    """Two hidden layers, whose activations numpy can tell; the first may be checkpointed."""

    def __init__(self, reentrant=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Sequential(nn.Linear(6, 9), nn.ReLU())
            self.second = nn.Sequential(nn.Linear(9, 5), nn.ReLU())
            self.last = nn.Linear(5, 3)
        self.reentrant = reentrant

    def forward(self, inputs):
        if self.reentrant is None or not self.training:
            hidden = self.first(inputs)
        else:
            hidden = checkpoint(self.first, inputs, use_reentrant=self.reentrant)
        return self.last(self.second(hidden))


def batch(n):
    generator = torch.Generator().manual_seed(n)
    inputs = torch.randn(8, 6, generator=generator).requires_grad_()
    return inputs, torch.randint(3, (8,), generator=generator)


def forward(model, n):
    inputs, labels = batch(n)
    return nn.functional.cross_entropy(model(inputs), labels)


def train(net, optimizer, steps, model=None):
    for n in steps:
        optimizer.zero_grad()
        forward(net if model is None else model, n).backward()
        optimizer.step()


def direct(net, n):
    """Statistics of both hidden layers, in float64 from the weights."""
    values, row = batch(n)[0].detach().double().numpy(), {}
    for name in ("first", "second"):
        weight, bias = (p.detach().double().numpy() for p in getattr(net, name)[0].parameters())
        values = np.maximum(values @ weight.T + bias, 0.0)
        row[f"act/{name}/mean"] = values.mean()
        row[f"act/{name}/rms"] = np.sqrt((values**2).mean())
        row[f"act/{name}/zero"] = (values == 0).mean()
    return row


def activations(directory):
    return {
        step: {key: value for key, value in row.items() if key.startswith("act/")}
        for step, row in written_rows(directory).items()
    }


def parts(reentrant=None):
    net = Net(reentrant)
    return net, torch.optim.SGD(net.parameters(), lr=0.1)


def observe(net, optimizer, directory, **options):
    chosen = {"every": 2, "metrics": "core", "activations": ["first", "second"]} | options
    return MetricHook(net, optimizer, directory, **chosen)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint:UserWarning")
@pytest.mark.parametrize("reentrant", [None, True, False])
def test_activations_equal_those_computed_directly(tmp_path, reentrant):
    net, optimizer = parts(reentrant)
    expected = {}
    with observe(net, optimizer, tmp_path / "run"):
        for n in range(1, 6):
            expected[n] = direct(net, n)
            train(net, optimizer, [n])
    found = activations(tmp_path / "run")
    assert found.keys() == {0, 2, 4}
    assert found.pop(0) == {}
    for step, row in found.items():
        assert row == pytest.approx(expected[step], rel=1e-5)
    recorded = store.read_run(tmp_path / "run")["metrics"]
    assert {f"act/{name}/{s}" for name in ("first", "second") for s in STATISTICS} <= set(recorded)


def test_patterns_choose_modules(tmp_path):
    net, optimizer = parts()
    with observe(net, optimizer, tmp_path / "run", every=1, activations="*.1"):
        train(net, optimizer, [1])
    chosen = {key.split("/")[1] for key in activations(tmp_path / "run")[1]}
    assert chosen == {"first.1", "second.1"}
    with pytest.raises(ValueError, match=r"activations='third'.*second\.0"):
        observe(net, optimizer, tmp_path / "other", activations="third")
    assert not (tmp_path / "other").exists()


def test_forward_passes_in_evaluation_mode_do_not_count(tmp_path):
    net, optimizer = parts()
    with observe(net, optimizer, tmp_path / "run", every=1):
        for n in range(1, 4):
            optimizer.zero_grad()
            forward(net, n).backward()
            net.eval()
            forward(net, 100 + n)
            net.train()
            expected = direct(net, n)
            optimizer.step()
            net.eval()
            forward(net, 200 + n)
            net.train()
    assert activations(tmp_path / "run")[3] == pytest.approx(expected, rel=1e-5)


def test_of_accumulated_batches_the_last_counts(tmp_path):
    net, optimizer = parts()
    with observe(net, optimizer, tmp_path / "run", every=1):
        for step in range(1, 3):
            expected = direct(net, 10 * step + 2)
            for part in range(3):
                forward(net, 10 * step + part).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert activations(tmp_path / "run")[2] == pytest.approx(expected, rel=1e-5)


def test_a_module_that_did_not_run_has_no_activations(tmp_path):
    """Not those of an earlier step."""
    net, optimizer = parts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with observe(net, optimizer, tmp_path / "run", every=1):
            train(net, optimizer, [1])
            net.first.eval()
            train(net, optimizer, [2])
    assert activations(tmp_path / "run")[1].keys() > activations(tmp_path / "run")[2].keys()
    assert not any("first" in key for key in activations(tmp_path / "run")[2])


def test_a_compiled_model_keeps_one_graph(tmp_path):
    net, optimizer = parts()
    counters.clear()
    model = torch.compile(net, backend="aot_eager", fullgraph=True)
    expected = {}
    with observe(model, optimizer, tmp_path / "run", every=3):
        for n in range(1, 9):
            expected[n] = direct(net, n)
            train(net, optimizer, [n], model)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    found = activations(tmp_path / "run")
    assert found.keys() == {0, 3, 6}
    for step in (3, 6):
        assert found[step] == pytest.approx(expected[step], rel=1e-5)


def test_a_hook_made_too_late_for_a_compiled_model_says_so(tmp_path):
    net, optimizer = parts()
    model = torch.compile(net, backend="aot_eager")
    train(net, optimizer, [0], model)
    with pytest.warns(UserWarning, match="compiled") as caught:  # noqa: SIM117
        with observe(model, optimizer, tmp_path / "run", every=1):
            train(net, optimizer, range(1, 5), model)
    assert len(caught) == 1
    rows = written_rows(tmp_path / "run")
    assert list(rows) == [0, 1, 2, 3, 4]
    assert all("weight/_all/log_l2" in row for row in rows.values())


def test_nothing_is_left_on_the_model(tmp_path):
    net, optimizer = parts()
    keys = set(net.state_dict())
    theirs = net.first.register_forward_hook(lambda *_: None)
    with observe(net, optimizer, tmp_path / "run"):
        train(net, optimizer, [1, 2])
        assert set(net.state_dict()) == keys
        assert set(dict(net.named_buffers())) == set()
        assert set(dict(net.named_modules())) == set(dict(Net().named_modules()))
    assert list(net.first._forward_hooks) == [theirs.id]
    assert not net.second._forward_hooks
    plain = parts()
    train(*plain, [1, 2])
    train(*plain, [3])
    train(net, optimizer, [3])
    for left, right in zip(net.parameters(), plain[0].parameters(), strict=True):
        assert torch.equal(left, right)
    assert {name for module in net.modules() for name in vars(module)} == {
        name for module in plain[0].modules() for name in vars(module)
    }


def test_a_hooked_model_can_be_copied_and_saved(tmp_path):
    net, optimizer = parts()
    with observe(net, optimizer, tmp_path / "run", every=1):
        train(net, optimizer, [1])
        copied = copy.deepcopy(net)
        saved, weights = io.BytesIO(), io.BytesIO()
        torch.save(net, saved)
        torch.save(net.state_dict(), weights)
        expected = direct(net, 2)
        optimizer.zero_grad()
        forward(net, 2).backward()
        forward(copied, 50)  # which writes nothing into the statistics of the one it was made of
        optimizer.step()
    assert activations(tmp_path / "run")[2] == pytest.approx(expected, rel=1e-5)
    weights.seek(0)
    assert set(torch.load(weights, weights_only=True)) == set(Net().state_dict())
    assert saved.getbuffer().nbytes > 0
