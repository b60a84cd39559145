"""What logging costs a training: blocks of steps with and without the hook, in turn.

``python -m benchmarks.hook_overhead [--quick] [--threads 1] [--out benchmarks/hook_overhead.md]``.
One model is trained on, and the ways of logging take turns at it: every round times one block of
steps of each, in random order, and a way's overhead is the median over rounds of the ratio of its
block to that without logging. With one thread on a CPU the ratio is one of the
processor's time, which other processes disturb less than the clock's. Beside it stands what the
hook says of itself. On CUDA one more run makes sure that neither steps nor rows wait for the
device.

===========  ========================================================
`trainings`  what is trained, and what logging it may cost
`loggers`    ways of logging: by the hook, and tensor by tensor
`timing`     blocks of steps, and whether any waits for the device
===========  ========================================================
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.hook_overhead.loggers import EVERY
from benchmarks.hook_overhead.timing import overhead, timed, waits_for_the_device
from benchmarks.hook_overhead.trainings import TASKS
from benchmarks.speed.machine import machine, versions


def report(device: str, quick: bool) -> tuple[str, bool]:
    """The table, and whether all targets were reached."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    lines = [
        "# What the metric hook costs",
        "",
        f"`python -m benchmarks.hook_overhead` repeats this. A row every {EVERY} steps, blocks of "
        f"{2 * EVERY} steps; {torch.get_num_threads()} thread(s), {device}; {machine()}.",
        f"{versions()}.",
        "",
        f"Overhead: median over rounds of paired blocks by {'processor' if alone else 'wall'} "
        'time, with a 95 % interval by the bootstrap. "By the hook" is what it says of itself, by '
        'wall time. "Per tensor" asks for norm, mean, spread and histogram of every tensor one by '
        "one, as trackers do that watch a model. A target is reached if what the hook says of "
        "itself is within it, and the interval does not lie above it.",
        "",
        "| training | step, ms | logged | overhead, % | interval | by the hook, % | target, % |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    held = True
    for task in TASKS:
        blocks, own = timed(task, device, 2 if quick else task.rounds)
        seconds = {
            name: np.array([time.processor if alone else time.wall for time in times])
            for name, times in blocks.items()
        }
        plain = seconds.pop("without")
        for name, times in seconds.items():
            found, low, high = overhead(times / plain)
            itself = f"{100 * own[name]:.2f}" if name in own else ""
            limit = task.limits.get(name)
            if limit is not None:
                held &= own[name] <= limit and low <= limit
            lines.append(
                f"| {task.name} | {1e3 * np.median(plain) / (2 * EVERY):.1f} | {name} "
                f"| {100 * found:.2f} | {100 * low:.2f} to {100 * high:.2f} | {itself} "
                f"| {'' if limit is None else f'{100 * limit:g}'} |"
            )
            print(lines[-1], flush=True)
    if device == "cuda":
        waiting = [task.name for task in TASKS if waits_for_the_device(task)]
        held &= not waiting
        lines += ["", f"Waits for the device: {', '.join(waiting) or 'none'}."]
        print(lines[-1], flush=True)
    return "\n".join([*lines, ""]), held


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: see `benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hook_overhead")
    parser.add_argument("--quick", action="store_true", help="two rounds, to see that it runs")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    chosen = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(chosen.threads)
    try:
        text, held = report("cuda" if torch.cuda.is_available() else "cpu", chosen.quick)
    finally:
        torch.set_num_threads(threads)
    if chosen.out is not None:
        chosen.out.write_text(text, "utf-8")
    return int(not held)
