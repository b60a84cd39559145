"""Metrics of one's own: what is logged of them, and what is refused."""

from functools import partial

import pytest
import torch
from measuring import measure, measured, randomised

from training.metrics.custom import measure_of, metric
from training.metrics.hu2023 import Hu2023


def network():
    return randomised(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)))


def size(model):
    return sum(p.numel() for p in model.parameters())


def total(model):
    return model[0].weight.sum()


@metric
def first_weight(model):
    return model[0].weight[0, 0]


@metric(name="tenth", definition="one tenth, not rounded")
def named_otherwise(model):
    return 0.1


@metric(of="weight", ndim=2, definition="max |w|")
def largest(weight):
    return weight.abs().max()


@metric(of="weight")
def norm(weight):
    return float(weight.norm())


def row(item, model, include=None):
    return measured(measure_of(item)[1], model, include)


def test_functions_of_the_model():
    model = network()
    assert row(size, model) == {"size": 15 + 8}
    assert row(first_weight, model) == {"first_weight": model[0].weight[0, 0].item()}
    assert row(named_otherwise, model, "*") == {"tenth": 0.1}


def test_functions_of_every_weight():
    model = network()
    first, second = (layer.weight.abs().max().item() for layer in model)
    assert row(largest, model) == {"weight/_all/largest": pytest.approx((first + second) / 2)}
    assert row(largest, model, ["0.*"]) == {
        "weight/_all/largest": pytest.approx((first + second) / 2),
        "weight/0.weight/largest": first,
    }
    norms = [parameter.norm().item() for parameter in model.parameters()]
    assert row(norm, model)["weight/_all/norm"] == pytest.approx(sum(norms) / 4)
    assert len(row(norm, model, "*")) == 5


def test_the_record():
    model = network()
    for item, definitions in {
        size: {"size": f"{__name__}.size"},
        first_weight: {"first_weight": f"{__name__}.first_weight"},
        named_otherwise: {"tenth": "one tenth, not rounded"},
        largest: {"weight/_all/largest": "max |w|; mean over 2 weights"},
    }.items():
        _, make = measure_of(item)
        assert measure(make, model).definitions() == definitions
    assert measure_of(size)[0] == "size(model)"
    assert measure_of(largest)[0] == "largest(weight)"


def test_values_are_those_of_the_step():
    model = network()
    model.running = torch.tensor(1.0)

    def running(model):
        return model.running

    collected = measure(measure_of(running)[1], model).collect()
    model.running += 1
    assert collected == [torch.tensor(1.0)]
    value = measure(measure_of(total)[1], model).collect()[0]
    assert not value.requires_grad


def test_a_decorated_function_is_still_the_function():
    assert largest(torch.tensor([[-3.0, 2.0]])) == 3.0


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (metric(name="f")(lambda model: model[0].bias), r"f\(model\) has shape \(3,\): reduce"),
        (metric(name="g")(lambda model: [1.0]), r"g\(model\) has shape \(1,\)"),
        (metric(name="h", of="weight")(lambda w: w), r"h\(0\.weight\) has shape \(3, 4\)"),
    ],
)
def test_a_value_with_dimensions_is_refused(item, message):
    with pytest.raises(ValueError, match=message):
        row(item, network())


def test_what_cannot_be_logged():
    with pytest.raises(ValueError, match="no name to log it under"):
        measure_of(lambda model: 1.0)
    with pytest.raises(ValueError, match="no name to log it under"):
        metric(of="weight")(lambda weight: 1.0)
    with pytest.raises(ValueError, match='needs of="weight"'):
        metric(ndim=2)
    with pytest.raises(ValueError, match="weights of 3 dimensions: the model has none"):
        row(metric(of="weight", ndim=3)(size), network())


def test_a_measure_class_with_options_is_its_own_maker():
    heads = partial(Hu2023, heads={"0.weight": (3, 0)})
    assert measure_of(heads) == ("hu2023", heads)
    assert measure_of(Hu2023) == ("hu2023", Hu2023)
