"""Sparse parity: a long plateau, then a network finds the few bits that matter.

The label is the product of a few of the inputs. An MLP memorises its training points at once, and
generalises only much later, at an epoch that varies widely from seed to seed (Barak et al. 2022,
arXiv:2207.08799; this setting: Hu et al. 2023, arXiv:2308.09543).
"""

import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.experiments.config import ExperimentConfig
from training.hooks import MetricHook


@dataclass(frozen=True)
class Config(ExperimentConfig):
    """The setting of sparse parity.

    Attributes
    ----------
    bits, relevant
        Number of inputs, each -1 or 1, and how many of them, the first, make the label.
    width
        Number of hidden units (ReLU).
    train_points, test_points
        Number of examples, drawn once per seed.
    lr, weight_decay, batch
        Stochastic gradient descent on the hinge loss.
    epochs
        Passes over the training points in whole batches (1000 points in batches of 32 are 31
        steps); a row each.
    """

    bits: int = 40
    relevant: int = 3
    width: int = 1000
    train_points: int = 1000
    test_points: int = 1000
    lr: float = 0.1
    weight_decay: float = 0.01
    batch: int = 32
    epochs: int = 300


def train(seed: int, directory: str | os.PathLike[str], config: Config) -> None:
    """Train one network and log a row per epoch.

    Parameters
    ----------
    seed
        Seeds data, initial weights and batches.
    directory
        The run directory.
    config
        The setting.
    """
    generator = torch.Generator().manual_seed(seed)
    points = config.train_points + config.test_points
    inputs = torch.randint(0, 2, (points, config.bits), generator=generator).float() * 2 - 1
    labels = inputs[:, : config.relevant].prod(dim=1)
    model = _mlp(config, generator)
    optimizer = torch.optim.SGD(model.parameters(), config.lr, weight_decay=config.weight_decay)
    steps = config.train_points // config.batch
    with MetricHook(
        model, optimizer, directory, seed=seed, config=config.record(), every=steps
    ) as hook:
        hook.log(_evaluate(model, inputs, labels, config.train_points), epoch=0)
        for epoch in range(1, config.epochs + 1):
            order = torch.randperm(config.train_points, generator=generator)
            for batch in order[: steps * config.batch].split(config.batch):
                optimizer.zero_grad()
                _hinge(model(inputs[batch]).squeeze(1), labels[batch]).mean().backward()
                optimizer.step()
            hook.log(_evaluate(model, inputs, labels, config.train_points), epoch=epoch)


def _mlp(config: Config, generator: torch.Generator) -> nn.Sequential:
    """Return the network: Xavier weights, no bias at first."""
    # skip_init: a layer's own initialisation would draw from the global generator
    hidden = nn.utils.skip_init(nn.Linear, config.bits, config.width)
    output = nn.utils.skip_init(nn.Linear, config.width, 1)
    for layer in (hidden, output):
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(hidden, nn.ReLU(), output)


def _hinge(scores: Tensor, labels: Tensor) -> Tensor:
    return torch.relu(1 - labels * scores)


@torch.no_grad()
def _evaluate(
    model: nn.Module, inputs: Tensor, labels: Tensor, train_points: int
) -> dict[str, Tensor]:
    # in parts as small as a batch, for which memory is at hand
    scores = torch.cat([model(part).squeeze(1) for part in inputs.split(50)])
    measures = {"loss": _hinge(scores, labels), "acc": (scores * labels > 0).float()}
    return {
        f"{part}/{name}": values[rows].mean()
        for part, rows in (("train", slice(train_points)), ("test", slice(train_points, None)))
        for name, values in measures.items()
    }
