"""Checkpoints measured after the fact: the hook's own numbers, from whatever files there are."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from training import MetricHook
from training.checkpoints import found, measure
from training.checkpoints.names import step_of
from training.metrics.hu2023 import Hu2023
from training.metrics.spectral import Spectral
from training.store import read

STEPS = (0, 1, 3, 4, 7)


class Classifier(nn.Module):
    """A little of everything that metrics tell apart."""

    def __init__(self, width=6):
        super().__init__()
        self.embed = nn.Embedding(9, width)
        self.conv = nn.Conv1d(width, 5, 3)
        self.norm = nn.BatchNorm1d(5)
        self.scale = nn.LayerNorm(5)
        self.hidden = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 5))
        self.out = nn.Linear(5, 4)

    def forward(self, tokens):
        kernels = self.norm(self.conv(self.embed(tokens).mT)).mean(2)
        return self.out(self.hidden(self.scale(kernels)))


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def tensors(seed=0, **shapes):
    """A state dict of random tensors; ``a_b`` in a name is ``a.b``."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name.replace("_", "."): torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def save(path, seed=0, **shapes):
    """A checkpoint of a tiny model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors(seed, **(shapes or {"l_weight": (3, 4), "l_bias": (3,)})), path)


def trained(tmp_path, metrics, save_as=lambda net: net.state_dict()):
    """Train with the hook, save at the logged steps, and return what the hook has logged."""
    net = seeded(Classifier)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(save_as(net), folder / "step_0.pt")
    options = {"at": STEPS, "metrics": metrics, "include": "hidden.*weight"}
    with MetricHook(net, optimizer, tmp_path / "hook", **options):
        for step in range(1, max(STEPS) + 1):
            tokens = torch.randint(9, (16, 7), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(tokens), tokens[:, 0] % 4).backward()
            optimizer.step()
            if step in STEPS:
                torch.save(save_as(net), folder / f"step_{step}.pt")
    return folder, read(tmp_path / "hook").rows


def measured(folder, **options):
    return measure(folder, progress=False, **options)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("metrics", ["core", "spectral", "hu2023"])
def test_a_checkpoint_gives_what_the_hook_logged_at_its_step(tmp_path, metrics, given):
    folder, logged = trained(tmp_path, metrics)
    model = seeded(Classifier, seed=5) if given else None
    rows = measured(folder, metrics=metrics, include="hidden.*weight", model=model).rows
    weights = [name for name in logged if not name.startswith(("grad/", "update/", "run"))]
    assert len(weights) > 5
    assert sorted(rows.columns.drop("run")) == sorted(weights)
    assert rows["step"].tolist() == list(STEPS)
    np.testing.assert_allclose(rows[weights], logged[weights], rtol=1e-6, atol=1e-9)


def test_a_model_that_is_given_says_how_many_heads_there_are(tmp_path):
    net = seeded(partial(nn.MultiheadAttention, 6, 2))
    torch.save(net.state_dict(), tmp_path / "step_0.pt")
    given = measured(tmp_path, metrics="hu2023", model=net).rows
    bare = measured(tmp_path, metrics="hu2023").rows
    told = partial(Hu2023, heads={"in_proj_weight": (6, 0)})
    assert given["hu2023/_all/spectral"][0] < bare["hu2023/_all/spectral"][0]
    assert measured(tmp_path, metrics=[told]).rows[
        "hu2023/_all/spectral"
    ].tolist() == pytest.approx(given["hu2023/_all/spectral"].tolist())


def test_large_matrices_do_not_depend_on_the_checkpoints_before(tmp_path, monkeypatch):
    monkeypatch.setattr("training.metrics.spectral.EXACT", 4)
    for step in (0, 10):
        save(tmp_path / "all" / f"step_{step}.pt", seed=step, w_weight=(20, 30))
    shutil.copytree(tmp_path / "all", tmp_path / "one")
    (tmp_path / "one/step_0.pt").unlink()
    both, one = (measured(tmp_path / name, metrics=[Spectral]).rows for name in ("all", "one"))
    norm = "weight/_all/spectral_norm"
    assert both[norm].tolist()[1:] == one[norm].tolist()
    exact = torch.linalg.matrix_norm(tensors(10, w_weight=(20, 30))["w.weight"], 2)
    assert one[norm][0] == pytest.approx(exact.item(), rel=1e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        lambda state: {"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}},
        lambda state: {"model_state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {
            "module": {f"_orig_mod.{k}": v for k, v in state.items()},
            "rng": state["a"],
        },
        lambda state: {"policy": state, "optim": {"m": torch.ones(2)}, "loss": torch.tensor(1.0)},
        lambda state: {k: nn.Parameter(v) for k, v in state.items()},
    ],
)
def test_the_state_dict_is_found(tmp_path, wrap):
    state = tensors(a=(3,), b_weight=(2, 4))
    (tmp_path / "plain").mkdir()
    (tmp_path / "wrapped").mkdir()
    torch.save(state, tmp_path / "plain/step_5.pt")
    torch.save(wrap(state), tmp_path / "wrapped/step_5.pt")
    plain, wrapped = (
        measured(tmp_path / name, include="*", metrics="core").rows.drop(columns="run")
        for name in ("plain", "wrapped")
    )
    assert "weight/b.weight/std" in plain
    assert wrapped.to_dict() == plain.to_dict()


def test_what_a_checkpoint_holds_besides_is_left_out_and_named(tmp_path, capsys):
    state = tensors(conv_weight=(2, 2, 3), attn_bias=(1, 1, 4, 4), norm_weight=(2,)) | {
        "norm.running_mean": torch.ones(2),
        "norm.num_batches_tracked": torch.tensor(4),
        "rotary_emb.inv_freq": torch.ones(3),
        "attn.masked_bias": torch.tensor(-1e9),
    }
    for seed in (1, 2):
        (tmp_path / f"seed-{seed}").mkdir()
        content = {"model": state, "optimizer": {}, "epoch": 2}
        torch.save(content, tmp_path / f"seed-{seed}/step_5.pt")
    stored = measure(tmp_path, include="*")
    assert {name.split("/")[1] for name in stored.rows if name.endswith("/std")} == {
        "_all",
        "conv.weight",
        "norm.weight",
    }
    (said,) = json.loads(stored.attributes["config.left_out"][0])
    assert said.startswith("optimizer, epoch, 1 buffers 'bias', 1 buffers 'running_mean'")
    assert f"seed-1 and 1 more: left out {said}\n" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_is_measured(tmp_path, dtype):
    state = {"w": torch.arange(6, dtype=dtype).reshape(2, 3)}
    torch.save(state, tmp_path / "step_5.pt")
    assert measured(tmp_path).rows["weight/_all/mean"].tolist() == [2.5]


def test_tied_tensors_count_once(tmp_path):
    table = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for step in (1, 2):
        state = {"wte.weight": table, "lm_head.weight": table, "b": torch.ones(2)}
        torch.save(state, tmp_path / f"step_{step}.pt")
    measure(tmp_path, tmp_path / "runs", progress=False)
    (run,) = (tmp_path / "runs").iterdir()
    recorded = json.loads((run / "run.json").read_text())
    assert recorded["parameters"] == {"wte.weight": [5, 3], "b": [2]}
    assert recorded["tied"] == {"wte.weight": ["lm_head.weight"]}
    torch.save(
        {"wte.weight": table, "lm_head.weight": table.clone(), "b": torch.ones(2)},
        tmp_path / "step_3.pt",
    )
    with pytest.raises(ValueError, match=r"step_3.pt: lm_head.weight is .*, but .* tied to wte"):
        measured(tmp_path)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step_1000", 1000),
        ("step1000", 1000),
        ("model_step1000", 1000),
        ("ckpt-1000", 1000),
        ("checkpoint-500", 500),
        ("epoch=3-step=400", 400),
        ("epoch=3-step=400-val_loss=0.25", 400),
        ("multiberts-seed_0-step_20k", 20_000),
        ("multiberts-seed_1-step_1000k", 1_000_000),
        ("pythia-70m-step512", 512),
        ("step_1M", 1_000_000),
        ("global_step1000", 1000),
        ("iter_0000100", 100),
        ("resnet18_500", 500),
        ("model500", 500),
        ("seed3_200", 200),
        ("run-2-ckpt5", 5),
        ("gpt2-checkpoint-40", 40),
        ("20k", 20_000),
        ("best-epoch=1-step=10", 10),
    ],
)
def test_the_step_that_a_name_says(name, step):
    assert step_of(name) == step


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("weights", "no step"),
        ("epoch_10", "an epoch, and no step"),
        ("best-v1", "no step"),
        ("checkpoint_3_5000", "any of 3, 5000"),
        ("a-1-2", "any of 1, 2"),
        ("step1-step2", "any of 1, 2"),
        ("pythia-70m", "no step"),
    ],
)
def test_a_name_that_says_no_step_or_several(name, why):
    with pytest.raises(ValueError, match=why):
        step_of(name)


def test_layouts(tmp_path):
    for step in (0, 1, 512):
        save(tmp_path / f"pythia-70m/step{step}/pytorch_model.bin")
    for step in (500, 1000):
        save(tmp_path / f"trainer/seed-1/checkpoint-{step}/pytorch_model.bin")
        save(tmp_path / f"trainer/seed-1/checkpoint-{step}/optimizer.pt")
        save(tmp_path / f"trainer/seed-1/checkpoint-{step}/global_step{step}/mp_rank_00.pt")
    save(tmp_path / "trainer/seed-1/pytorch_model.bin")
    for seed in (0, 1):
        for step in ("0k", "20k"):
            save(tmp_path / f"multiberts/multiberts-seed_{seed}-step_{step}/pytorch_model.bin")
    for step in (400, 800):
        save(tmp_path / f"lightning/version_0/checkpoints/epoch={step // 400}-step={step}.ckpt")
    save(tmp_path / "lightning/version_0/checkpoints/last.ckpt")
    save(tmp_path / "flat/ckpt-10.pth")
    save(tmp_path / "flat/ckpt-20.pth")
    save(tmp_path / "flat/optimizer-20.pth")
    save(tmp_path / "plain/1000/weights.pt")
    save(tmp_path / ".cache/step_3.pt")
    save(tmp_path / "data/train.bin")
    names = {
        "flat": "flat",
        "lightning/version_0/checkpoints": "lightning/version_0/checkpoints",
        "multiberts/seed_0": "multiberts",
        "multiberts/seed_1": "multiberts",
        "plain": "plain",
        "pythia-70m": "pythia-70m",
        "trainer/seed-1": "trainer/seed-1",
    }
    assert found(tmp_path) == {name: tmp_path / folder for name, folder in names.items()}
    stored = measured(tmp_path)
    assert stored.rows.groupby("run")["step"].agg(list).to_dict() == {
        "flat": [10, 20],
        "lightning/version_0/checkpoints": [400, 800],
        "multiberts/seed_0": [0, 20_000],
        "multiberts/seed_1": [0, 20_000],
        "plain": [1000],
        "pythia-70m": [0, 1, 512],
        "trainer/seed-1": [500, 1000],
    }
    attributes = stored.attributes.set_index("run")
    assert attributes["seed"].dropna().to_dict() == {
        "multiberts/seed_0": 0,
        "multiberts/seed_1": 1,
        "trainer/seed-1": 1,
    }
    left_out = attributes["config.left_out"].map(json.loads)
    assert left_out["lightning/version_0/checkpoints"] == ["last.ckpt (its name says no step)"]
    assert left_out["trainer/seed-1"] == ["pytorch_model.bin (its name says no step)"]
    assert not left_out["pythia-70m"]


def test_the_cache_of_the_hub(tmp_path):
    pythia = tmp_path / "models--EleutherAI--pythia-70m"
    for revision, commit in (("step0", "a1"), ("step1000", "b2"), ("main", "b2")):
        save(pythia / f"snapshots/{commit}/pytorch_model.bin")
        (pythia / "refs").mkdir(exist_ok=True)
        (pythia / f"refs/{revision}").write_text(commit)
    for step in ("0k", "40k"):
        model = tmp_path / f"models--google--multiberts-seed_2-step_{step}"
        save(model / "snapshots/c3/pytorch_model.bin")
        (model / "refs").mkdir()
        (model / "refs/main").write_text("c3")
    assert found(tmp_path) == {"models--EleutherAI--pythia-70m": pythia, "seed_2": tmp_path}
    rows = measured(tmp_path).rows
    assert rows["step"].tolist() == [0, 1000, 0, 40_000]
    assert measured(pythia).rows["step"].tolist() == [0, 1000]
    assert found(model) == found(pythia / "snapshots") == {}


def test_a_run_takes_the_name_of_its_folder_and_of_its_family(tmp_path):
    save(tmp_path / "grok/step_1.pt")
    assert found(tmp_path / "grok") == {"grok": tmp_path / "grok"}
    assert measured(tmp_path / "grok").attributes["run"].tolist() == ["grok"]
    save(tmp_path / "grok/seed3_step_1.pt")
    assert found(tmp_path) == dict.fromkeys(["grok", "grok/seed3"], tmp_path / "grok")


def test_shards_are_one_checkpoint(tmp_path):
    whole = tensors(a_weight=(3, 4), b_weight=(2, 2))
    folder = tmp_path / "sharded/step7"
    folder.mkdir(parents=True)
    for i, (name, tensor) in enumerate(whole.items(), start=1):
        torch.save({name: tensor}, folder / f"pytorch_model-{i:05d}-of-00002.bin")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    (tmp_path / "whole").mkdir()
    torch.save(whole, tmp_path / "whole/step7.pt")
    sharded, one = (
        measured(tmp_path / name, include="*").rows.drop(columns="run")
        for name in ("sharded", "whole")
    )
    assert sharded.to_dict() == one.to_dict()
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"00002-of-00002.bin is missing"):
        measured(tmp_path / "sharded")


class Opens:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_checkpoint_is_executed(tmp_path, zipped):
    state = tensors(a=(3,)) | {"evil": Opens(tmp_path / "touched")}
    torch.save(state, tmp_path / "step_1.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"step_1.pt holds an object of .*open.*export"):
        measured(tmp_path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_a_corrupt_file_is_named(tmp_path, cut):
    save(tmp_path / "step_1.pt")
    save(tmp_path / "step_2.pt")
    (tmp_path / "step_2.pt").write_bytes((tmp_path / "step_2.pt").read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"step_2.pt is corrupt, or no file of torch.save"):
        measured(tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([torch.ones(2)], "holds a list"),
        ({"a": 1, "b": "text"}, r"holds \['a', 'b'\], and not one state dict"),
        ({"generator": {"w": torch.ones(2)}, "critic": {"w": torch.ones(2)}}, "holds .* not one"),
    ],
)
def test_a_file_without_a_state_dict(tmp_path, content, why):
    torch.save(content, tmp_path / "step_1.pt")
    with pytest.raises(ValueError, match=r"step_1.pt " + why):
        measured(tmp_path)


def test_states_of_different_models_are_no_run(tmp_path):
    save(tmp_path / "step_1.pt", a=(2, 3), b=(2,))
    save(tmp_path / "step_2.pt", a=(2, 4), b=(2,))
    with pytest.raises(
        ValueError, match=r"step_2.pt: a is of shape \(2, 4\), but of shape \(2, 3\) in .*step_1.pt"
    ):
        measured(tmp_path)
    save(tmp_path / "step_2.pt", a=(2, 3))
    with pytest.raises(ValueError, match=r"step_2.pt: b is not there, but of shape \(2,\) in"):
        measured(tmp_path)


def test_a_model_that_does_not_fit(tmp_path):
    save(tmp_path / "step_1.pt", weight=(2, 3), other=(2,))
    with pytest.raises(ValueError, match=r"step_1.pt .* lacks \['bias'\], and has \['other'\]"):
        measured(tmp_path, model=nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"step_1.pt does not fit the model: .*size mismatch"):
        measured(tmp_path, model=nn.Linear(4, 2))


def test_a_function_may_load_the_model(tmp_path):
    def load(path):
        net = nn.Linear(3, 2)
        net.load_state_dict(torch.load(path)["net"]["deep"])
        return net

    for name in ("nested", "plain"):
        (tmp_path / name).mkdir()
    for step in (1, 2):
        state = tensors(step, weight=(2, 3), bias=(2,))
        nested = {"net": {"deep": state, "average": state}}
        torch.save(nested, tmp_path / f"nested/step_{step}.pt")
        torch.save(state, tmp_path / f"plain/step_{step}.pt")
    nested = measured(tmp_path / "nested", model=load, include="*")
    plain = measured(tmp_path / "plain", include="*")
    assert nested.attributes["config.model"].str.endswith("load").all()
    assert nested.rows.drop(columns="run").to_dict() == plain.rows.drop(columns="run").to_dict()


def test_a_model_that_is_given_needs_a_tied_parameter_once(tmp_path):
    net = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    net["b"].weight = net["a"].weight
    save(tmp_path / "step_1.pt", b_weight=(3, 3))
    expected = tensors(b_weight=(3, 3))["b.weight"].mean().item()
    rows = measured(tmp_path, model=nn.DataParallel(net)).rows
    assert rows["weight/_all/mean"].tolist() == pytest.approx([expected], abs=1e-7)


def test_two_files_of_one_step(tmp_path):
    save(tmp_path / "a_step_1.pt")
    save(tmp_path / "b_step_1.pt")
    with pytest.raises(ValueError, match=r"a_step_1.pt and .*b_step_1.pt are both of step 1"):
        measured(tmp_path)
    steps = measured(tmp_path, steps={"a_step_1.pt": 0, "b_step_1.pt": 2}).rows["step"]
    assert steps.tolist() == [0, 2]
    (tmp_path / "b_step_1.pt").rename(tmp_path / "best_step_1.pt")
    (left_out,) = measured(tmp_path).attributes["config.left_out"].map(json.loads)
    assert left_out == ["best_step_1.pt (of step 1, as a_step_1.pt)"]


def test_steps_of_ones_own(tmp_path):
    for name in ("start.pt", "middle.pt", "end/weights.pt"):
        save(tmp_path / name)
    assert found(tmp_path) == {}
    with pytest.raises(
        ValueError, match=r"middle.pt: its name says no step: .* steps={'middle.pt'"
    ):
        measured(tmp_path)
    given = {"start.pt": 0, "middle.pt": 70, "end": 100}
    assert measured(tmp_path, steps=given).rows["step"].tolist() == [0, 70, 100]
    chosen = measured(tmp_path, steps=lambda path: {"start": 3}.get(path.stem))
    assert chosen.rows["step"].tolist() == [3]
    assert json.loads(chosen.attributes["config.left_out"][0]) == ["middle.pt (by steps=)"]
    with pytest.raises(ValueError, match=r"steps= names 'begin.pt', and there is no such"):
        measured(tmp_path, steps={"begin.pt": 0})
    with pytest.raises(FileNotFoundError, match="no checkpoint that steps= numbers"):
        measured(tmp_path, steps=lambda path: None)


def test_a_checkpoint_beside_numbered_ones_says_its_step(tmp_path):
    save(tmp_path / "step_1.pt")
    save(tmp_path / "start.pt")
    assert list(found(tmp_path)) == [tmp_path.name]
    with pytest.raises(ValueError, match=r"start.pt: its name says no step"):
        measured(tmp_path)


def test_no_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        measured(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        measured(tmp_path / "elsewhere")
    save(tmp_path / "step_1.pt")
    with pytest.raises(NotADirectoryError, match="give the folder"):
        measured(tmp_path / "step_1.pt")


@pytest.fixture
def reads(monkeypatch):
    """The names of the checkpoints that were read."""
    from training.checkpoints import models

    names, original = [], models.read_state
    monkeypatch.setattr(
        models, "read_state", lambda each: names.append(each.path.name) or original(each)
    )
    return names


def test_what_is_measured_is_not_measured_again(tmp_path, reads):
    folder, out = tmp_path / "grok", tmp_path / "runs"
    for step in (0, 10):
        save(folder / f"step_{step}.pt", seed=step)
    first = measured(folder, out=out)
    again = measured(folder, out=out)
    assert reads == ["step_0.pt", "step_10.pt"]
    assert again.rows.equals(first.rows)
    assert read(out).rows.equals(first.rows)
    (folder / "step_0.pt").unlink()  # as trainers do
    save(folder / "step_20.pt", seed=20)
    save(folder / "step_15.pt", seed=15)
    more = measured(folder, out=out)
    assert reads[2:] == ["step_15.pt", "step_20.pt"]
    assert more.rows["step"].tolist() == [0, 10, 15, 20]
    assert more.rows[:2].equals(first.rows)
    assert more.attributes["status"].tolist() == ["finished"]


def test_a_checkpoint_between_others_is_put_in_its_place(tmp_path, reads):
    folder, out = tmp_path / "grok", tmp_path / "runs"
    for step in (10, 20, 30):
        save(folder / f"step_{step}.pt", seed=step)
    measured(folder, out=out)
    for step in (0, 25):
        save(folder / f"step_{step}.pt", seed=step)
        once = measured(folder)
        reads.clear()
        assert measured(folder, out=out).rows.equals(once.rows)
        assert len(reads) == {0: 4, 25: 2}[step]
    (folder / "step_30.pt").unlink()
    save(folder / "step_27.pt")
    with pytest.raises(ValueError, match=r"step_27.pt comes before step 30, .* is gone since"):
        measured(folder, out=out)
    assert read(out).rows.equals(once.rows)


def test_measuring_goes_on_where_it_stopped(tmp_path, reads):
    folder, out = tmp_path / "grok", tmp_path / "runs"
    for step in (0, 10, 20):
        save(folder / f"step_{step}.pt", seed=step)
    whole = (folder / "step_20.pt").read_bytes()
    (folder / "step_20.pt").write_bytes(whole[:100])
    with pytest.raises(ValueError, match="corrupt"):
        measured(folder, out=out)
    assert read(out).attributes["status"].tolist() == ["failed"]
    (folder / "step_20.pt").write_bytes(whole)
    reads.clear()
    stored = measured(folder, out=out)
    assert reads == ["step_20.pt"]
    assert stored.rows["step"].tolist() == [0, 10, 20]
    assert stored.attributes["status"].tolist() == ["finished"]
    (out / "grok/end.json").unlink()  # it was killed before it wrote the end
    reads.clear()
    again = measured(folder, out=out)
    assert reads == ["step_20.pt"]
    assert again.rows.equals(stored.rows)
    assert again.attributes["status"].tolist() == ["finished"]


def test_an_only_row_is_measured_again_where_the_end_is_missing(tmp_path):
    folder, out = tmp_path / "grok", tmp_path / "runs"
    save(folder / "step_0.pt")
    first = measured(folder, out=out)
    (out / "grok/end.json").unlink()
    again = measured(folder, out=out)
    assert again.rows.equals(first.rows)
    assert again.attributes["status"].tolist() == ["finished"]


def test_another_setting_needs_another_place(tmp_path):
    folder, out = tmp_path / "grok", tmp_path / "runs"
    save(folder / "step_1.pt")
    measured(folder, out=out)
    with pytest.raises(ValueError, match=r"measured with metrics=\['core'\], not \['spectral'\]"):
        measured(folder, out=out, metrics="spectral")
    save(folder / "step_2.pt", a=(3, 3))
    with pytest.raises(ValueError, match=r"step_2.pt has other parameters than"):
        measured(folder, out=out)
    net = nn.Linear(2, 2)
    MetricHook(net, torch.optim.SGD(net.parameters()), tmp_path / "hooks/grok").close()
    with pytest.raises(FileExistsError, match="holds another run"):
        measured(folder, out=tmp_path / "hooks")


def test_weights_that_are_not_finite_stay_so(tmp_path):
    torch.save({"w": torch.tensor([1.0, torch.nan])}, tmp_path / "step_1.pt")
    torch.save({"w": torch.tensor([1.0, torch.inf])}, tmp_path / "step_2.pt")
    lost = measured(tmp_path).nonfinite.set_index(["step", "metric"])["value"]
    assert np.isnan(lost[1, "weight/_all/log_l2"])
    assert lost[2, "weight/_all/log_l2"] == np.inf


def test_global_random_streams_are_left_alone(tmp_path):
    save(tmp_path / "step_1.pt", conv_weight=(2, 2, 3), embed_weight=(4, 3), norm_weight=(2,))
    before = torch.get_rng_state()
    measured(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_metric_that_fails_names_its_checkpoint(tmp_path):
    def failing(model):
        raise ArithmeticError("no forward")

    save(tmp_path / "step_1.pt")
    with pytest.raises(ArithmeticError) as failure:
        measured(tmp_path, metrics=["core", failing])
    assert any("step_1.pt" in note for note in failure.value.__notes__)


def test_the_command(tmp_path, capsys):
    from training.__main__ import main

    for seed in (0, 1):
        save(tmp_path / f"checkpoints/seed-{seed}/step_5.pt", w_weight=(3, 3))
    out = tmp_path / "runs"
    arguments = ["measure", str(tmp_path / "checkpoints"), "--out", str(out)]
    assert main([*arguments, "--metrics", "core", "spectral", "--include", "w.*"]) == 0
    assert "2 runs" in capsys.readouterr().out
    rows = read(out).rows
    assert rows["run"].tolist() == ["seed-0", "seed-1"]
    assert {"weight/_all/spectral_norm", "weight/w.weight/std"} <= set(rows)
    with pytest.raises(SystemExit):
        main(["measure", str(tmp_path / "nowhere"), "--out", str(out)])
    assert "no such folder" in capsys.readouterr().err
