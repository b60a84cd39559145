"""`MetricHook` in the loops that people write."""

import json
import math
import warnings

import numpy as np
import pytest
import torch

from training import MetricHook, store


def regression(seed=0, optimizer=torch.optim.SGD, **options):
    """Return a model, its optimizer and an endless stream of losses to go down on."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Linear(4, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    inputs = torch.randn(64, 4, generator=generator)

    def loss(step):
        return (model(inputs[step % 8 :: 8]) - 1).square().mean()

    return model, optimizer(model.parameters(), **{"lr": 0.01, **options}), loss


def train(model, optimizer, loss, hook, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(hook.step)
        value.backward()
        optimizer.step()
        hook.log(train_loss=value)


def flat(tensors):
    return np.concatenate([tensor.detach().double().numpy().ravel() for tensor in tensors])


def stored(directory):
    return store.read(directory).rows.drop(columns="run").set_index("step")


def end(directory):
    return json.loads((directory / "end.json").read_text())


def test_rows_hold_the_state_after_their_step(tmp_path):
    model, optimizer, loss = regression()
    expected = {0: (flat(model.parameters()), None, None, None)}
    with MetricHook(model, optimizer, tmp_path / "run", every=3) as hook:
        for step in range(1, 11):
            before = flat(model.parameters())
            optimizer.zero_grad()
            value = loss(step)
            value.backward()
            optimizer.step()
            hook.log(train_loss=value)
            weights, gradients = flat(model.parameters()), flat(p.grad for p in model.parameters())
            expected[step] = weights, gradients, weights - before, value.item()
    rows = stored(tmp_path / "run")
    assert rows.index.tolist() == [0, 3, 6, 9]
    assert rows.loc[0, ["grad/_all/log_l2", "update/_all/log_ratio", "train_loss"]].isna().all()
    for step, row in rows.iterrows():
        weights, gradients, update, value = expected[step]
        assert row["weight/_all/log_l2"] == pytest.approx(np.log(np.linalg.norm(weights)))
        assert row["weight/_all/std"] == pytest.approx(weights.std())
        if step > 0:
            assert row["train_loss"] == value
            assert row["grad/_all/log_l2"] == pytest.approx(np.log(np.linalg.norm(gradients)))
            ratio = np.linalg.norm(update) / np.linalg.norm(weights)
            assert row["update/_all/log_ratio"] == pytest.approx(np.log(ratio), rel=1e-5)


def test_the_record_of_a_run(tmp_path):
    model, optimizer, loss = regression()
    config = {"lr": 0.01, "data": {"name": "toy", "sizes": [1, 2]}, "path": tmp_path}
    with MetricHook(model, optimizer, tmp_path / "run", seed=7, config=config, every=2) as hook:
        train(model, optimizer, loss, hook, 5)
    attributes = store.read(tmp_path / "run").attributes.iloc[0]
    assert attributes["run"] == "run"
    assert attributes["seed"] == 7
    assert attributes["every"] == 2
    assert attributes["status"] == "finished"
    assert attributes["last_step"] == 5
    assert attributes["errors"] == 0
    assert 0 < attributes["overhead"] < 1
    assert attributes["config.lr"] == 0.01
    assert attributes["config.data.name"] == "toy"
    assert attributes["config.data.sizes"] == "[1, 2]"
    assert attributes["config.path"] == str(tmp_path)
    recorded = store.read_run(tmp_path / "run")
    assert recorded["parameters"] == {"weight": [1, 4], "bias": [1]}
    assert recorded["torch"] == torch.__version__
    assert "weight/_all/l1_l2" in recorded["metrics"]


def test_a_row_stays_open_until_the_next_step_begins(tmp_path):
    model, optimizer, loss = regression()
    with MetricHook(model, optimizer, tmp_path, every=2) as hook:
        hook.log(start=1)
        train(model, optimizer, loss, hook, 2)
        hook.log({"test/acc": 0.5}, epoch=1)
        hook.log({"test/acc": torch.tensor(0.75)})
        assert stored(tmp_path).index.tolist() == [0]
        train(model, optimizer, loss, hook, 1)
        assert stored(tmp_path).index.tolist() == [0, 2]
        hook.log({"test/acc": 1.0})  # step 3 is not due
        train(model, optimizer, loss, hook, 1)
        hook.log(last=np.float32(3))
    rows = stored(tmp_path)
    assert rows["start"].tolist() == pytest.approx([1, math.nan, math.nan], nan_ok=True)
    assert rows["test/acc"].tolist() == pytest.approx([math.nan, 0.75, math.nan], nan_ok=True)
    assert rows.loc[2, "epoch"] == 1
    assert rows.loc[4, "last"] == 3


def test_force_makes_a_row_of_a_step_that_is_not_due(tmp_path):
    model, optimizer, loss = regression()
    with MetricHook(model, optimizer, tmp_path, every=10) as hook:
        train(model, optimizer, loss, hook, 3)
        hook.log(force=True, accuracy=0.5)
        hook.log(more=1)
        norm = np.log(np.linalg.norm(flat(model.parameters())))
        train(model, optimizer, loss, hook, 1)
    rows = stored(tmp_path)
    assert rows.index.tolist() == [0, 3]
    assert rows.loc[3, ["accuracy", "more"]].tolist() == [0.5, 1]
    assert rows.loc[3, "weight/_all/log_l2"] == pytest.approx(norm)
    assert "grad/_all/log_l2" not in rows


def test_force_within_a_step_that_is_not_due(tmp_path):
    model, optimizer, loss = regression(optimizer=torch.optim.LBFGS, max_iter=2)
    with MetricHook(model, optimizer, tmp_path / "run", every=10) as hook:
        for step in range(1, 6):

            def closure(step=step):
                optimizer.zero_grad()
                value = loss(step)
                value.backward()
                if step == 4:
                    hook.log(train_loss=value, force=True)
                return value

            optimizer.step(closure)
            assert hook.step == step
    assert list(stored(tmp_path / "run").index) == [0, 4]


def test_force_between_two_optimizers_that_are_not_due(tmp_path):
    model, optimizer, loss = regression()
    other = torch.optim.SGD([model.bias], lr=0.1)
    with MetricHook(model, [other, optimizer], tmp_path / "run", every=10) as hook:
        for step in range(1, 6):
            loss(step).backward()
            other.step()
            if step == 4:
                hook.log(half=step, force=True)
            optimizer.step()
    assert stored(tmp_path / "run")["half"].dropna().to_dict() == {4: 4.0}


def test_a_running_total_is_logged_as_it_was(tmp_path):
    model, optimizer, loss = regression()
    total = torch.zeros(())
    with MetricHook(model, optimizer, tmp_path, every=1) as hook:
        for _ in range(3):
            train(model, optimizer, loss, hook, 1)
            total += 1
            hook.log(total=total)
            total.zero_()
    assert stored(tmp_path)["total"].tolist()[1:] == [1, 1, 1]


def test_accumulated_and_clipped_gradients_are_those_of_the_step(tmp_path):
    model, optimizer, loss = regression()
    expected = []
    with MetricHook(model, optimizer, tmp_path, every=1):
        for step in range(4):
            optimizer.zero_grad()
            for part in range(3):
                loss(3 * step + part).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            expected.append(np.log(np.linalg.norm(flat(p.grad for p in model.parameters()))))
            optimizer.step()
            optimizer.zero_grad()
    rows = stored(tmp_path)
    assert rows.index.tolist() == [0, 1, 2, 3, 4]
    assert rows["grad/_all/log_l2"].tolist()[1:] == pytest.approx(expected)
    assert expected == pytest.approx([math.log(0.1)] * 4, rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_gradient_scaler_skips_do_not_count(tmp_path, fused):
    model, optimizer, loss = regression(optimizer=torch.optim.Adam, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    expected = []
    with MetricHook(model, optimizer, tmp_path, every=1) as hook:
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(loss(step) * (math.inf if step == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            if step != 1:
                expected.append(np.log(np.linalg.norm(flat(p.grad for p in model.parameters()))))
            hook.log(attempt=step)
        assert hook.step == 3
    rows = stored(tmp_path)
    assert rows.index.tolist() == [0, 1, 2, 3]
    assert rows["grad/_all/log_l2"].tolist()[1:] == pytest.approx(expected)
    assert rows["attempt"].tolist()[1:] == [1, 2, 3]


def test_closures(tmp_path):
    model, optimizer, loss = regression(optimizer=torch.optim.LBFGS, lr=0.5)
    with MetricHook(model, optimizer, tmp_path, every=2) as hook:

        def closure():
            optimizer.zero_grad()
            value = loss(0)
            value.backward()
            hook.log(inside=value)  # of the step that is under way
            return value

        firsts = [optimizer.step(closure).item() for _ in range(4)]
        hook.log(outside=firsts[-1])
    rows = stored(tmp_path)
    assert rows.index.tolist() == [0, 2, 4]
    assert rows["outside"].tolist()[-1] == firsts[3]
    assert rows.loc[2, "inside"] <= firsts[1]
    assert math.isnan(rows.loc[0, "inside"])
    assert np.isfinite(rows.loc[2, "update/_all/log_ratio"])


def test_a_step_that_raises_leaves_no_row(tmp_path):
    model, optimizer, loss = regression()

    def broken():
        raise ZeroDivisionError

    with MetricHook(model, optimizer, tmp_path, every=1) as hook:
        train(model, optimizer, loss, hook, 1)
        with pytest.raises(ZeroDivisionError):
            optimizer.step(broken)
        assert hook.step == 1
        train(model, optimizer, loss, hook, 1)
    assert stored(tmp_path).index.tolist() == [0, 1, 2]


def test_wrapped_optimizers(tmp_path):
    class Wrapper(torch.optim.Optimizer):
        """As accelerate's: an optimizer without hooks of its own, around another."""

        def __init__(self, optimizer):
            self.optimizer = optimizer

    model, optimizer, loss = regression()
    with MetricHook(model, Wrapper(Wrapper(optimizer)), tmp_path, every=1) as hook:
        train(model, optimizer, loss, hook, 2)
        assert hook.step == 2
    with pytest.raises(TypeError, match="not a torch optimizer"):
        MetricHook(model, model, tmp_path / "other")


