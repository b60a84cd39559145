"""Trainings as people write them, set up alike at every call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn


@dataclass
class Loop:
    """A training, which two calls of the same function set up alike.

    `attempt(n, take)` goes for step n and returns the loss; it calls ``take(optimizer, call)``
    where ``call()`` makes a step of an optimizer.
    """

    net: nn.Module
    optimizers: list[torch.optim.Optimizer]
    attempt: Callable
    include: tuple[str, ...] = ("0.weight",)
    given: nn.Module | None = None
    skipped: dict[int, int] = field(default_factory=dict)
    """What ``log/skipped`` is to say, by step."""


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def batch(n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(n)
    inputs = torch.randn(8, 5, generator=generator).to(dtype)
    return inputs, torch.randint(3, (8,), generator=generator)


def loss_of(net, n, dtype=torch.float32):
    inputs, labels = batch(n, dtype)
    return nn.functional.cross_entropy(net(inputs), labels)


def plainly(model, optimizer, loss_of=loss_of, step=None):
    """Return an attempt that does what most loops do."""

    def attempt(n, take):
        optimizer.zero_grad()
        loss = loss_of(model, n)
        loss.backward()
        take(optimizer, step or optimizer.step)
        return loss

    return attempt


def simple(optimizer=torch.optim.Adam, dtype=torch.float32, **options):
    net = network()
    with torch.no_grad():
        net[0].weight *= 300 if dtype == torch.float16 else 1  # whose squares half cannot hold
    net.to(dtype)
    optimizer = optimizer(net.parameters(), **{"lr": 0.01} | options)
    return Loop(net, [optimizer], plainly(net, optimizer, partial(loss_of, dtype=dtype)))


def normalized():
    """A scale that starts as ones, whose spread is tiny, and a shift that starts as zeros."""
    net = network()
    net[1] = nn.LayerNorm(7)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    return Loop(net, [optimizer], plainly(net, optimizer), include=("1.weight", "1.bias"))


def accumulation():
    """Of three batches, clipped, with a schedule, gradients gone after the step."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=20)

    def attempt(n, take):
        for part in range(3):
            loss = loss_of(net, 3 * n + part) / 3
            loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.05)

        def step():
            optimizer.step()
            schedule.step()

        take(optimizer, step)
        optimizer.zero_grad()
        return loss

    return Loop(net, [optimizer], attempt)


def scaled(fused, clipped):
    """Attempts 2 and 3 overflow: the second of them is right before a due step."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def attempt(n, take):
        optimizer.zero_grad()
        overflows = n in (2, 3)
        loss = loss_of(net, n)
        scaler.scale(loss * torch.inf if overflows else loss).backward()
        if clipped:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 0.05)
        step = partial(scaler.step, optimizer)
        _ = step() if overflows else take(optimizer, step)
        scaler.update()
        return loss

    return Loop(net, [optimizer], attempt, skipped={3: 2} if fused else {})


def compiled_model(backend):
    loop = simple()
    loop.given = torch.compile(loop.net, backend=backend)
    loop.attempt = plainly(loop.given, *loop.optimizers)
    return loop


def compiled_step():
    loop = simple()
    (optimizer,) = loop.optimizers
    step = torch.compile(optimizer.step, backend="eager")
    loop.attempt = plainly(loop.net, optimizer, step=step)
    return loop


def compiled_whole():
    """Forward, backward and step in one compiled function."""
    loop = simple()
    (optimizer,) = loop.optimizers

    @torch.compile(backend="eager")
    def whole(inputs, labels):
        loss = nn.functional.cross_entropy(loop.net(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss

    def attempt(n, take):
        optimizer.zero_grad()
        return take(optimizer, lambda: whole(*batch(n)))

    return Loop(loop.net, [optimizer], attempt)


def adversaries(critic_steps, all_zeroed=True):
    """The critic's gradients are gone, or those of the generator's loss, when the latter steps.

    The critic makes so many steps in each of three iterations, in turn.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.ModuleDict({"generator": nn.Linear(5, 4), "critic": nn.Linear(4, 1)})
    critic = torch.optim.Adam(net["critic"].parameters(), lr=0.01)
    generator = torch.optim.SGD(net["generator"].parameters(), lr=0.01)

    def attempt(n, take):
        inputs, _ = batch(n)
        for turn in range(critic_steps[n % 3]):
            critic.zero_grad()
            inputs, _ = batch(n + 100 * turn)
            net["critic"](net["generator"](inputs) - inputs[:, :4]).mean().backward()
            take(critic, critic.step)
        (net if all_zeroed else generator).zero_grad()
        loss = -net["critic"](net["generator"](inputs)).mean()
        loss.backward()
        if all_zeroed:
            critic.zero_grad()
        take(generator, generator.step)
        return loss

    return Loop(net, [critic, generator], attempt, include=("critic.weight",))


