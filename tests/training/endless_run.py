"""Train without end, in a new process for every line on stdin, for test_kill to kill.

A line is ``DIRECTORY START RESUME_STEP``. The process that trains says its id, and then the number
of every step whose row is finished. Forking spares each of them the import of torch.
"""

import os
import sys

import torch

from training import MetricHook


def train(directory: str, start: int, resume_step: int | None) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    hook = MetricHook(model, optimizer, directory, every=1, resume_step=resume_step)
    while True:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()  # finishes the row before
        if hook.step > (resume_step or 0) + 1:
            say(hook.step - 1)
        hook.log(start=start, twice=2 * hook.step)


def say(word: object) -> None:
    os.write(1, f"{word}\n".encode())


torch.optim.SGD([torch.zeros(1)], lr=1.0).step()  # imports what a first step imports
say("ready")
for line in sys.stdin:
    directory, start, resume_step = line.split("\t")
    child = os.fork()
    if child == 0:
        say(os.getpid())
        train(directory, int(start), int(resume_step) if resume_step.strip() else None)
    os.waitpid(child, 0)
    say("dead")
