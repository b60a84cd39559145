"""The ways of logging a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from torch import Tensor

from benchmarks.hook_overhead.trainings import Training
from training import MetricHook, store

EVERY = 10
"""Steps from row to row, the default of the hook, and steps of a block."""

METRICS = {"core": ["core"], "spectral": ["core", "spectral"], "hu2023": ["core", "hu2023"]}
"""What the hook is asked for."""


class Logger(Protocol):
    """A way of logging."""

    def log(self, loss: Tensor) -> None:
        """Log, after every step."""

    def close(self) -> None:
        """End the log."""


class Nothing:
    """Does not log."""

    def log(self, loss: Tensor) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Hooked:
    """Logs by the hook."""

    def __init__(self, training: Training, directory: Path, metrics: list[str]) -> None:
        self.hook = MetricHook(training.model, training.optimizer, directory, metrics=metrics)

    def log(self, loss: Tensor) -> None:
        """Log the loss; the hook sees to the rest."""
        self.hook.log({"train/loss": loss})

    def close(self) -> None:
        """End the run."""
        self.hook.close()

    def share(self) -> float:
        """The share of the time that the hook says it took, of a closed run without errors."""
        end = store.read_end(self.hook.directory)
        assert end is not None
        assert end["errors"] == 0
        return end["log/overhead"]


class PerTensor:
    """Logs norm, mean, spread and histogram of every tensor, each asked for by itself.

    This is how trackers watch a model.
    """

    def __init__(self, training: Training, directory: Path) -> None:
        directory.mkdir()
        self.training, self.file = training, (directory / "rows.jsonl").open("w")

    def log(self, loss: Tensor) -> None:
        """Log a row, at the pace of the hook."""
        if self.training.steps % EVERY:
            return
        row: dict[str, object] = {"train/loss": loss.item()}
        for name, parameter in self.training.model.named_parameters():
            for kind, tensor in (("weight", parameter.detach()), ("grad", parameter.grad)):
                assert tensor is not None
                statistics = tensor.norm().item(), tensor.mean().item(), tensor.std().item()
                row[f"{kind}/{name}"] = *statistics, tensor.histc(64).tolist()
        self.file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Close the file."""
        self.file.close()
