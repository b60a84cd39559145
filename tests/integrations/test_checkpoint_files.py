"""Checkpoints as safetensors, transformers and Lightning write them."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from training import MetricHook
from training.checkpoints import found, measure
from training.store import read

pytestmark = pytest.mark.integration


def hooked(model, directory, metrics):
    """What the hook logs of a model at step 0."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    MetricHook(model, optimizer, directory, metrics=metrics).close()
    return read(directory).rows


def weights(rows):
    names = [name for name in rows if name.startswith(("weight/", "hu2023/"))]
    return rows[names].iloc[0].to_dict()


def tiny(kind):
    import transformers

    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "bert":  # its decoder is tied to its embedding
            return transformers.BertForMaskedLM(transformers.BertConfig(**sizes))
        return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes))


@pytest.mark.parametrize("size", ["5GB", "8KB"])
@pytest.mark.parametrize("kind", ["neox", "bert"])
@pytest.mark.parametrize("metrics", ["core", "spectral", "hu2023"])
def test_what_transformers_saves(tmp_path, kind, size, metrics):
    pytest.importorskip("transformers")
    model = tiny(kind)
    for step in (0, 1000):
        model.save_pretrained(tmp_path / f"tiny/step{step}", max_shard_size=size)
    files = list((tmp_path / "tiny/step0").glob("*.safetensors"))
    assert len(files) > 1 if size == "8KB" else len(files) == 1
    assert found(tmp_path) == {"tiny": tmp_path / "tiny"}
    logged = weights(hooked(model, tmp_path / "hook", metrics))
    assert len(logged) > 3
    load = type(model).from_pretrained  # which renames some parameters
    stored = measure(tmp_path, metrics=metrics, model=load, progress=False)
    assert stored.rows["step"].tolist() == [0, 1000]
    assert weights(stored.rows) == pytest.approx(logged, rel=1e-6)
    bare = weights(measure(tmp_path, metrics=metrics, progress=False).rows)
    whole = {
        name: value
        for name, value in logged.items()
        if not name.startswith("hu2023/") or name.endswith(("_w", "_b"))  # heads are not known
    }
    assert {name: bare[name] for name in whole} == pytest.approx(whole, rel=1e-6)


def test_pythia_s_own_buffers_are_no_weights(tmp_path):
    from safetensors.torch import save_file

    model = tiny("neox")
    state = model.state_dict()
    # what its checkpoints hold besides
    old = {"bias": torch.ones(1, 1, 8, 8), "masked_bias": torch.tensor(-1e9)}
    for layer in (0, 1):
        prefix = f"gpt_neox.layers.{layer}.attention"
        state |= {f"{prefix}.{name}": tensor.clone() for name, tensor in old.items()}
        state[f"{prefix}.rotary_emb.inv_freq"] = torch.ones(2)
    (tmp_path / "step0").mkdir()
    save_file(state, tmp_path / "step0/model.safetensors")
    logged = weights(hooked(model, tmp_path / "hook", "core"))
    for given in (None, model):
        stored = measure(tmp_path, model=given, progress=False)
        assert weights(stored.rows) == pytest.approx(logged, rel=1e-6)
    (said,) = json.loads(measure(tmp_path, progress=False).attributes["config.left_out"][0])
    assert "2 buffers 'masked_bias'" in said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_safetensors(tmp_path, dtype, capsys):
    from safetensors.torch import save_file

    state = {"b": torch.arange(3, dtype=dtype), "a.weight": torch.ones(2, 2, dtype=dtype)}
    for step in (1, 20):
        save_file(state, tmp_path / f"ckpt-{step}.safetensors")
    torch.save({"other": torch.ones(2)}, tmp_path / "ckpt-20.pt")
    rows = measure(tmp_path, include="b").rows
    assert rows["step"].tolist() == [1, 20]
    assert rows["weight/b/mean"].tolist() == [1.0, 1.0]
    assert "ckpt-20.pt (ckpt-20.safetensors is taken)" in capsys.readouterr().out


@pytest.mark.parametrize("cut", [0, 4, 100])
def test_a_corrupt_safetensors_file_is_named(tmp_path, cut):
    from safetensors.torch import save_file

    path = tmp_path / "ckpt-1.safetensors"
    save_file({"a": torch.ones(30)}, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"ckpt-1.safetensors is corrupt"):
        measure(tmp_path, progress=False)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_what_lightning_saves(tmp_path):
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Module(lightning.LightningModule):
        def __init__(self, width):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Linear(3, width)

        def training_step(self, batch, _):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    module = Module(2)
    saver = ModelCheckpoint(
        tmp_path / "seed-7", every_n_train_steps=2, save_top_k=-1, save_last=True
    )
    trainer = lightning.Trainer(
        max_steps=4,
        accelerator="cpu",
        logger=False,
        callbacks=[saver],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=2))
    stored = measure(tmp_path, include="*", progress=False)
    assert stored.rows["step"].tolist() == [2, 4]
    assert stored.attributes["seed"].tolist() == [7]
    mean = np.mean(module.net.bias.detach().double().numpy())
    assert stored.rows["weight/net.bias/mean"].iloc[-1] == pytest.approx(mean, rel=1e-6)
    left_out = json.loads(stored.attributes["config.left_out"][0])
    assert left_out[0].startswith("last.ckpt")
    assert "optimizer_states" in left_out[1]
