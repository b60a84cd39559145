"""Train in a new process for every line on stdin, for test_kill to kill.

A line is ``DIRECTORY START RESUME_STEP LAST``. The process that trains says its id, the number of
every step whose row is finished, and after the step LAST that it is done; then it waits. Without a
LAST it has no end. With one it saves its state every few steps, and RESUME_STEP names one of those.
Forking spares each of them the import of torch.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

import torch

from training import MetricHook

STEPS_TO_CHECKPOINT = 5


def train(directory: Path, start: int, resume_step: int | None, last: int | None) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    if last and resume_step:
        model_state, optimizer_state = torch.load(checkpoint(directory, resume_step))
        model.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)
    hook = MetricHook(model, optimizer, directory, every=1, resume_step=resume_step)
    while last is None or hook.step < last:
        for parameter in model.parameters():
            parameter.grad = torch.cos(hook.step + parameter.detach())
        optimizer.step()  # finishes the row before
        if hook.step > (resume_step or 0) + 1:
            say(hook.step - 1)
        hook.log(start=start, twice=2 * hook.step)
        if last and hook.step % STEPS_TO_CHECKPOINT == 0:
            save((model.state_dict(), optimizer.state_dict()), checkpoint(directory, hook.step))
    hook.close()


def checkpoint(directory: Path, step: int) -> Path:
    return directory / "checkpoints" / f"{step}.pt"


def save(state: object, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def say(word: object) -> None:
    os.write(1, f"{word}\n".encode())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # loads what a first row needs
        train(Path(folder, "run"), start=0, resume_step=None, last=1)
    say("ready")
    for line in sys.stdin:
        directory, *numbers = line.rstrip("\n").split("\t")
        start, resume_step, last = (int(number) if number else None for number in numbers)
        child = os.fork()
        if child == 0:
            say(os.getpid())
            train(Path(directory), start or 0, resume_step, last)
            say("done")
            signal.pause()
        os.waitpid(child, 0)
        say("dead")
