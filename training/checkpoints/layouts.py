"""Which files below a folder are checkpoints, of which run and which step: by their names alone.

A checkpoint is a file (``step_1000.pt``), or a folder whose name says its step (``step1000/``,
``checkpoint-500/``, ``1000/``) and that holds one file of weights, whole or in shards. What is
called an optimizer, a scheduler and the like is not looked at.

A run is the folder that its checkpoints are in. Where their names tell members of a family apart
(``seed_3``, ``run-3``, ``trial3``, ``fold3``), each is a run. In the cache of the Hugging Face Hub
a model is a run whose revisions are the checkpoints (Pythia: ``step1000``), or a checkpoint itself
by its own name (MultiBERTs: ``multiberts-seed_0-step_20k``).
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from training.checkpoints.names import has_weights, is_copy, member_of, says_step, seed_of, step_of

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")

StepRule: TypeAlias = Mapping[str, int] | Callable[[Path], int | None]

_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})")


class Checkpoint(NamedTuple):
    """The state of a run after a step.

    Attributes
    ----------
    path
        The file, or the folder that it has to itself.
    files
        The files to read: one, or all shards.
    """

    path: Path
    files: tuple[Path, ...]


@dataclass
class Run:
    """The checkpoints of one run.

    Attributes
    ----------
    folder
        The folder that they are in, which other runs may share.
    seed
        The number after "seed" in the run's name.
    checkpoints
        By step, which increases.
    left_out
        Files that are not measured, and why.
    """

    folder: Path
    seed: int | None
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def found(folder: Path) -> dict[str, Path]:
    """Return the runs below a folder that have checkpoints, from the names of files.

    Parameters
    ----------
    folder
        Any folder. It is searched at all depths but for hidden folders.

    Returns
    -------
    dict
        The folder of every run by the run's name, which is that of `measure`: the path relative to
        `folder`, with ``/`` between parts, and where the names of checkpoints tell members of a
        family apart, the member (``"bert/seed_0"``). Several runs may share a folder. Empty where
        no checkpoint says its step; what `measure` would refuse is no reason for an error here.
    """
    return {name: run.folder for name, run in _runs(folder, None)[0].items()}


def runs_below(root: Path, steps: StepRule | None = None) -> dict[str, Run]:
    """Return the runs at or below a folder by name.

    Parameters
    ----------
    root
        The folder.
    steps
        The step of every checkpoint, in place of `training.checkpoints.names.step_of`: by its name
        or its path relative to the folder (all others are left out), or as a function of its path
        (None: left out).

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no checkpoint in it.
    NotADirectoryError
        If it is a file.
    ValueError
        If the step of a checkpoint cannot be told, two are of the same step, or `steps` names none.
    """
    if root.is_file():
        raise NotADirectoryError(f"{root} is a file: give the folder of the checkpoints")
    if not root.exists():
        raise FileNotFoundError(f"{root}: there is no such folder")
    runs, problems = _runs(root, steps)
    if problems:
        raise ValueError(problems[0])
    if not runs:
        which = " that steps= numbers" if steps is not None else ""
        raise FileNotFoundError(
            f"{root} holds no checkpoint{which}: those are files that end in {', '.join(SUFFIXES)}"
        )
    return runs


class _Candidate(NamedTuple):
    """What may be a checkpoint."""

    folder: Path  # of its run
    name: str  # which may say its step
    checkpoint: Checkpoint
    replaced: tuple[str, ...]  # files of the same weights in another format

    def keys(self, root: Path) -> tuple[str, ...]:
        """Return what a mapping of steps may call it."""
        path = self.checkpoint.path
        return path.relative_to(root).as_posix(), path.name, self.name


def _runs(root: Path, steps: StepRule | None) -> tuple[dict[str, Run], list[str]]:
    """Return the runs by name, and all that is wrong with their checkpoints."""
    candidates = list(_candidates(root, steps))
    runs: dict[str, Run] = {}
    unnumbered: list[tuple[_Candidate, str]] = []
    problems: list[str] = []
    # what is called the best or the last comes after those that it may be a copy of
    for candidate in sorted(candidates, key=lambda each: is_copy(each.name)):
        path = candidate.checkpoint.path
        try:
            step = _step(candidate, root, steps)
        except ValueError as error:
            unnumbered.append((candidate, str(error)))
            continue
        name = _run_name(root, candidate)
        run = runs.setdefault(name, Run(candidate.folder, seed_of(name)))
        if step is None:
            run.left_out.append(f"{path.name} (by steps=)")
            continue
        run.left_out += candidate.replaced
        other = run.checkpoints.setdefault(step, candidate.checkpoint)
        if other is candidate.checkpoint:
            continue
        if is_copy(candidate.name):
            run.left_out.append(f"{path.name} (of step {step}, as {other.path.name})")
        else:
            problems.append(
                f"{other.path} and {path} are both of step {step}: if they are of two runs, give "
                "each a folder, else say by steps= which one is meant"
            )
    runs = {name: _in_order(run) for name, run in runs.items() if run.checkpoints}
    owners = {run.folder: run for run in runs.values()}
    for candidate, why in unnumbered:
        path = candidate.checkpoint.path
        owner = owners.get(candidate.folder) or owners.get(candidate.folder.parent)
        if owner and (is_copy(candidate.name) or candidate.folder not in owners):
            owner.left_out.append(f"{path.relative_to(owner.folder).as_posix()} ({why})")
        elif owner or not runs:
            problems.append(
                f"{path}: {why}: rename it (step_1000{path.suffix}), or give the steps, as in "
                f"steps={{{path.relative_to(root).as_posix()!r}: 1000}} or a function of the path"
            )
    if isinstance(steps, Mapping):
        known = {key for candidate in candidates for key in candidate.keys(root)}
        problems += [
            f"steps= names {key!r}, and there is no such checkpoint below {root}"
            for key in steps
            if key not in known
        ]
    return runs, problems


def _in_order(run: Run) -> Run:
    checkpoints = dict(sorted(run.checkpoints.items()))
    return Run(run.folder, run.seed, checkpoints, list(dict.fromkeys(run.left_out)))


def _step(candidate: _Candidate, root: Path, steps: StepRule | None) -> int | None:
    if steps is None:
        return step_of(candidate.name)
    if isinstance(steps, Mapping):
        return next((steps[key] for key in candidate.keys(root) if key in steps), None)
    return steps(candidate.checkpoint.path)


def _candidates(root: Path, steps: StepRule | None) -> Iterator[_Candidate]:
    for place, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        folder = Path(place)
        weights = list(_weights(folder, names))
        if len(weights) == 1 and folder != root:
            ((stem, files, replaced),) = weights
            owner, name = _run_and_name(root, folder)
            whole = _Candidate(owner, name, Checkpoint(folder, files), replaced)
            if isinstance(steps, Mapping):
                listed = any(key in steps for key in whole.keys(root))
            else:
                # a function of the path is asked about all that Hugging Face may have saved
                listed = says_step(name) or (steps is not None and stem == "model")
            if listed:
                yield whole
                below.clear()
                continue
        for stem, files, replaced in weights:
            yield _Candidate(folder, stem, Checkpoint(files[0], files), replaced)


def _weights(
    folder: Path, names: list[str]
) -> Iterator[tuple[str, tuple[Path, ...], tuple[str, ...]]]:
    """Yield stem, files and replaced files of all that may hold weights in a folder."""
    formats: dict[str, dict[tuple[str, str, int], None]] = {}
    for name in sorted(names):
        whole, suffix = os.path.splitext(name)
        if suffix not in SUFFIXES or not has_weights(whole):
            continue
        shard = _SHARD.fullmatch(whole)
        stem, count = (shard[1], int(shard[2])) if shard else (whole, 0)
        same = "model" if stem == "pytorch_model" else stem
        formats.setdefault(same, {})[stem, suffix, count] = None
    for same, kinds in formats.items():
        preferred = [kind for kind in kinds if kind[1] == ".safetensors"][:1] or list(kinds)
        for stem, suffix, count in preferred:
            shards = [f"{stem}-{i + 1:05d}-of-{count:05d}{suffix}" for i in range(count)]
            files = tuple(folder / name for name in shards or [f"{stem}{suffix}"])
            others = [f"{kind[0]}{kind[1]}" for kind in kinds if kind not in preferred]
            yield same, files, tuple(f"{name} ({files[0].name} is taken)" for name in others)


def _run_and_name(root: Path, folder: Path) -> tuple[Path, str]:
    """Return the run's folder of a checkpoint that is a folder, and the name that says its step."""
    model = folder.parent.parent  # in the cache of the Hub
    if folder.parent.name == "snapshots" and model.is_relative_to(root):
        refs = [path for path in sorted((model / "refs").rglob("*")) if path.is_file()]
        revisions = [ref.name for ref in refs if ref.read_bytes().strip() == folder.name.encode()]
        if named := [name for name in revisions if says_step(name)]:
            return model, named[0]
        if revisions and model != root:
            return model.parent, model.name
    return folder.parent, folder.name


def _run_name(root: Path, candidate: _Candidate) -> str:
    parts = list(candidate.folder.relative_to(root).parts)
    if member := member_of(candidate.name):
        parts.append(member)
    return "/".join(parts) or root.resolve().name
