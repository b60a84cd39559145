"""Train an experiment for many seeds, once each."""

import contextlib
import dataclasses
import importlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm import tqdm

from training.experiments import EXPERIMENTS
from training.experiments.config import ExperimentConfig
from training.store import read_end, read_run
from training.store.layout import RUN_FILE


def sweep(
    experiment: str,
    *,
    seeds: int | Iterable[int],
    out: str | os.PathLike[str],
    jobs: int = 1,
    small: bool = False,
    progress: bool = True,
    **options: Any,
) -> list[Path]:
    """Train an experiment for every seed, each into ``out/seed-<n>``.

    A finished run with the same setting is reused; one that did not finish is trained again from
    the start. A seed gives the same rows in any number of jobs: every run computes on one thread.

    Parameters
    ----------
    experiment
        One of `training.experiments.EXPERIMENTS`.
    seeds
        The seeds, or n for 0 to n - 1.
    out
        Folder of the runs. No other sweep may be training the same seeds there.
    jobs
        Number of processes; -1 for one per core.
    small
        Whether to start from the quick setting, meant for tests.
    progress
        Whether to show a bar, and at the end what was trained and what reused.
    **options
        Fields of the experiment's ``Config`` to change.

    Returns
    -------
    list of Path
        The run directories, in the order of the seeds.

    Raises
    ------
    ValueError
        If the experiment or an option is not known, or a finished run has another setting.
    FileExistsError
        If a directory to train into holds something else than a run of this experiment.
    """
    config = configure(experiment, small=small, **options)
    runs = {
        seed: Path(out) / f"seed-{seed}"
        for seed in (range(seeds) if isinstance(seeds, int) else seeds)
    }
    wanted = {seed: path for seed, path in runs.items() if not _reusable(path, config)}
    for path in wanted.values():
        if path.exists():
            shutil.rmtree(path)
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    done = parallel(joblib.delayed(_train)(seed, path, config) for seed, path in wanted.items())
    for _ in tqdm(done, experiment, total=len(wanted), unit="run", disable=not progress):
        pass
    if progress:
        reused = len(runs) - len(wanted)
        tqdm.write(f"{experiment}: {len(wanted)} trained, {reused} reused, in {out}")
    return list(runs.values())


def configure(experiment: str, *, small: bool = False, **options: Any) -> ExperimentConfig:
    """Return the setting of an experiment.

    Parameters
    ----------
    experiment
        One of `training.experiments.EXPERIMENTS`.
    small
        Whether to start from the quick setting.
    **options
        Fields to change.

    Raises
    ------
    ValueError
        If the experiment or an option is not known.
    """
    if experiment not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {experiment!r}: there are {list(EXPERIMENTS)}")
    kind = _module(experiment).Config
    config: ExperimentConfig = kind.small() if small else kind()
    fields = [field.name for field in dataclasses.fields(config)]
    if unknown := options.keys() - fields:
        raise ValueError(f"{experiment} has no option {sorted(unknown)}: it has {fields}")
    return dataclasses.replace(config, **options)


def _train(seed: int, path: Path, config: ExperimentConfig) -> None:
    with _one_thread():
        _module(config.experiment).train(seed, path, config)


def _module(experiment: str) -> Any:
    return importlib.import_module(f"training.experiments.{experiment}")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _reusable(path: Path, config: ExperimentConfig) -> bool:
    """Whether a directory holds a finished run of this setting; False if it may be replaced."""
    if not path.exists():
        return False
    setting = json.loads(json.dumps(config.record()))
    recorded = (read_run(path).get("config") or {}) if (path / RUN_FILE).exists() else {}
    if recorded.get("experiment") != config.experiment:
        raise FileExistsError(
            f"{path} holds no run of {config.experiment}: choose another out, or remove it yourself"
        )
    if (read_end(path) or {}).get("status") != "finished":
        return False
    recorded = {**type(config)().record(), **recorded}  # older runs lack newer options
    if recorded != setting:
        changed = {
            key: (recorded.get(key), setting.get(key))
            for key in recorded.keys() | setting.keys()
            if recorded.get(key) != setting.get(key)
        }
        raise ValueError(
            f"{path} was trained with another setting ({changed}, there and asked for): choose "
            "another out, or remove the run"
        )
    return True
