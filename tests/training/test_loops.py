"""Every logged number is the one that float64 says, in the loops that people train with."""

import copy
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from direct_metrics import core
from run_files import end_of, written_rows
from torch import nn
from training_loops import LOOPS, compiled_model

from training import MetricHook

# torch's own, when it compiles the step of an optimizer
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

ATTEMPTS, MORE, EVERY = 7, 3, 3


class Truth:
    """Copies what the steps of a loop leave behind, and computes the rows from it."""

    def __init__(self, loop):
        self.loop, self.step, self.gradients, self.moves = loop, 0, {}, {}
        self.rows = {0: core(self.weights(), {}, {}, loop.include)}

    def weights(self):
        return {name: exact(p) for name, p in self.loop.net.named_parameters()}

    def take(self, optimizer, call):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        mine = {name: p for name, p in self.loop.net.named_parameters() if id(p) in held}
        before = self.weights()
        result = call()
        after = self.weights()
        self.gradients |= {name: exact(p.grad) for name, p in mine.items() if p.grad is not None}
        self.moves |= {name: after[name] - before[name] for name in mine}
        if optimizer is self.loop.optimizers[-1]:
            self.step += 1
            self.rows[self.step] = core(after, self.gradients, self.moves, self.loop.include)
            self.gradients, self.moves = {}, {}
        return result


def exact(tensor):
    tensor = tensor.detach()
    return (tensor.to_dense() if tensor.is_sparse else tensor).double().numpy().copy()


def unobserved(optimizer, call):
    return call()


def attachments(loop):
    """Names of attributes of modules, parameters and optimizers, and how many hooks each has."""
    found = []
    for thing in chain(loop.net.modules(), loop.net.parameters(), loop.optimizers):
        hooks = {name: vars(thing)[name] for name in vars(thing) if "hook" in name}
        if isinstance(thing, nn.Parameter):
            hooks = {"": thing._backward_hooks, "post": thing._post_accumulate_grad_hooks}
        counts = {name: len(value) for name, value in hooks.items() if hasattr(value, "__len__")}
        names = {name for name in vars(thing) if not name.startswith("_dynamo")}
        found.append((type(thing), names, counts))
    everywhere = {**vars(sys.modules["torch.optim.optimizer"]), **vars(nn.modules.module)}
    hooks = {name: value for name, value in everywhere.items() if name.startswith("_global")}
    return found, {name: len(value) for name, value in hooks.items() if hasattr(value, "__len__")}


def state(loop):
    parts = [loop.net.state_dict(), *(optimizer.state_dict() for optimizer in loop.optimizers)]
    return copy.deepcopy(parts)


def assert_identical(left, right):
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_identical(left[key], right[key])
    elif isinstance(left, list | tuple):
        for one, other in zip(left, right, strict=True):
            assert_identical(one, other)
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    else:
        assert left == right


def check(loop, twin, directory):
    """Train `loop` with a hook and `twin` without, and compare all that was logged and trained."""
    truth, losses = Truth(loop), {}
    optimizer = loop.optimizers if len(loop.optimizers) > 1 else loop.optimizers[0]
    given = loop.given or loop.net
    with MetricHook(given, optimizer, directory, every=EVERY, include=loop.include) as hook:
        for n in range(ATTEMPTS):
            loss = loop.attempt(n, truth.take)
            hook.log(train_loss=loss)
            assert hook.step == truth.step
            losses[truth.step] = loss.item()
            twin.attempt(n, unobserved)
    rows = written_rows(directory)
    assert list(rows) == list(range(0, truth.step + 1, EVERY))
    for step, row in rows.items():
        if step > 0:
            assert row.pop("train_loss") == losses[step]
        assert row.pop("log/skipped", 0) == loop.skipped.get(step, 0)
        fingerprint = [row.pop(f"log/fingerprint/{i}") for i in range(4)]
        assert np.isfinite(fingerprint).all()
        assert row == pytest.approx(truth.rows[step], rel=1e-5), f"row {step}"
    assert end_of(directory)["errors"] == 0

    assert attachments(loop) == attachments(twin)
    assert_identical(state(loop), state(twin))
    for n in range(ATTEMPTS, ATTEMPTS + MORE):
        loop.attempt(n, unobserved)
        twin.attempt(n, unobserved)
    assert_identical(state(loop), state(twin))
    assert hook.step == truth.step


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", LOOPS)
def test_every_number_is_the_direct_one(tmp_path, name):
    check(LOOPS[name](), LOOPS[name](), tmp_path / "run")


@pytest.mark.calibration
def test_a_model_compiled_by_inductor(tmp_path):
    check(compiled_model("inductor"), compiled_model("inductor"), tmp_path / "run")


def test_a_compiled_step_is_compiled_once_whatever_the_hook_does(tmp_path):
    loop = LOOPS["compiled step"]()
    torch._dynamo.utils.counters.clear()
    frames = []
    with MetricHook(loop.net, loop.optimizers[0], tmp_path / "run", every=5) as hook:
        for n in range(20):
            loop.attempt(n, unobserved)
            frames.append(torch._dynamo.utils.counters["frames"]["total"])
    assert hook.step == 20
    assert frames[0] > 0
    assert len(set(frames[6:])) == 1  # once with a row open, and once without