def matrices_and_vectors():
    """An optimizer for the matrices and one for the rest, as with Muon."""
    net = network()
    sorts = [[p for p in net.parameters() if (p.ndim == 2) == matrix] for matrix in (True, False)]
    optimizers = [torch.optim.SGD(sorts[0], lr=0.1, momentum=0.9), torch.optim.AdamW(sorts[1])]

    def attempt(n, take):
        loss = loss_of(net, n)
        loss.backward()
        for optimizer in optimizers:
            take(optimizer, optimizer.step)
            optimizer.zero_grad()
        return loss

    return Loop(net, optimizers, attempt)


def closures():
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.3, max_iter=3)

    def attempt(n, take):
        def closure():
            optimizer.zero_grad()
            loss = loss_of(net, n)
            loss.backward()
            return loss

        return take(optimizer, lambda: optimizer.step(closure))

    return Loop(net, [optimizer], attempt)


def automatic_precision():
    loop = simple()
    attempt = loop.attempt

    def cast(n, take):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return attempt(n, take)

    loop.attempt = cast
    return loop


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


class Bag(nn.Module):
    """Its embedding has sparse gradients."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6, sparse=True)
        self.head = nn.Linear(6, 11)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def tokens(module):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = module()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def loss_of(net, n):
        drawn = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(n))
        return nn.functional.cross_entropy(net(drawn[0]), drawn[1])

    attempt = plainly(net, optimizer, loss_of)
    return Loop(net, [optimizer], attempt, include=("embedding.weight",))


def frozen_at_first():
    """The first layer joins at attempt 4, by `add_param_group`."""
    net = network()
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.1)
    going_on = plainly(net, optimizer)

    def attempt(n, take):
        if n == 4:
            net[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(net[0].parameters())})
        return going_on(n, take)

    return Loop(net, [optimizer], attempt)


def head_only():
    """The optimizer holds the last layer, and the gradients of the others pile up unused."""
    net = network()
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.1)
    return Loop(net, [optimizer], plainly(net, optimizer), include=("2.weight",))


LOOPS = {
    "Adam": simple,
    "Adam, a loop over tensors": partial(simple, foreach=False),
    "SGD, foreach": partial(simple, torch.optim.SGD, foreach=True, momentum=0.9),
    "SGD, fused": partial(simple, torch.optim.SGD, fused=True),
    "AdamW, fused": partial(simple, torch.optim.AdamW, fused=True),
    "bfloat16": partial(simple, torch.optim.SGD, torch.bfloat16, lr=0.1),
    "float16": partial(simple, torch.optim.SGD, torch.float16, lr=0.1),
    "float64": partial(simple, dtype=torch.float64),
    "autocast": automatic_precision,
    "normalized": normalized,
    "accumulation": accumulation,
    "scaler": partial(scaled, fused=False, clipped=False),
    "scaler, clipped": partial(scaled, fused=False, clipped=True),
    "scaler, fused": partial(scaled, fused=True, clipped=False),
    "scaler, fused, clipped": partial(scaled, fused=True, clipped=True),
    "compiled model": partial(compiled_model, "aot_eager"),
    "compiled step": compiled_step,
    "compiled whole": compiled_whole,
    "adversaries": partial(adversaries, (1, 1, 1), all_zeroed=False),
    "adversaries, all gradients zeroed": partial(adversaries, (1, 1, 1)),
    "adversaries, two critic steps": partial(adversaries, (2, 2, 2)),
    "adversaries, the critic rests": partial(adversaries, (0, 1, 2)),
    "matrices and vectors": matrices_and_vectors,
    "closures": closures,
    "tied weights": partial(tokens, Tied),
    "sparse gradients": partial(tokens, Bag),
    "frozen at first": frozen_at_first,
    "head only": head_only,
}
