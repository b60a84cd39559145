"""The trainings that are logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Transformer(nn.Module):
    """One layer of full attention and a perceptron, over three tokens; it predicts the last."""

    def __init__(self, vocabulary: int = 114, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(3, width) / width**0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)
        )
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of the next token."""
        hidden = self.tokens(inputs) + self.positions
        hidden = hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]
        hidden = hidden + self.perceptron(hidden)
        return self.head(hidden[:, -1])


class Block(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature maps."""
        return nn.functional.relu(self.convolutions(images) + self.shortcut(images))


def residual(width: int = 16, classes: int = 10) -> nn.Module:
    """Return a ResNet-18 for small images."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    before = width
    for stage in range(4):
        after = width * 2**stage
        layers += [Block(before, after, 2 if stage else 1), Block(after, after, 1)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class Training:
    """A model, its optimizer, and four batches that take turns."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        self.model, self.optimizer, self.batches, self.steps = model, optimizer, batches, 0

    def step(self) -> Tensor:
        """Take a step and return the loss."""
        inputs, labels = self.batches[self.steps % len(self.batches)]
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(inputs), labels)
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        return loss


def transformer(device: str, batch: int = 512) -> Training:
    torch.manual_seed(0)
    model = Transformer().to(device)
    batches = [
        (torch.randint(114, (batch, 3)).to(device), torch.randint(114, (batch,)).to(device))
        for _ in range(4)
    ]
    return Training(model, torch.optim.AdamW(model.parameters()), batches)


def network_of_convolutions(device: str, batch: int = 128) -> Training:
    torch.manual_seed(0)
    model = residual().to(device)
    batches = [
        (torch.randn(batch, 3, 32, 32).to(device), torch.randint(10, (batch,)).to(device))
        for _ in range(4)
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Training(model, optimizer, batches)


@dataclass(frozen=True)
class Task:
    """A training, the rounds to time it for, and the share of its time that logging may take."""

    name: str
    make: Callable[[str], Training]
    rounds: int
    limits: dict[str, float]


TASKS = (
    Task(
        "1-layer transformer, batch 512 × 3 tokens",
        transformer,
        rounds=60,
        limits={"core": 0.01, "spectral": 0.05},
    ),
    Task(
        "ResNet-18 of width 16, batch 128 × 32 × 32",
        network_of_convolutions,
        rounds=8,
        limits={"core": 0.005, "spectral": 0.05},
    ),
)
