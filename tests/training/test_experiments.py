"""The experiments, at sizes that take a moment."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import training
from training.experiments import (
    EXPERIMENTS,
    digits,
    modular_addition,
    sparse_parity,
    two_stage,
)
from training.sweep import configure

TINY = {
    "digits": {"width": 10, "steps": 30, "every": 10},
    "sparse_parity": {"width": 40, "train_points": 96, "test_points": 50, "epochs": 4},
    "modular_addition": {"modulus": 7, "width": 8, "heads": 2, "hidden": 16, "steps": 30},
    "two_stage": {"train_sentences": 20, "test_sentences": 20, "steps": 30, "every": 10},
}
MODULES = {
    "digits": digits,
    "modular_addition": modular_addition,
    "sparse_parity": sparse_parity,
    "two_stage": two_stage,
}


def trained(experiment, seed, directory):
    MODULES[experiment].train(seed, directory, configure(experiment, **TINY[experiment]))
    return training.store.read(directory).rows.drop(columns="run").set_index("step")


def test_defaults_are_those_of_the_papers():
    assert configure("sparse_parity").record() == {
        "experiment": "sparse_parity",
        "bits": 40,
        "relevant": 3,
        "width": 1000,
        "train_points": 1000,
        "test_points": 1000,
        "lr": 0.1,
        "weight_decay": 0.01,
        "batch": 32,
        "epochs": 300,
    }
    addition = configure("modular_addition")
    assert (addition.modulus, addition.width, addition.heads, addition.hidden) == (113, 128, 4, 512)
    assert (addition.lr, addition.weight_decay, addition.batch) == (1e-3, 1.0, 256)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_rows(experiment, tmp_path):
    rows = trained(experiment, 0, tmp_path)
    every, count = (3, 5) if experiment == "sparse_parity" else (10, 4)
    assert rows.index.tolist() == [every * n for n in range(count)]
    assert {"train/loss", "train/acc", "test/loss", "test/acc", "epoch"} <= set(rows)
    assert rows.notna().sum().min() >= count - 1
    assert rows["train/loss"].iloc[-1] < rows["train/loss"].iloc[0]
    assert rows["epoch"].is_monotonic_increasing


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_seed_gives_the_same_rows_in_another_process(experiment, tmp_path):
    here = trained(experiment, 3, tmp_path / "here")
    other = trained(experiment, 4, tmp_path / "other")
    there = tmp_path / "there"
    program = (
        "import torch; torch.manual_seed(99); from training import sweep; "
        f"sweep({experiment!r}, seeds=[3], out={str(there)!r}, **{TINY[experiment]!r})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    (_, *first), (_, *again) = (  # without the header, which tells the time
        (folder / "metrics.0000.jsonl").read_bytes().splitlines()
        for folder in (tmp_path / "here", there / "seed-3")
    )
    assert first == again
    assert not np.allclose(here["weight/_all/log_l2"], other["weight/_all/log_l2"], rtol=1e-6)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_global_state_is_touched(experiment, tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.get_num_threads()  # noqa: NPY002
    training.sweep(experiment, seeds=1, out=tmp_path, progress=False, **TINY[experiment])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.get_num_threads() == before[2]
    assert torch.get_default_dtype() == torch.float32


def test_parity_labels_are_products_of_the_relevant_bits(tmp_path):
    # one bit of three is a linear problem, which a network has learnt at once
    config = configure("sparse_parity", **TINY["sparse_parity"] | {"relevant": 1, "epochs": 30})
    sparse_parity.train(0, tmp_path, config)
    assert training.store.read(tmp_path).rows["test/acc"].iloc[-1] > 0.9


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_transformer_computes_attention_at_its_last_position(layer_norm):
    config = configure("modular_addition", layer_norm=layer_norm, **TINY["modular_addition"])
    generator = torch.Generator().manual_seed(0)
    model = modular_addition.Transformer(config, generator)

    def normed(stream):
        return torch.nn.functional.layer_norm(stream, stream.shape[-1:]) if layer_norm else stream

    pairs = torch.tensor([[0, 1], [3, 3], [6, 2]])
    tokens = torch.cat([pairs, torch.full((3, 1), 7)], dim=1)
    stream = model.embed[tokens] + model.position
    heads = []
    for part in (model.query, model.key, model.value):
        heads.append((normed(stream) @ part).view(3, 3, 2, 4).transpose(1, 2))
    attended = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
    stream = stream + attended.transpose(1, 2).reshape(3, 3, 8) @ model.output
    hidden = torch.relu(normed(stream) @ model.mlp_in + model.mlp_in_bias)
    logits = normed(stream + hidden @ model.mlp_out + model.mlp_out_bias) @ model.unembed
    torch.testing.assert_close(model(pairs), logits[:, -1])


def test_layer_norm_changes_no_initial_weight():
    plain, normed = (
        modular_addition.Transformer(
            configure("modular_addition", layer_norm=layer_norm, **TINY["modular_addition"]),
            torch.Generator().manual_seed(0),
        ).state_dict()
        for layer_norm in (False, True)
    )
    assert all(torch.equal(weight, normed[name]) for name, weight in plain.items())
    added = {name.partition(".")[0] for name in normed.keys() - plain.keys()}
    assert added == {"attention_norm", "mlp_norm", "unembed_norm"}


def test_modular_addition_groks_in_its_small_setting(tmp_path):
    (path,) = training.sweep(
        "modular_addition", seeds=[0], out=tmp_path, small=True, steps=1200, progress=False
    )
    rows = training.store.read(path).rows.set_index("step")
    memorised = rows.index[rows["train/acc"] > 0.99][0]
    assert rows.loc[memorised, "test/acc"] < 0.5
    assert rows["test/acc"].iloc[-1] > 0.9
    grokked = rows.index[rows["test/acc"] > 0.9][0]
    assert grokked > 1.5 * memorised
    assert json.loads((path / "end.json").read_text())["errors"] == 0


def test_digits_are_learnt_in_the_first_tenth(tmp_path):
    config = configure("digits", steps=1000, every=500)
    digits.train(0, tmp_path, config)
    rows = training.store.read(tmp_path).rows.set_index("step")
    assert rows["test/acc"].tolist()[0] < 0.3 < 0.85 < rows["test/acc"].tolist()[-1]
    assert 10 * config.steps == configure("digits").steps


def test_digits_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"scikit-learn: pip install 'bayeshmm\[experiments\]'"):
        digits.train(0, tmp_path, configure("digits"))


def test_what_follows_a_sentence_is_the_successor_of_its_highest_ranked_token():
    language = two_stage.Language(6, torch.Generator().manual_seed(0))
    sentences = torch.tensor([[2, 0, 5], [5, 0, 2], [4, 3, 1]])
    for sentence, answer in zip(sentences.tolist(), language.answers(sentences), strict=True):
        ranks = {token: language.rank[sentence[-1], token] for token in sentence}
        assert answer == language.successor[max(ranks, key=ranks.get)]
    words = torch.arange(6)
    assert torch.equal(language.answers(words[:, None]), language.successor)


def test_the_second_stage_begins_after_the_switch(tmp_path):
    config = configure("two_stage", every=1, switch=20, steps=40)
    two_stage.train(0, tmp_path, config)
    rows = training.store.read(tmp_path).rows.set_index("step")
    assert rows["attention/optimal"].loc[: config.switch].to_numpy() == pytest.approx(
        1 / config.length
    )
    assert rows["attention/optimal"].loc[config.switch :].is_monotonic_increasing
    # the trained matrix alone moves, a step of the given length at a time, and away from zero
    norm = np.exp(rows["weight/_all/log_l2"])
    length = np.exp(rows["update/_all/log_ratio"]) * norm
    assert length.loc[1 : config.switch].to_numpy() == pytest.approx(config.value_lr, rel=1e-4)
    assert length.loc[config.switch + 1 :].to_numpy() == pytest.approx(
        config.attention_lr, rel=1e-4
    )
    moved = norm.loc[config.switch + 1] ** 2 - norm.loc[config.switch] ** 2
    assert moved == pytest.approx(config.attention_lr**2, rel=1e-2)
