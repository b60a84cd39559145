"""Handwritten digits: a control, in which nothing happens after the first descent.

A small MLP classifies 8x8 images (Alpaydin and Kaynak 1998, shipped with scikit-learn). It gets
nine in ten right by step 300, and what is left of its initial weights shrinks like
exp(-lr * weight_decay * step), to e^-9 in the first tenth of training. From then on training is
stationary: noise about a balance of loss and weight decay. Without weight decay this would be no
control: the loss would go on towards zero, and the noise of every metric with it.
"""

import os
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.experiments.config import ExperimentConfig
from training.hooks import MetricHook


@dataclass(frozen=True)
class Config(ExperimentConfig):
    """The setting of the digits.

    Attributes
    ----------
    train_fraction
        Share of the 1797 images that is trained on, drawn once per seed; the rest are test images.
    width
        Number of hidden units (ReLU).
    lr, weight_decay, batch
        Stochastic gradient descent on the cross-entropy, with batches drawn with replacement. The
        rate is constant.
    steps, every
        Steps to train, and from row to row.
    """

    train_fraction: float = 0.8
    width: int = 100
    lr: float = 0.3
    weight_decay: float = 0.03
    batch: int = 32
    steps: int = 10000
    every: int = 50

    @classmethod
    def small(cls) -> Self:
        """Return a setting of half the length, with as many rows: its tenth ends at e^-4.5."""
        return cls(steps=5000, every=25)


def train(seed: int, directory: str | os.PathLike[str], config: Config) -> None:
    """Train one network and log its run.

    Parameters
    ----------
    seed
        Seeds the split of the images, the initial weights and the batches.
    directory
        The run directory.
    config
        The setting.

    Raises
    ------
    ImportError
        If scikit-learn, which the images come with, is not installed.
    """
    generator = torch.Generator().manual_seed(seed)
    images, labels = _images()
    order = torch.randperm(len(images), generator=generator)
    train_rows, test_rows = order.tensor_split([round(config.train_fraction * len(images))])
    evaluated = {"train": train_rows, "test": test_rows}
    model = _mlp(images.shape[1], config.width, generator)
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, weight_decay=config.weight_decay, fused=True
    )
    with MetricHook(
        model, optimizer, directory, seed=seed, config=config.record(), every=config.every
    ) as hook:
        hook.log(_evaluate(model, images, labels, evaluated), epoch=0.0)
        for step in range(1, config.steps + 1):
            drawn = torch.randint(len(train_rows), (config.batch,), generator=generator)
            batch = train_rows[drawn]
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            if step % config.every == 0:
                epoch = step * config.batch / len(train_rows)
                hook.log(_evaluate(model, images, labels, evaluated), epoch=epoch)


def _images() -> tuple[Tensor, Tensor]:
    """Return the images, (1797, 64) in [0, 1], and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn: pip install 'bayeshmm[experiments]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)


def _mlp(inputs: int, width: int, generator: torch.Generator) -> nn.Sequential:
    """Return the network: Xavier weights, no bias at first."""
    # skip_init: a layer's own initialisation would draw from the global generator
    hidden = nn.utils.skip_init(nn.Linear, inputs, width)
    output = nn.utils.skip_init(nn.Linear, width, 10)
    for layer in (hidden, output):
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(hidden, nn.ReLU(), output)


@torch.no_grad()
def _evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, evaluated: dict[str, Tensor]
) -> dict[str, Tensor]:
    measures = {}
    for part, rows in evaluated.items():
        scores = model(images[rows])
        measures[f"{part}/loss"] = cross_entropy(scores, labels[rows])
        measures[f"{part}/acc"] = (scores.argmax(dim=1) == labels[rows]).float().mean()
    return measures