@pytest.mark.parametrize("fails", ["measure", "before", "after", "evaluate", "write"])
def test_no_error_reaches_the_training(tmp_path, monkeypatch, fails):
    model, optimizer, loss = regression()
    hook = MetricHook(model, optimizer, tmp_path, every=1)

    def fail(*arguments, **options):
        raise OSError("no space left on device")

    target = hook._writer if fails == "write" else hook._probe
    monkeypatch.setattr(target, fails, fail)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, optimizer, loss, hook, 3)
    assert len(caught) == 1
    assert "no space left on device" in str(caught[0].message)
    train(model, optimizer, loss, hook, 1)  # nor where warnings are made errors
    monkeypatch.undo()
    hook.close()
    assert end(tmp_path)["errors"] >= 4
    assert end(tmp_path)["last_step"] == 4
    rows = stored(tmp_path)
    assert rows.index[-1] == 4
    assert len(rows) == (1 if fails == "write" else 5)


def test_a_warning_made_an_error_does_not_reach_the_training(tmp_path, monkeypatch):
    model, optimizer, loss = regression()
    hook = MetricHook(model, optimizer, tmp_path, every=1)
    monkeypatch.setattr(hook._probe._statistics, "before", lambda stepping: 1 / 0)
    train(model, optimizer, loss, hook, 2)
    hook.close()
    assert end(tmp_path)["errors"] == 2


