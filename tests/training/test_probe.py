"""The numbers: against a direct computation in float64."""

import math

import numpy as np
import pytest
import torch

from training.failures import Failures
from training.metrics import choose
from training.metrics.statistics import CORE
from training.metrics.sums import PIECE
from training.probe import Probe


def probing(model, *arguments, **options):
    return Probe(model, *arguments, failures=Failures(str), **options)


def stepped(model):
    """An optimizer that has just stepped the model, as far as a probe can tell."""
    return torch.optim.SGD(model.parameters(), lr=0.01)


def measured(model, **options):
    """The metrics of a model, whose gradients are those of the last step."""
    probe = probing(model, **options)
    probe.after(stepped(model))
    row = probe.evaluate(probe.measure())
    return {key: value for key, value in row.items() if not key.startswith("log/")}


def flat(tensors):
    return np.concatenate([tensor.detach().double().numpy().ravel() for tensor in tensors])


def network(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_core_is_what_it_says(dtype):
    model = network(dtype)
    before = [p.detach().clone() for p in model.parameters()]
    probe, optimizer = probing(model, include="2.*"), stepped(model)
    probe.before(optimizer)
    optimizer.step()
    probe.after(optimizer)
    row = probe.evaluate(probe.measure())
    parameters = dict(model.named_parameters())
    old = dict(zip(parameters, before, strict=True))
    for label, names in {"_all": list(parameters), "2.weight": ["2.weight"]}.items():
        w = flat(parameters[name] for name in names)
        g = flat(parameters[name].grad for name in names)
        u = w - flat(old[name] for name in names)
        expected = {
            f"weight/{label}/log_l2": np.log(np.linalg.norm(w)),
            f"weight/{label}/l1_l2": np.abs(w).sum() / np.linalg.norm(w),
            f"weight/{label}/mean": w.mean(),
            f"weight/{label}/std": w.std(),
            f"grad/{label}/log_l2": np.log(np.linalg.norm(g)),
            f"update/{label}/log_ratio": np.log(np.linalg.norm(u) / np.linalg.norm(w)),
        }
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert len(row) == 3 * len(CORE) + 4


def test_a_large_tensor_far_from_zero():
    model = torch.nn.Linear(1, 3 * PIECE + 17, bias=False)
    generator = torch.Generator().manual_seed(0)
    model.weight.data = 1 + 1e-3 * torch.randn(model.weight.shape, generator=generator)
    row = measured(model)
    w = flat([model.weight])
    assert row["weight/_all/std"] == pytest.approx(w.std(), rel=1e-6)
    assert row["weight/_all/mean"] == pytest.approx(w.mean(), rel=1e-12)
    assert row["weight/_all/l1_l2"] == pytest.approx(np.abs(w).sum() / np.linalg.norm(w), rel=1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_the_way_of_an_accelerator_gives_the_same(monkeypatch, fused):
    model = network()
    model[0].bias.data = torch.arange(5.0)  # not a multiple of four
    rows = []
    for way in ("cpu", "accelerator"):
        if way == "accelerator":
            monkeypatch.setattr("training.metrics.sums._on_cpu", lambda tensor: False)
            if not fused:  # as in a version of torch without it
                monkeypatch.delattr(torch, "_foreach_norm")
        probe, optimizer = probing(model, include="*"), stepped(model)
        probe.before(optimizer)
        with torch.no_grad():
            model[0].weight += 0.1
        probe.after(optimizer)
        rows.append(probe.evaluate(probe.measure()))
        with torch.no_grad():
            model[0].weight -= 0.1
    assert rows[1] == pytest.approx(rows[0], rel=1e-6, abs=1e-7)
    assert "update/0.weight/log_ratio" in rows[0]


def test_the_fingerprint_is_that_of_the_weights():
    def fingerprint(model):
        row = probing(model).evaluate(probing(model).measure())
        return np.array([row[f"log/fingerprint/{j}"] for j in range(4)])

    model = network()
    first = fingerprint(model)
    assert (fingerprint(network()) == first).all()
    assert first.sum() == pytest.approx(flat(model.parameters()).sum(), rel=1e-6)
    with torch.no_grad():
        rows = model[0].weight.clone()
        model[0].weight[0], model[0].weight[4] = rows[4], rows[0]  # the same weights elsewhere
    exchanged = fingerprint(model)
    assert np.abs(exchanged - first).max() > 0.1
    with torch.no_grad():
        model[0].weight.copy_(rows)
        model[2].bias[1] += 1e-4
    assert 5e-5 < np.abs(fingerprint(model) - first).max() < 2e-4


def test_half_precision_does_not_overflow():
    model = torch.nn.Linear(400, 400, bias=False).half()
    model.weight.data.fill_(300.0)
    assert measured(model)["weight/_all/log_l2"] == pytest.approx(math.log(300 * 400))


def test_tied_weights_count_once():
    model = torch.nn.ModuleList([torch.nn.Linear(3, 3, bias=False) for _ in range(2)])
    model[1].weight = model[0].weight
    expected = np.log(np.linalg.norm(flat([model[0].weight])))
    assert measured(model)["weight/_all/log_l2"] == pytest.approx(expected)
    described = probing(model).describe()
    assert list(described["parameters"]) == ["0.weight"]
    assert described["tied"] == {"0.weight": ["1.weight"]}


def test_frozen_parameters_have_weights_but_no_update():
    model = network()
    model[0].requires_grad_(False)
    model.zero_grad()
    model[2].weight.grad = torch.ones_like(model[2].weight)
    probe, optimizer = probing(model, include=["0.weight", "2.weight"]), stepped(model)
    probe.before(optimizer)
    optimizer.step()
    probe.after(optimizer)
    row = probe.evaluate(probe.measure())
    assert "weight/0.weight/log_l2" in row
    assert "update/0.weight/log_ratio" not in row
    assert "update/2.weight/log_ratio" in row


def test_sparse_gradients():
    model = torch.nn.Embedding(10, 3, sparse=True)
    model(torch.tensor([1, 1, 4])).sum().backward()
    # row 1 is looked up twice: 3 twos and 3 ones
    assert measured(model)["grad/_all/log_l2"] == pytest.approx(0.5 * math.log(3 * 4 + 3))


def test_what_has_no_value_is_left_out_and_what_is_not_finite_kept():
    model = network()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert not any(key.startswith("grad/") for key in measured(model))
    model[0].weight.grad[0, 0] = math.nan
    model[2].bias.data[0] = math.inf
    row = measured(model)
    assert math.isnan(row["grad/_all/log_l2"])
    assert row["weight/_all/log_l2"] == math.inf


def test_names_of_wrapped_modules_are_those_of_the_model():
    plain = list(dict(network().named_parameters()))
    compiled = torch.compile(torch.nn.DataParallel(network()), backend="eager")
    inside = network()
    inside[0] = torch.compile(inside[0], backend="eager")
    for model in (
        compiled,
        inside,
        torch.nn.DataParallel(torch.compile(network(), backend="eager")),
    ):
        assert list(probing(model).describe()["parameters"]) == plain

    class Own(torch.nn.Module):
        """A model whose author called a part of it `module`."""

        def __init__(self):
            super().__init__()
            self.module = network()

    assert list(probing(Own()).describe()["parameters"]) == [f"module.{name}" for name in plain]


def test_choices():
    def margin(model):
        return model[2].bias.sum()

    row = measured(network(), metrics=["weight/_all/mean", margin])
    assert set(row) == {"weight/_all/mean", "margin"}
    assert row["margin"] == pytest.approx(network()[2].bias.sum().item())
    assert not choose(["core", "core"]).makers
    for unknown in ("spectra", ["weight/_all/median"]):
        with pytest.raises(ValueError, match=r"presets are \['core', 'hu2023', 'spectral'\]"):
            choose(unknown)
    with pytest.raises(ValueError, match="define it by `def`"):
        choose([lambda model: 0.0])

    def rows(model):
        return model[2].bias

    with pytest.raises(ValueError, match=r"rows\(model\) has shape \(2,\)"):
        measured(network(), metrics=[rows])


def test_include_names_what_there_is():
    with pytest.raises(ValueError, match=r"'blocks.*' matches nothing; there are .*0.weight"):
        probing(network(), include="blocks.*")
    included = probing(network(), include=["0.*", "*.bias"]).describe()["include"]
    assert included == ["0.weight", "0.bias", "2.bias"]
    with pytest.raises(ValueError, match="no floating-point parameter"):
        probing(torch.nn.ReLU())
