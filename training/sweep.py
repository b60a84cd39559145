"""Train an experiment for many seeds and settings, once each."""

import contextlib
import dataclasses
import importlib
import inspect
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import joblib
from tqdm import tqdm

from training.attempts import SCRATCH, Setting, train
from training.experiments import EXPERIMENTS
from training.experiments.config import ExperimentConfig


class SweepError(RuntimeError):
    """Runs of a sweep failed; the others have finished.

    Attributes
    ----------
    tracebacks : dict
        By the names of the runs.
    """

    def __init__(self, message: str, tracebacks: Mapping[str, str]) -> None:
        super().__init__(message)
        self.tracebacks = dict(tracebacks)


def sweep(
    experiment: str | Callable[..., object],
    *,
    seeds: int | Iterable[int],
    out: str | os.PathLike[str],
    grid: Mapping[str, Iterable[Any]] | None = None,
    jobs: int | None = None,
    small: bool = False,
    progress: bool = True,
    **options: Any,
) -> list[Path]:
    """Train an experiment for every seed, each into ``out/seed-<n>``, and every setting of a grid.

    A finished run with the same setting is reused; one that did not finish is trained again from
    the start. A run that fails keeps none of the others from being trained. A seed gives the same
    rows in any number of jobs and on any backend: every run computes on one thread.

    Runs train in ``out/.training``, where `training.store.read` shows them while they do, and get
    their names when they have finished. So a run that is there is whole, whatever happened to the
    processes that trained it, and two sweeps that train the same run lose nothing but time.

    Parameters
    ----------
    experiment
        One of `training.experiments.EXPERIMENTS`, or a function ``train(seed, directory,
        **options)`` that trains one network and logs it in the directory, which exists. Whether its
        code has changed since a run is not noticed.
    seeds
        The seeds, or n for 0 to n - 1.
    out
        Folder of the runs, on a disk that all workers share.
    grid
        Options with the values to try: every combination is trained for every seed, into
        ``out/<option>=<value>,<option>=<value>/seed-<n>`` (of the values, all but letters, digits
        and ``_.-~+`` is percent-encoded, as in a URL).
    jobs
        Number of processes; -1 for one per core. By default that of the active
        ``joblib.parallel_config``, whose backend (Dask and Ray have one) is used; without it, 1.
    small
        Whether to start from the quick setting, meant for tests.
    progress
        Whether to show a bar, and at the end what was trained and what reused.
    **options
        Fields of the experiment's ``Config`` to change, or arguments of the function. They are
        recorded as JSON.

    Returns
    -------
    list of Path
        The run directories, setting by setting in the order of the seeds.

    Raises
    ------
    SweepError
        If runs failed, when all others have finished. It names them and holds their tracebacks;
        what they had logged stays in ``out/.training`` until they have been trained.
    ValueError
        If the experiment, an option or the grid is no good, or a finished run has another setting.
    FileExistsError
        If a directory to train into holds something else than a run of this experiment.

    Examples
    --------
    >>> def train(seed, directory, lr=0.1):
    ...     model, optimizer, batches = prepare(seed, lr)
    ...     with MetricHook(model, optimizer, directory, seed=seed, config={"lr": lr}) as hook:
    ...         for batch in batches:
    ...             hook.log(train_loss=train_step(model, optimizer, batch))
    >>> sweep(train, seeds=1000, out="runs", grid={"lr": [0.01, 0.1]}, jobs=-1)
    """
    out = Path(out)
    numbers = list(range(seeds) if isinstance(seeds, int) else seeds)
    runs: dict[str, tuple[Setting, int]] = {}
    for folder, combination in _combinations(grid or {}, options).items():
        setting = _setting(experiment, small, options | combination)
        runs |= {f"{folder}seed-{seed}": (setting, seed) for seed in numbers}
    wanted = {name: run for name, run in runs.items() if not run[0].trained(out / name)}
    for name in wanted:
        if (out / name).exists():
            shutil.rmtree(out / name)
    call = uuid.uuid4().hex[:8]
    title = experiment if isinstance(experiment, str) else _name(experiment)
    with tqdm(desc=title, total=len(wanted), unit="run", disable=not progress) as bar:
        try:
            outcomes = _Parallel(bar, n_jobs=jobs, batch_size=1, pre_dispatch="all")(
                joblib.delayed(train)(setting, seed, out, name, call)
                for name, (setting, seed) in wanted.items()
            )
        except Exception as error:
            error.add_note("The runs that finished are kept: sweep again to train the others.")
            raise
    failed = {name: said for name, said in zip(wanted, outcomes, strict=True) if said}
    scratch = {out / SCRATCH, *((out / SCRATCH / name).parent for name in runs)}
    for empty in sorted(scratch, reverse=True):
        with contextlib.suppress(OSError):  # or not: attempts are left there
            empty.rmdir()
    if failed:
        raise _failure(title, failed, len(runs))
    if progress:
        tqdm.write(f"{title}: {len(wanted)} trained, {len(runs) - len(wanted)} reused, in {out}")
    return [out / name for name in runs]


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


class _Parallel(joblib.Parallel):
    """joblib's, with a bar: not every backend returns a generator that one could watch."""

    def __init__(self, bar: "tqdm[Any]", **settings: Any) -> None:
        super().__init__(**settings)
        self._bar = bar

    def print_progress(self) -> None:
        self._bar.update(self.n_completed_tasks - self._bar.n)


def _combinations(
    grid: Mapping[str, Iterable[Any]], options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the settings of a grid by their folders; without one, the only, in no folder."""
    lists: dict[str, list[Any]] = {}
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ValueError(f"grid: {name}={values!r} is no list of values")
        if name in options:
            raise ValueError(f"{name} is both in the grid and an option: give one of them")
        lists[name] = list(values)
        if not lists[name] or len(set(map(str, lists[name]))) < len(lists[name]):
            raise ValueError(f"grid: {name}={lists[name]} must be values, each once")
    found: dict[str, dict[str, Any]] = {}
    for values in product(*lists.values()):
        combination = dict(zip(lists, values, strict=True))
        parts = (f"{name}={quote(str(value), safe='+')}" for name, value in combination.items())
        found[f"{','.join(parts)}/" if grid else ""] = combination
    return found


def _setting(
    experiment: str | Callable[..., object], small: bool, options: dict[str, Any]
) -> Setting:
    if isinstance(experiment, str):
        config = configure(experiment, small=small, **options)
        function = partial(_module(experiment).train, config=config)
        return Setting(function, config.record(), type(config)().record(), own=False)
    name = _name(experiment)
    if small:
        raise ValueError(f"small=True is for {list(EXPERIMENTS)}: give {name} its options")
    signature = inspect.signature(experiment)
    try:
        signature.bind(0, Path(), **options)
    except TypeError as error:
        raise ValueError(f"{name}{signature} cannot train: {error}") from error
    defaults = {
        parameter.name: parameter.default
        for parameter in list(signature.parameters.values())[2:]
        if parameter.default is not parameter.empty
    }
    record = {"experiment": name} | defaults | options
    return Setting(partial(experiment, **options), record, defaults, own=True)


def _failure(title: str, failed: Mapping[str, str], total: int) -> SweepError:
    names = list(failed)
    listed = ", ".join(names if len(names) < 10 else [*names[:8], "...", names[-1]])
    return SweepError(
        f"{title}: {len(names)} of {total} runs failed: {listed}. The others have finished: sweep "
        f"again to train only these. The first says:\n\n{failed[names[0]]}",
        failed,
    )


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _module(experiment: str) -> Any:
    return importlib.import_module(f"training.experiments.{experiment}")
