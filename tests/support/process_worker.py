"""One of the processes that train together, for test_processes: ``RANK WORLD OUT``.

Every case trains once with a hook and once without. The whole tensors at every step go into
``OUT/<case>/truth.npz``, what each process found into ``OUT/<case>/found-<rank>.json``.
"""

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from training import MetricHook

STEPS, EVERY = 5, 2
INCLUDED = ("2.weight", "3.weight", "3.bias")
METRICS = ("core", "spectral", "hu2023")


class Net(nn.Sequential):
    """Uneven shards: the last layer's one row leaves nothing for the second process."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3), nn.Linear(3, 1))
        self.scale = nn.Parameter(torch.tensor([1.5, 0.5, -2.0]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) * self.scale


def replicated() -> nn.Module:
    return DistributedDataParallel(Net())


def sharded() -> nn.Module:
    net = Net()
    fully_shard(net[0])
    return fully_shard(net)


def partly_sharded() -> nn.Module:
    """`scale` stays a plain parameter, whose gradient the loop has to average."""
    net = Net()
    return fully_shard(net, ignored_params={net.scale})


def on_mesh(replicas: int, shards: int) -> nn.Module:
    mesh = init_device_mesh("cpu", (replicas, shards), mesh_dim_names=("replicate", "shard"))
    return fully_shard(Net(), mesh=mesh)


def split_by_tensors() -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return parallelize_module(Net(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


class FailsElsewhere:
    """A metric that fails in every process but the first, once training is under way."""

    __name__ = "failing"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module) -> float:
        self.calls += 1
        if self.calls > 1 and dist.get_rank() > 0:
            raise ZeroDivisionError
        return float(self.calls)


@dataclass(frozen=True)
class Case:
    """How to wrap the model, and what the hook is asked for."""

    build: Callable[[], nn.Module]
    options: Callable[[], dict[str, Any]] = field(default=lambda: {"metrics": METRICS})


CASES = {
    "replicated": Case(replicated),
    "replicated, observed": Case(replicated, lambda: {"metrics": METRICS, "activations": "1"}),
    "sharded": Case(sharded, lambda: {"metrics": METRICS, "activations": "1"}),
    "partly sharded": Case(partly_sharded),
    "two replicas": Case(partial(on_mesh, 2, 1)),
    "two shards": Case(partial(on_mesh, 1, 2)),
    "split by tensors": Case(split_by_tensors),
    "one fails": Case(sharded, lambda: {"metrics": [*METRICS, FailsElsewhere()]}),
}


def batch(step: int, stream: int) -> torch.Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(100 * step + stream))


def stream(case: str, rank: int) -> int:
    """Which batches a process trains on; those that split tensors train on the same."""
    return 0 if case == "split by tensors" else rank


def whole(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).double().numpy().copy()


def held(model: nn.Module) -> list[torch.Tensor]:
    parts = [p.detach() for p in model.parameters()]
    return [(p.to_local() if isinstance(p, DTensor) else p).clone() for p in parts]


def hooks_on(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, int]]:
    things = [*model.modules(), optimizer]
    return [
        {name: len(value) for name, value in vars(thing).items() if isinstance(value, dict)}
        for thing in things
    ]


class Training:
    """One model, and its next step."""

    def __init__(self, case: str) -> None:
        self.case = case
        self.model = CASES[case].build()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, foreach=False)

    def backward(self, step: int) -> torch.Tensor:
        self.optimizer.zero_grad()
        inputs = batch(step, stream(self.case, dist.get_rank()))
        loss = (self.model(inputs) - inputs[:, :3]).square().mean()
        loss.backward()
        plain = [p for p in self.model.parameters() if not isinstance(p, DTensor)]
        split = [p for p in self.model.parameters() if isinstance(p, DTensor)]
        if self.case == "partly sharded":
            for parameter in plain:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        if self.case != "split by tensors":  # where gradients differ in their meshes
            nn.utils.clip_grad_norm_(split or plain, 0.1)
        return loss


def train_hooked(case: str, out: Path, truth: dict[str, np.ndarray]) -> dict[str, object]:
    training = Training(case)
    training.backward(0)
    training.optimizer.step()  # what wrappers attach at the first step is theirs
    hooks = hooks_on(training.model, training.optimizer)
    inner = getattr(training.model, "module", training.model)

    def keep(step: int, kind: str, tensors: dict[str, torch.Tensor]) -> None:
        truth.update({f"{step}|{kind}|{name}": whole(t) for name, t in tensors.items()})

    with MetricHook(
        training.model,
        training.optimizer,
        out / f"rank-{dist.get_rank()}",
        every=EVERY,
        include=INCLUDED,
        **CASES[case].options(),
    ) as hook:
        keep(0, "weight", dict(inner.named_parameters()))
        for step in range(1, STEPS + 1):
            loss = training.backward(step)
            keep(step, "before", dict(inner.named_parameters()))
            training.optimizer.step()
            keep(step, "weight", dict(inner.named_parameters()))
            keep(step, "grad", {name: p.grad for name, p in inner.named_parameters()})
            if dist.get_rank() == 0:
                hook.log(train_loss=loss)
    return {
        "steps": hook.step,
        "hooks_left": hooks_on(training.model, training.optimizer) != hooks,
        "same_as_without": all(map(torch.equal, held(training.model), train_plain(case))),
    }


def train_plain(case: str) -> list[torch.Tensor]:
    training = Training(case)
    for step in range(STEPS + 1):
        training.backward(step)
        training.optimizer.step()
    return held(training.model)


def flat() -> nn.Module:
    """A model of flat parameters."""
    return FullyShardedDataParallel(Net(), device_id=torch.device("cpu"))


def stage() -> nn.Module:
    """A stage of a pipeline: every process has another."""
    return fully_shard(nn.Linear(3, 4 + dist.get_rank()))


REFUSED = {"flat": flat, "stage": stage}


def refuse(case: str, out: Path) -> dict[str, object]:
    model = REFUSED[case]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    try:
        MetricHook(model, optimizer, out / "run")
    except ValueError as error:
        return {"error": str(error)}
    return {"error": None}


def main(rank: int, world: int, out: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out / 'rendezvous'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=30),
    )
    for case in [*CASES, *REFUSED]:
        folder, truth = out / case, {}
        folder.mkdir(exist_ok=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if case in REFUSED:
                    found = refuse(case, folder)
                else:
                    found = train_hooked(case, folder, truth)
        except Exception:
            found = {"raised": traceback.format_exc()}
        if rank == 0:
            np.savez(folder / "truth.npz", **truth)
        (folder / f"found-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