def test_the_end(tmp_path):
    model, optimizer, loss = regression()
    with pytest.raises(KeyboardInterrupt), MetricHook(model, optimizer, tmp_path) as hook:  # noqa: PT012
        train(model, optimizer, loss, hook, 3)
        raise KeyboardInterrupt
    assert end(tmp_path)["status"] == "failed"
    hook.close()
    assert end(tmp_path)["status"] == "failed"
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    train_step = hook.step
    loss(0).backward()
    optimizer.step()
    assert hook.step == train_step
    with pytest.warns(UserWarning, match="the hook is closed: log before it is"):
        hook.log(loss=1.0)


def test_a_directory_that_holds_a_run_is_not_written_to(tmp_path):
    model, optimizer, loss = regression()
    with MetricHook(model, optimizer, tmp_path) as hook:
        train(model, optimizer, loss, hook, 1)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r"already holds a run.*resume_step="):
        MetricHook(model, optimizer, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert not optimizer._optimizer_step_pre_hooks


def test_resuming_supersedes_later_rows(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    model, optimizer, loss = regression()
    with MetricHook(model, optimizer, whole, every=2) as hook:
        train(model, optimizer, loss, hook, 20)
    model, optimizer, loss = regression()
    hook = MetricHook(model, optimizer, cut, every=2)
    train(model, optimizer, loss, hook, 10)
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    checkpoint = hook.state_dict()
    train(model, optimizer, loss, hook, 5)
    hook.close("failed")

    model, optimizer, loss = regression()
    model.load_state_dict(saved)
    with MetricHook(model, optimizer, cut, every=2, resume_step=checkpoint["step"]) as hook:
        assert store.read(cut).attributes["status"].item() == "unfinished"
        hook.load_state_dict(checkpoint)
        train(model, optimizer, loss, hook, 10)
    assert stored(cut).equals(stored(whole))
    assert sorted(path.name for path in cut.glob("metrics.*")) == [
        "metrics.0000.jsonl",
        "metrics.0001.jsonl",
    ]


def test_a_row_that_was_still_open_when_the_process_died_is_made_on_resuming(tmp_path):
    model, optimizer, loss = regression()
    hook = MetricHook(model, optimizer, tmp_path, every=2)
    train(model, optimizer, loss, hook, 4)
    assert stored(tmp_path).index.tolist() == [0, 2]
    hook._writer._file.close()  # as a process does that dies
    model, optimizer, loss = regression()
    with MetricHook(model, optimizer, tmp_path, every=2, resume_step=4) as resumed:
        train(model, optimizer, loss, resumed, 2)
    assert stored(tmp_path).index.tolist() == [0, 2, 4, 6]


def test_going_back_to_a_checkpoint_within_a_run(tmp_path):
    model, optimizer, loss = regression()
    with MetricHook(model, optimizer, tmp_path, every=1) as hook:
        train(model, optimizer, loss, hook, 3)
        checkpoint = hook.state_dict()
        train(model, optimizer, loss, hook, 3)
        hook.load_state_dict(checkpoint)
        train(model, optimizer, loss, hook, 1)
        hook.log(again=1)
    rows = stored(tmp_path)
    assert rows.index.tolist() == [0, 1, 2, 3, 4]
    assert rows.loc[4, "again"] == 1


def test_resuming_with_other_metrics_is_refused(tmp_path):
    model, optimizer, loss = regression()
    with MetricHook(model, optimizer, tmp_path, every=2) as hook:
        train(model, optimizer, loss, hook, 4)
    with pytest.raises(ValueError, match="begun with cadence="):
        MetricHook(model, optimizer, tmp_path, every=3, resume_step=4)
    with pytest.raises(ValueError, match="begun with metrics="):
        MetricHook(model, optimizer, tmp_path, every=2, metrics=["weight/_all/mean"], resume_step=4)


def weights(model):
    return model.weight[0]


def test_bad_arguments(tmp_path):
    model, optimizer, _ = regression()
    with pytest.raises(ValueError, match="every=0"):
        MetricHook(model, optimizer, tmp_path / "run", every=0)
    with pytest.raises(ValueError, match="resume_step=-1"):
        MetricHook(model, optimizer, tmp_path / "run", resume_step=-1)
    with pytest.raises(ValueError, match="unknown metrics 'spectra'"):
        MetricHook(model, optimizer, tmp_path / "run", metrics="spectra")
    with pytest.raises(ValueError, match="at= must hold"):
        MetricHook(model, optimizer, tmp_path / "run", at=[])
    with pytest.raises(TypeError, match=r"optimizer=\[\]: give at least one"):
        MetricHook(model, [], tmp_path / "run")
    with pytest.raises(ValueError, match=r"weights\(model\) has shape \(4,\): reduce it"):
        MetricHook(model, optimizer, tmp_path / "run", metrics=[weights])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("losses", torch.zeros(2), "neither a number nor a 0-d tensor"),
        ("name", "epoch 3", "neither a number nor a 0-d tensor"),
        ("nothing", None, "neither a number nor a 0-d tensor"),
        ("step", 1.0, "'step' is a name of the run store"),
        ("run", 1.0, "'run' is a name of the run store"),
        ("_nonfinite", 1.0, "'_nonfinite' is a name of the run store"),
    ],
)
def test_a_value_that_cannot_be_logged_is_left_out(tmp_path, name, value, reason):
    model, optimizer, loss = regression()
    with MetricHook(model, optimizer, tmp_path, every=1) as hook:
        train(model, optimizer, loss, hook, 1)
        with pytest.warns(UserWarning, match=reason) as caught:
            hook.log({name: value, "good": 1.0})
        hook.log({name: value})  # said once
        assert len(caught) == 1
        assert f"hook.log({name!r})" in str(caught[0].message)
    assert stored(tmp_path).loc[1, "good"] == 1
    assert name not in stored(tmp_path)
    assert end(tmp_path)["errors"] == 2


