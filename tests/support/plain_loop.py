"""A small network and the plain loop that trains it: what a trainer's rows must agree with."""

import torch
from torch import nn

from training import MetricHook, store

BATCH, BATCHES, EPOCHS, ACCUMULATE, CLIP, EVERY = 4, 12, 4, 2, 0.3, 5
STEPS = BATCHES // ACCUMULATE * EPOCHS


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.02)


def pairs(n=BATCH * BATCHES, seed=1):
    """Return inputs and targets, of shape (n, 5) and (n, 1)."""
    inputs = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs.prod(dim=1, keepdim=True)


def held_out():
    return pairs(16, seed=2)


def loss_of(model, batch):
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def train_plainly(directory, *, mean_loss=False, every=EVERY, **options):
    """Train, and log the loss of every step and, after every epoch, that of other data.

    The loss of a step is that of the last of its batches, or the mean over them.
    """
    model = network()
    optimizer = adam(model)
    inputs, targets = pairs()
    with MetricHook(model, optimizer, directory, every=every, **options) as hook:
        for _ in range(EPOCHS):
            total = 0.0
            for i, batch in enumerate(zip(inputs.split(BATCH), targets.split(BATCH), strict=True)):
                loss = loss_of(model, batch) / ACCUMULATE
                loss.backward()
                total += loss.item()
                if (i + 1) % ACCUMULATE == 0:
                    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                    optimizer.step()
                    optimizer.zero_grad()
                    hook.log({"train/loss": total if mean_loss else loss * ACCUMULATE})
                    total = 0.0
            with torch.no_grad():
                hook.log({"eval/loss": loss_of(model, held_out())}, force=True)
    return rows_of(directory)


def rows_of(directory):
    return store.read(directory).rows.drop(columns="run").set_index("step")


def attributes_of(directory):
    return store.read(directory).attributes.iloc[0]
