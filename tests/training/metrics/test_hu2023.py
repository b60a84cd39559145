"""The 14 metrics against plain Python on lists of matrices that are named here one by one."""

from functools import partial

import numpy as np
import pytest
import torch
from measuring import array, measure, measured, randomised
from torch import nn

from training.experiments.modular_addition import Config, Transformer
from training.metrics.hu2023 import Hu2023

OF_A_MATRIX = (
    "l1",
    "l2",
    "code_sparsity",
    "trace",
    "spectral",
    "computational_sparsity",
    "mean_lambda",
    "variance_lambda",
)


def of_matrix(matrix):
    """Return the metrics of one matrix, number by number."""
    entries = [float(w) for row in matrix for w in row]
    s = [float(value) for value in np.linalg.svd(matrix, compute_uv=False)]
    kept = [0.0 if value < 1e-5 else value for value in s]
    mean = sum(kept) / len(kept)
    l1, l2 = sum(abs(w) for w in entries), sum(w * w for w in entries) ** 0.5
    trace = sum(float(matrix[i][i]) for i in range(min(matrix.shape)))
    values = [l1, l2, l1 / l2, trace, max(s), trace / max(s), mean]
    if len(s) > 1:
        values.append(sum((value - mean) ** 2 for value in kept) / (len(s) - 1))
    return dict(zip(OF_A_MATRIX, values, strict=False))


def of_kernels(tensor):
    """Return the metrics of a convolution: the means over its kernels."""
    l1s, l2s = [], []
    for out in tensor:
        for kernel in out:
            l1s.append(sum(abs(float(w)) for w in kernel.ravel()))
            l2s.append(sum(float(w) ** 2 for w in kernel.ravel()) ** 0.5)
    n = len(l1s)
    ratios = [a / b for a, b in zip(l1s, l2s, strict=True)]
    return {"l1": sum(l1s) / n, "l2": sum(l2s) / n, "code_sparsity": sum(ratios) / n}