def test_what_is_not_finite_is_logged_as_what_it_is(tmp_path):
    model, optimizer, loss = regression()
    with MetricHook(model, optimizer, tmp_path, every=1) as hook:
        train(model, optimizer, loss, hook, 1)
        hook.log(a=math.nan, b=torch.tensor(-math.inf))
        with torch.no_grad():
            model.bias.fill_(math.nan)
        train(model, optimizer, loss, hook, 1)
    runs = store.read(tmp_path)
    found = {(step, metric): v for _, step, metric, v in runs.nonfinite.itertuples(index=False)}
    assert found[1, "b"] == -math.inf
    assert math.isnan(found[1, "a"])
    assert math.isnan(found[2, "train_loss"])
    assert (2, "weight/_all/std") in found
    assert (0, "a") not in found


def test_the_hook_changes_nothing(tmp_path):
    finals = []
    for directory in (None, tmp_path):
        model, optimizer, loss = regression(optimizer=torch.optim.Adam)
        state = torch.get_rng_state()
        hook = MetricHook(model, optimizer, directory, every=1) if directory else None
        for step in range(5):
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()
        if hook:
            hook.close()
        assert torch.equal(torch.get_rng_state(), state)
        finals.append(flat(model.parameters()))
    assert (finals[0] == finals[1]).all()


def test_a_hook_that_is_refused_leaves_the_model_alone(tmp_path):
    model, optimizer, _ = regression()
    net = torch.nn.Sequential(model)
    MetricHook(net, optimizer, tmp_path).close()
    with pytest.raises(FileExistsError):
        MetricHook(net, optimizer, tmp_path, activations="0")
    assert not model._forward_hooks


def test_an_optimizer_of_another_model_is_told(tmp_path):
    model, optimizer, loss = regression()
    other, *_ = regression()
    with pytest.warns(UserWarning, match="the optimizer holds no parameter of the model"):
        hook = MetricHook(other, optimizer, tmp_path, every=1)
    with hook:
        train(model, optimizer, loss, hook, 1)
    assert stored(tmp_path).index.tolist() == [0, 1]
    assert not any(name.startswith(("grad/", "update/")) for name in stored(tmp_path))
