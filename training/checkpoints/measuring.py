"""Measure the checkpoints of runs, once each, by what measures a model that is training."""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from training.checkpoints.layouts import Checkpoint, Run, StepRule, runs_below
from training.checkpoints.models import LoadModel, model_of
from training.failures import Failures
from training.metrics import MetricChoice
from training.metrics.custom import measure_of
from training.parameters import bare
from training.patterns import Patterns
from training.probe import Probe
from training.store import RunWriter, StoredRuns, read, read_end, read_run
from training.store.layout import RUN_FILE


def measure(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    metrics: MetricChoice = "core",
    include: Patterns | None = None,
    model: nn.Module | LoadModel | None = None,
    steps: StepRule | None = None,
    progress: bool = True,
) -> StoredRuns:
    """Measure all checkpoints of the runs at or below a folder, as `MetricHook` would have.

    A row holds what the hook logs of the weights at that step. What it logs of gradients and of the
    update of a step is missing: a checkpoint does not tell them. Files are read without executing
    anything in them (`training.checkpoints.reading`); which are checkpoints, of which run and step,
    is told by their names (`training.checkpoints.layouts`).

    Without `model`, parameters are known by the names and shapes in the files alone
    (`training.checkpoints.models`). "core" and "spectral" are the same then, unless a buffer of
    an unusual name is taken for a parameter; "hu2023" takes attention heads together, and needs
    layers that are numbered. A metric of one's own gets a model that cannot be called.

    Parameters
    ----------
    path
        A folder of checkpoints, or of folders of them.
    out
        The folder to log to, as run directories, which may be read at any time. A checkpoint whose
        step is there already is not read again, whatever it holds now, and one that is gone keeps
        its row. None: all are measured, and nothing is kept.
    metrics, include
        As for `MetricHook`.
    model
        A model that the checkpoints fit, which ends up with the state of the last one; or a
        function that returns one for the path of a checkpoint, as ``AutoModel.from_pretrained``
        does, which reads the files in its own way.
    steps
        The step of every checkpoint where names do not say it: by its name, with suffix, or its
        path relative to the folder (all others are left out), or as a function of its path (None:
        left out).
    progress
        Whether to show a bar, and what was left out.

    Returns
    -------
    StoredRuns
        As `training.store.read` gives it; with `out`, of all runs there. ``config.checkpoints`` of
        a run is the name of `path`, and ``config.left_out`` says what there is besides (a list, as
        JSON text).

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder or no checkpoint, or a shard is missing.
    FileExistsError
        If a directory to log to holds something else than a run of these checkpoints.
    ValueError
        If the step of a file cannot be told, two are of the same step, one cannot be read or does
        not fit the others (the message names it), or runs were logged in another setting.
    """
    if out is None:
        with TemporaryDirectory() as scratch:
            return measure(
                path,
                scratch,
                metrics=metrics,
                include=include,
                model=model,
                steps=steps,
                progress=progress,
            )
    root = Path(path)
    listed = [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics)
    setting = {
        "checkpoints": root.resolve().name,
        "metrics": [item if isinstance(item, str) else measure_of(item)[0] for item in listed],
        "include": [include] if isinstance(include, str) else list(include or []),
        "model": _name(model),
    }
    plans = {
        name: _plan(run, Path(out) / name, setting) for name, run in runs_below(root, steps).items()
    }
    total = sum(len(plan.todo) for plan in plans.values())
    left_out: dict[str, list[str]] = {}
    with tqdm(total=total, desc="measuring", unit="checkpoint", disable=not progress) as bar:
        for name, plan in plans.items():
            if plan.todo:
                what = ", ".join(_measure(plan, setting, metrics, include, model, bar))
                left_out.setdefault(what, []).append(name)
    for what, (name, *others) in left_out.items():
        if what and progress:
            runs = f"{name} and {len(others)} more" if others else name
            tqdm.write(f"{runs}: left out {what}")
    return read(out)


class _Plan(NamedTuple):
    """What remains to be measured of a run."""

    run: Run
    directory: Path
    todo: dict[int, Checkpoint]
    resume_step: int | None


def _plan(run: Run, directory: Path, setting: Mapping[str, Any]) -> _Plan:
    if not (directory / RUN_FILE).exists():
        return _Plan(run, directory, run.checkpoints, None)
    recorded = read_run(directory).get("config") or {}
    if recorded.get("checkpoints") != setting["checkpoints"]:
        raise FileExistsError(
            f"{directory} holds another run than that of the checkpoints in {run.folder}: choose "
            "another out"
        )
    for key, value in setting.items():
        if recorded.get(key) != value:
            raise ValueError(
                f"{directory} was measured with {key}={recorded.get(key)!r}, not {value!r}: choose "
                "another out, or remove it"
            )
    stored = sorted(read(directory).rows["step"].tolist())
    missing = run.checkpoints.keys() - stored
    if not missing and (read_end(directory) or {}).get("status") != "finished":
        missing = run.checkpoints.keys() & stored[-1:]  # it was killed before it wrote the end
    if not missing:
        return _Plan(run, directory, {}, None)
    first = min(missing)
    # a row cannot be put between others: those after it are measured again
    if gone := [step for step in stored if step > first and step not in run.checkpoints]:
        raise ValueError(
            f"{run.checkpoints[first].path} comes before step {gone[0]}, which was measured into "
            f"{directory} and is gone since: choose another out"
        )
    todo = {step: each for step, each in run.checkpoints.items() if step >= first}
    return _Plan(run, directory, todo, max((step for step in stored if step < first), default=-1))


def _measure(
    plan: _Plan,
    setting: Mapping[str, Any],
    metrics: MetricChoice,
    include: Patterns | None,
    model: nn.Module | LoadModel | None,
    bar: tqdm,
) -> list[str]:
    """Measure what remains of a run, and return what was left out."""
    first = next(iter(plan.todo.values()))
    held = model_of(model, first)
    left_out = list(plan.run.left_out)
    if held.left_out:
        left_out.append(f"{', '.join(held.left_out)} (in {first.path.name})")
    probe = Probe(held.module, metrics, include, failures=Failures(lambda: str(plan.directory)))
    description = {
        "seed": plan.run.seed,
        "config": {**setting, "left_out": left_out},
        "cadence": None,
        **probe.describe(),
        "torch": torch.__version__,
    }
    if plan.resume_step is not None:
        _check_same_model(plan.directory, description, first.path)
    writer = RunWriter(plan.directory, description, resume_step=plan.resume_step)
    status = "failed"
    try:
        for step, checkpoint in plan.todo.items():
            if checkpoint is not first:
                held.load(checkpoint)
            # a row depends on its checkpoint alone, wherever measuring began
            probe.load_state_dict({measure: {} for measure in probe.state_dict()})
            try:
                row = probe.evaluate(probe.measure())
            except Exception as error:
                error.add_note(f"while measuring {checkpoint.path}")
                raise
            writer.write({"step": step, **row})
            bar.update()
        status = "finished"
    finally:
        writer.close(status=status, errors=0)
    return left_out


def _name(model: nn.Module | LoadModel | None) -> str | None:
    if isinstance(model, nn.Module):
        return type(bare(model)).__name__
    return None if model is None else getattr(model, "__qualname__", type(model).__name__)


def _check_same_model(directory: Path, description: Mapping[str, Any], source: Path) -> None:
    recorded = read_run(directory)
    for key in ("parameters", "tied"):
        if recorded.get(key) != description[key]:
            raise ValueError(
                f"{source} has other {key} than what was measured into {directory} before: choose "
                "another out"
            )
