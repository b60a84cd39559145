"""Faults planted in logs, and what an audit says of them."""

import copy
import json
import shutil

import numpy as np
import pandas as pd
import torch

from training import MetricHook

EVERY = 5
"""Steps from row to row of `train`."""


def named(found):
    """Return the findings as tuples (name, runs, steps, metrics)."""
    columns = ["finding", "runs", "steps", "metrics"]
    return [tuple(row) for row in found[columns].itertuples(index=False)]


def part(frame, run, first=0, last=None):
    """Return which rows of a frame are rows `first` to `last` of a run."""
    of_run = (frame["run"] == run).to_numpy()
    place = np.cumsum(of_run) - 1
    return of_run & (place >= first) & (place <= (len(frame) if last is None else last))


def rewrite(folder, out, run, change):
    """Copy a folder of runs, with the written rows of one run changed."""
    shutil.copytree(folder, out)
    path = out / run / "metrics.0000.jsonl"
    header, *lines = path.read_text().splitlines()
    rows = change([json.loads(line) for line in lines])
    path.write_text("\n".join([header, *map(json.dumps, rows)]) + "\n")
    return out


def synthetic(runs, rows, rng, shared=0.0, every=10):
    """Return independent runs of two losses that fall, under noise that shrinks.

    `shared` is the share of the variance of the training loss's noise that all runs have in common.
    """
    time = np.arange(rows)
    own, common = rng.standard_normal((runs, rows)), rng.standard_normal(rows)
    noise = np.sqrt(1 - shared) * own + np.sqrt(shared) * common
    decay = np.exp(-time / rng.uniform(30, 60, (runs, 1)))
    columns = {
        "train/loss": 0.2 + 2 * decay + 0.1 * (0.2 + decay) * noise,
        "test/loss": 0.3 + 2 * decay + 0.05 * rng.standard_normal((runs, rows)),
    }
    df = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
    df.insert(0, "run", np.repeat([f"seed-{n}" for n in range(runs)], rows))
    df.insert(1, "step", np.tile(every * time, runs))
    return df


def train(directory, restores=None, *, declared=False, weights=0, batches=0, rows=80):
    """Train a small network, with a row of its loss on the last batch every `EVERY` steps.

    `restores` maps rows after which a state is restored to the rows of that state: as a restart
    that is declared to the hook, or not. `weights` and `batches` are seeds.
    """
    data, initial, order = (torch.Generator().manual_seed(seed) for seed in (0, weights, batches))
    inputs = torch.randn(400, 10, generator=data)
    targets = inputs[:, :2].prod(dim=1, keepdim=True)
    model = torch.nn.Sequential(torch.nn.Linear(10, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=initial))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    restores, states, row = dict(restores or {}), {}, 0
    hook = MetricHook(model, optimizer, directory, every=EVERY)
    while row < rows:
        states[row] = copy.deepcopy(model.state_dict())
        if row in restores:
            origin = restores.pop(row)
            model.load_state_dict(states[origin])
            if declared:
                hook.close()
                row, step = origin, EVERY * origin
                hook = MetricHook(model, optimizer, directory, every=EVERY, resume_step=step)
        for _ in range(EVERY):
            batch = torch.randint(0, 400, (20,), generator=order)
            optimizer.zero_grad()
            loss = (model(inputs[batch]) - targets[batch]).square().mean()
            loss.backward()
            optimizer.step()
        hook.log({"train/loss": loss})
        row += 1
    hook.close()
    return directory
