"""Time blocks of steps, one way of logging after another."""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.hook_overhead.loggers import EVERY, METRICS, Hooked, Logger, Nothing, PerTensor
from benchmarks.hook_overhead.trainings import Task, Training
from training import store


@dataclass(frozen=True)
class Clock:
    """Seconds by the clock, and seconds of the processor.

    Attributes
    ----------
    wall, processor
        Seconds since some moment, or between two of them.
    """

    wall: float
    processor: float

    @staticmethod
    def now() -> Clock:
        """Read both, when the device has caught up."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return Clock(time.perf_counter(), time.process_time())

    def since(self, start: Clock) -> Clock:
        """Seconds since an earlier reading."""
        return Clock(self.wall - start.wall, self.processor - start.processor)


def block(training: Training, logger: Logger, steps: int) -> Clock:
    """Time a block of steps, logged."""
    start = Clock.now()
    for _ in range(steps):
        logger.log(training.step())
    return Clock.now().since(start)


def timed(task: Task, device: str, rounds: int) -> tuple[dict[str, list[Clock]], dict[str, float]]:
    """Return the time of every block by way of logging, and what the hooks say of themselves.

    One model is trained on and on, and the ways of logging take turns at it: two models of the same
    kind differ by a percent from each other, by where they lie in memory. A block is timed from
    half-way between two rows to half-way between two others, so that it holds whole rows.
    """
    training = task.make(device)
    with tempfile.TemporaryDirectory() as folder:
        place = (Path(folder, str(number)) for number in itertools.count())
        ways: dict[str, Callable[..., Logger]] = {"without": Nothing}
        ways |= {name: partial(Hooked, training, metrics=METRICS[name]) for name in METRICS}
        ways["per tensor"] = partial(PerTensor, training)
        blocks: dict[str, list[Clock]] = {name: [] for name in ways}
        order = random.Random(0)
        for _ in range(rounds + 1):
            for name in order.sample(list(ways), len(ways)):
                training.steps = 0
                logger = ways[name]() if name == "without" else ways[name](directory=next(place))
                block(training, logger, EVERY // 2)
                blocks[name].append(block(training, logger, 2 * EVERY))
                logger.close()
        own = {}
        for name, metrics in METRICS.items():
            hooked = Hooked(training, metrics=metrics, directory=next(place))
            block(training, hooked, 2 * EVERY * max(rounds // 4, 1))
            hooked.close()
            own[name] = hooked.share()
    return {name: times[1:] for name, times in blocks.items()}, own  # the first steps allocate


def overhead(ratios: np.ndarray) -> tuple[float, float, float]:
    """Return the median of paired ratios less 1, and its 95 % interval by the bootstrap."""
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(ratios)) - 1, float(low) - 1, float(high) - 1


def waits_for_the_device(task: Task) -> bool:
    """Whether a step or a row on CUDA waits until the device has caught up."""
    with tempfile.TemporaryDirectory() as folder:
        training = task.make("cuda")
        logger = Hooked(training, Path(folder, "run"), METRICS["core"])
        block(training, logger, EVERY)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(2 * EVERY + 1):
                logger.log(training.step())
        finally:
            torch.cuda.set_sync_debug_mode("default")
        logger.close()
        end = store.read_end(Path(folder, "run"))
    assert end is not None
    return end["errors"] > 0  # which is where the hook leaves an error of its own