def pooled(letter, tensors):
    values = sorted(float(v) for tensor in tensors for v in tensor.ravel())
    n = len(values)
    mean = sum(values) / n
    return {
        f"mean_{letter}": mean,
        f"median_{letter}": values[n // 2 - 1] if n % 2 == 0 else values[n // 2],
        f"var_{letter}": sum((v - mean) ** 2 for v in values) / (n - 1),
    }


def direct(matrices, biases, convolutions=()):
    """Return all metrics of a model, from its matrices, biases and convolutions."""
    each = [of_matrix(m) for m in matrices] + [of_kernels(c) for c in convolutions]
    row = {}
    for stat in OF_A_MATRIX:
        values = [metrics[stat] for metrics in each if stat in metrics]
        if values:
            row[stat] = sum(values) / len(values)
    row |= pooled("w", [*matrices, *convolutions])
    row |= pooled("b", biases) if biases else {}
    return {f"hu2023/_all/{stat}": value for stat, value in row.items()}


def check(model, matrices, biases, convolutions=(), options=None):
    arrays = ([array(p) for p in group] for group in (matrices, biases, convolutions))
    assert measured(Hu2023, model, **options or {}) == pytest.approx(direct(*arrays), rel=1e-9)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_transformer_of_modular_addition(layer_norm):
    config = Config(modulus=6, width=8, heads=2, hidden=10, layer_norm=layer_norm)
    model = randomised(Transformer(config, torch.Generator()))
    heads = [w[:, part] for w in (model.query, model.key, model.value) for part in HALVES]
    matrices = [*heads, model.output, model.mlp_in, model.mlp_out]
    check(model, matrices, [model.mlp_in_bias, model.mlp_out_bias])
    assert tuple(measured(Hu2023, model)) == Hu2023.KEYS


HALVES = (slice(0, 4), slice(4, 8))


class Encoder(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.tokens = nn.Embedding(5, 8)
        self.position = nn.Parameter(torch.zeros(3, 8))
        self.encoder = encoder
        self.logits = nn.Linear(8, 5)


@pytest.mark.parametrize("numbered", [True, False])
def test_the_transformer_of_torch(numbered):
    layer = nn.TransformerEncoderLayer(8, 2, 12)
    layers = [layer]
    if numbered:
        encoder = nn.TransformerEncoder(layer, 3, nn.LayerNorm(8), enable_nested_tensor=False)
        layers = list(encoder.layers)
    model = randomised(Encoder(encoder if numbered else layer))
    matrices, biases = [], []
    for layer in layers:
        packed = layer.self_attn.in_proj_weight
        matrices += [packed[start : start + 4] for start in range(0, 24, 4)]
        matrices += [layer.self_attn.out_proj.weight, layer.linear1.weight, layer.linear2.weight]
        biases += [layer.linear1.bias, layer.linear2.bias]
    check(model, matrices, biases)


class Attention(nn.Module):
    """Four query heads of width 2; two heads of keys and values."""

    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.q_proj, self.o_proj = nn.Linear(6, 8), nn.Linear(8, 6)
        self.k_proj, self.v_proj = nn.Linear(6, 4), nn.Linear(6, 4)


class Layer(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.self_attn = attention
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)


def model_of(attention):
    model = nn.ModuleDict({"embed_tokens": nn.Embedding(5, 6)})
    model["layers"] = nn.ModuleList([Layer(attention)])
    model["lm_head"] = nn.Linear(6, 5, bias=False)
    model["lm_head"].weight = model["embed_tokens"].weight
    return randomised(model), model["layers"][0]


@pytest.mark.parametrize("head_dim", [None, 2])
def test_grouped_queries(head_dim):
    model, layer = model_of(Attention())
    attention = layer.self_attn
    if head_dim:
        attention.head_dim = head_dim
        del attention.num_heads
    heads = [
        w[start : start + 2]
        for w in (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
        for start in range(0, len(w), 2)
    ]
    assert len(heads) == 8
    matrices = [*heads, attention.o_proj.weight, layer.up.weight, layer.down.weight]
    check(model, matrices, [layer.up.bias, layer.down.bias])


def test_an_attention_that_does_not_say_its_heads_is_whole():
    model, layer = model_of(Attention())
    attention = layer.self_attn
    del attention.num_heads
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    matrices = [*(getattr(attention, n).weight for n in names), layer.up.weight, layer.down.weight]
    check(model, matrices, [layer.up.bias, layer.down.bias])


class Packed(nn.Module):
    """Used as ``x @ W``."""

    def __init__(self):
        super().__init__()
        self.n_head = 3
        self.c_attn, self.c_proj = (nn.Parameter(torch.zeros(6, n)) for n in (18, 6))
        self.b_attn = nn.Parameter(torch.zeros(18))


def test_packed_columns():
    model, layer = model_of(Packed())
    packed = layer.self_attn.c_attn
    heads = [packed[:, start : start + 2] for start in range(0, 18, 2)]
    matrices = [*heads, layer.self_attn.c_proj, layer.up.weight, layer.down.weight]
    check(model, matrices, [layer.up.bias, layer.down.bias])


class ByHead(nn.Module):
    """A matrix per head."""

    def __init__(self):
        super().__init__()
        shapes = {"W_Q": (2, 6, 3), "W_K": (2, 6, 3), "W_V": (2, 6, 3), "W_O": (2, 3, 6)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        self.b_Q = nn.Parameter(torch.zeros(2, 3))


def test_parameters_that_are_held_by_head():
    model, layer = model_of(ByHead())
    attention = layer.self_attn
    heads = [*attention.W_Q, *attention.W_K, *attention.W_V]
    matrices = [*heads, attention.W_O.flatten(0, 1), layer.up.weight, layer.down.weight]
    check(model, matrices, [layer.up.bias, layer.down.bias])


def perceptron():
    layers = (nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    return randomised(nn.Sequential(*layers))


def linears(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_perceptron(dtype):
    model = perceptron().to(dtype)
    weights, biases = zip(*((m.weight, m.bias) for m in linears(model)), strict=True)
    assert sum(b.numel() for b in biases) % 2 == 0  # else the lower median is the median
    check(model, weights, biases)


def test_small_singular_values_count_as_none():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    values = [1.0, 0.5, 8e-6, 6e-6], [3e-5, 2e-5, 5e-6, 0.0], [7e-6, 3e-6, 1e-6, 0.0]
    for i, s in enumerate(values):
        model[i].weight.data = torch.diag(torch.tensor(s)).roll(i, 0)
    check(model, [m.weight for m in model], [m.bias for m in model])


def test_an_embedding_does_not_count_wherever_it_is_tied():
    layers = {"out": nn.Linear(4, 5), "hidden": nn.Linear(4, 4), "tokens": nn.Embedding(5, 4)}
    model = randomised(nn.ModuleDict(layers))
    model["out"].weight = model["tokens"].weight
    check(model, [model["hidden"].weight], [model["out"].bias, model["hidden"].bias])


def test_a_value_function_is_no_attention():
    model = randomised(nn.ModuleDict({"body": nn.Linear(4, 5), "q": nn.Linear(5, 3)}))
    model.num_heads = 3
    check(model, [m.weight for m in linears(model)], [m.bias for m in linears(model)])


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.downsample = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6))


def conv_net():
    stem = nn.Conv2d(2, 4, (3, 2))
    return randomised(nn.Sequential(stem, nn.BatchNorm2d(4), Residual(), nn.Linear(6, 5)))


def test_a_convolutional_network():
    model = conv_net()
    stem, _, block, head = model
    convolutions = [stem.weight, block.conv1.weight]
    check(model, [head.weight], [stem.bias, head.bias], convolutions)


def test_a_network_of_convolutions_alone():
    row = measured(Hu2023, nn.Conv2d(2, 3, 2, bias=False))
    stats = ("l1", "l2", "code_sparsity", "mean_w", "median_w", "var_w")
    assert set(row) == {f"hu2023/_all/{stat}" for stat in stats}


def test_included_weights_have_the_mean_over_their_heads():
    config = Config(modulus=6, width=8, heads=2, hidden=10)
    model = randomised(Transformer(config, torch.Generator()))
    row = measured(Hu2023, model, include=["key", "mlp_*", "embed"])
    halves = [of_matrix(array(model.key[:, part])) for part in HALVES]
    expected = {
        f"hu2023/key/{stat}": (halves[0][stat] + halves[1][stat]) / 2 for stat in OF_A_MATRIX
    }
    for name in ("mlp_in", "mlp_out"):
        metrics = of_matrix(array(getattr(model, name)))
        expected |= {f"hu2023/{name}/{stat}": value for stat, value in metrics.items()}
    own = {key: value for key, value in row.items() if "_all" not in key}
    assert own == pytest.approx(expected, rel=1e-9)


def test_an_included_convolution_and_a_single_row():
    model = conv_net()
    row = measured(Hu2023, model, include="0.weight")
    for stat, value in of_kernels(array(model[0].weight)).items():
        assert row[f"hu2023/0.weight/{stat}"] == pytest.approx(value, rel=1e-9)
    assert sum("0.weight" in key for key in row) == 3
    row = measured(Hu2023, perceptron(), include="4.weight")
    assert {key for key in row if "4.weight" in key} == {
        f"hu2023/4.weight/{stat}" for stat in OF_A_MATRIX if stat != "variance_lambda"
    }


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite(bad):
    model = perceptron()
    model[2].weight.data[1, 1] = bad
    row = measured(Hu2023, model, include="*")
    per_matrix = {key for key in row if key.rpartition("/")[2] in OF_A_MATRIX}
    nan = {key for key in per_matrix if np.isnan(row[key])}
    assert nan == {key for key in per_matrix if "_all" in key or "2.weight" in key}
    assert not np.isfinite([row["hu2023/_all/mean_w"], row["hu2023/_all/var_w"]]).any()
    assert np.isfinite(row["hu2023/_all/mean_b"])


def test_a_zero_matrix_has_no_ratios():
    model = nn.Linear(3, 3)
    model.weight.data.zero_()
    row = measured(Hu2023, model)
    ratios = {"hu2023/_all/code_sparsity", "hu2023/_all/computational_sparsity"}
    assert {key for key, value in row.items() if np.isnan(value)} == ratios


def test_what_counts_can_be_chosen():
    model = perceptron()
    first, second, last = linears(model)
    options = {"matrices": ["0.*", "2.*"], "biases": "2.bias", "heads": {"2.weight": (2, 0)}}
    check(model, [first.weight, *second.weight.chunk(2)], [second.bias], options=options)
    options = {"biases": ["0.bias", "4.bias"]}
    check(model, [m.weight for m in linears(model)], [first.bias, last.bias], options=options)
    assert measured(partial(Hu2023, **options), model).keys() == set(Hu2023.KEYS)
    config = Config(modulus=6, width=8, heads=2, hidden=10)
    model = randomised(Transformer(config, torch.Generator()))
    options = {
        "matrices": ["embed", "query", "key", "value"],
        "heads": {"query": (1, 0), "key": (1, 0), "value": (2, 0)},
    }
    matrices = [model.embed, model.query, model.key, *model.value.chunk(2)]
    biases = [model.mlp_in_bias, model.mlp_out_bias]
    check(model, matrices, biases, options=options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matrices": "3.*"}, r"matrices=.*'3\.\*' matches nothing"),
        ({"heads": {"0.weight": (4, 0)}}, r"\(4, 0\).*0\.weight of shape \(5, 6\)"),
        ({"heads": {"0.weight": (5, 2)}}, r"\(5, 2\)"),
        ({"heads": {"0.bias": (5, 0)}}, r"0\.bias"),
        ({"matrices": "0.bias"}, "the model has none"),
    ],
)
def test_a_choice_that_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        measure(Hu2023, nn.Sequential(nn.Linear(6, 5)), **options)


def test_the_record_says_what_counts_as_what():
    config = Config(modulus=6, width=8, heads=2, hidden=10, layer_norm=True)
    record = measure(Hu2023, Transformer(config, torch.Generator())).definitions()
    text = record["hu2023/_all/mean_w"]
    for part in (
        "2 matrices, cut from dimension 1 (query, key, value)",
        "matrix (output, mlp_in, mlp_out)",
        "bias (mlp_in_bias, mlp_out_bias)",
        "(embed, position, unembed)",
        "left out: norm (attention_norm.weight, attention_norm.bias",
    ):
        assert part in text
    record = measure(Hu2023, Transformer(config, torch.Generator()), "query").definitions()
    assert record["hu2023/query/l1"] == "sum |w|; mean over 2 matrices"
    record = measure(Hu2023, conv_net(), ["0.weight", "3.weight"]).definitions()
    assert record["hu2023/0.weight/l1"] == "sum |w|; mean over kernels"
    assert record["hu2023/3.weight/l1"] == "sum |w|; of the matrix"
    assert "convolution" in record["hu2023/_all/l1"]
    assert "convolution" not in record["hu2023/_all/trace"]
