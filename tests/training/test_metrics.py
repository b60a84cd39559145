"""The numbers: against a direct computation in float64."""

import math

import numpy as np
import pytest
import torch

from training.metrics import CORE, choose
from training.probe import PIECE, Probe, to_host


def measured(model, **options):
    probe = Probe(model, **options)
    reading = probe.measure(gradients=True)
    return probe.evaluate(reading, to_host(reading.scalars))


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
    probe = Probe(model, include="2.*")
    snapshot = probe.snapshot()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.01 * parameter.grad
    reading = probe.measure(gradients=True, before=snapshot)
    row = probe.evaluate(reading, to_host(reading.scalars))
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
    assert len(row) == 3 * len(CORE)


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
    probe = Probe(model, include="*")
    snapshot = probe.snapshot()
    model[0].weight.data += 0.1
    rows = []
    for way in ("cpu", "accelerator"):
        if way == "accelerator":
            monkeypatch.setattr("training.probe._on_cpu", lambda tensor: False)
            if not fused:  # as in a version of torch without it
                monkeypatch.delattr(torch, "_foreach_norm")
        reading = probe.measure(gradients=True, before=snapshot)
        rows.append(probe.evaluate(reading, to_host(reading.scalars)))
    assert rows[1] == pytest.approx(rows[0], rel=1e-6)


def test_half_precision_does_not_overflow():
    model = torch.nn.Linear(400, 400, bias=False).half()
    model.weight.data.fill_(300.0)
    assert measured(model)["weight/_all/log_l2"] == pytest.approx(math.log(300 * 400))


def test_tied_weights_count_once():
    model = torch.nn.ModuleList([torch.nn.Linear(3, 3, bias=False) for _ in range(2)])
    model[1].weight = model[0].weight
    expected = np.log(np.linalg.norm(flat([model[0].weight])))
    assert measured(model)["weight/_all/log_l2"] == pytest.approx(expected)
    assert list(Probe(model).describe()["parameters"]) == ["0.weight"]


def test_frozen_parameters_have_weights_but_no_update():
    model = network()
    model[0].requires_grad_(False)
    assert set(Probe(model).snapshot()) == {2, 3}
    probe = Probe(model, include="0.weight")
    reading = probe.measure(before=probe.snapshot())
    row = probe.evaluate(reading, to_host(reading.scalars))
    assert "weight/0.weight/log_l2" in row
    assert "update/0.weight/log_ratio" not in row


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
    class Wrapper(torch.nn.Module):
        def __init__(self, name, inner):
            super().__init__()
            self.add_module(name, inner)

    wrapped = Wrapper("module", Wrapper("_orig_mod", network()))
    assert list(Probe(wrapped).describe()["parameters"]) == list(dict(network().named_parameters()))


def test_choices():
    def margin(model):
        return model[2].bias.sum()

    row = measured(network(), metrics=["weight/_all/mean", margin])
    assert set(row) == {"weight/_all/mean", "margin"}
    assert row["margin"] == pytest.approx(network()[2].bias.sum().item())
    assert choose(["core", "core"])[0] == CORE
    for unknown in ("spectra", ["weight/_all/median"]):
        with pytest.raises(ValueError, match=r"presets are \['core'\]"):
            choose(unknown)
    with pytest.raises(ValueError, match="define it by `def`"):
        choose([lambda model: 0.0])

    def rows(model):
        return model[2].bias

    with pytest.raises(ValueError, match=r"rows\(model\) has shape \(2,\)"):
        measured(network(), metrics=[rows])


def test_include_names_what_there_is():
    with pytest.raises(ValueError, match=r"'blocks.*' matches no parameter; there are .*0.weight"):
        Probe(network(), include="blocks.*")
    included = Probe(network(), include=["0.*", "*.bias"]).describe()["include"]
    assert included == ["0.weight", "0.bias", "2.bias"]
    with pytest.raises(ValueError, match="no floating-point parameter"):
        Probe(torch.nn.ReLU())
