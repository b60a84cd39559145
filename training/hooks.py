"""`MetricHook`: log a model's metrics from any training loop, through its optimizer."""

import contextlib
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Self, SupportsFloat

import torch
from torch import Tensor

from training.metrics import MetricChoice
from training.probe import Probe, Reading, to_host
from training.store import RunWriter, read_rows

_RESERVED = re.compile(r"step|run|_.*")


@dataclass
class _Row:
    """A row that may still be added to."""

    step: int
    reading: Reading | None = None
    values: dict[str, int | float | Tensor] = field(default_factory=dict)


class MetricHook:
    """Log metrics of a model from the optimizer that trains it, into a run directory.

    Row n holds the state after step n, and row 0 the initial state, whose gradients and update are
    missing. A step is a call of ``optimizer.step()`` that was not skipped (a gradient scaler's
    ``found_inf``). A row stays open, for `log` to add to, until the next step begins or the hook is
    closed; then it is written by a single ``write``, and no way to die can lose it.

    Gradients are measured as the optimizer used them: accumulated, unscaled, reduced over
    processes and clipped. The update is that of one step. Nothing that fails in here reaches
    ``optimizer.step()``: it is counted (``errors`` in ``end.json``) and warned about once.

    Parameters
    ----------
    model
        The model, wrapped or not.
    optimizer
        The optimizer, or a wrapper that holds it as ``.optimizer``.
    directory
        The run directory.
    seed, config
        Recorded, never acted on.
    every
        Steps from row to row.
    metrics
        ``"core"`` (see `training.metrics.CORE`), or a list of names and functions of the model.
    include
        ``fnmatch`` patterns of parameters whose statistics are logged one by one too.
    resume_step
        The step whose state `model` was restored to. Rows after it are superseded; without it, a
        directory that holds a run already is an error.

    Raises
    ------
    FileExistsError
        If the directory holds a run and `resume_step` is None.
    ValueError
        If an argument is out of range or names something unknown, or if a resumed run began with
        other metrics or another `every`.
    TypeError
        If `optimizer` neither is nor holds a torch optimizer.

    Examples
    --------
    >>> with MetricHook(model, optimizer, "runs/seed-0", seed=0, every=10) as hook:
    ...     for batch in loader:
    ...         loss = train_step(batch)  # calls optimizer.step()
    ...         hook.log(train_loss=loss)
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: Any,
        directory: str | os.PathLike[str],
        *,
        seed: int | None = None,
        config: Mapping[str, Any] | None = None,
        every: int = 10,
        metrics: MetricChoice = "core",
        include: str | Sequence[str] | None = None,
        resume_step: int | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every={every}: rows must be at least one step apart")
        if resume_step is not None and resume_step < 0:
            raise ValueError(f"resume_step={resume_step} must not be negative")
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"{optimizer!r} is not a torch optimizer, nor a wrapper of one")
        self._every = every
        self._step = resume_step or 0
        self._probe = Probe(model, metrics, include)
        reading = self._probe.measure()  # what cannot be measured must not leave a directory
        self._writer = RunWriter(
            directory,
            {"seed": seed, "config": config, "every": every}
            | self._probe.describe()
            | {"torch": torch.__version__},
            resume_step=resume_step,
        )
        stored = {row["step"] for row in read_rows(self._writer.directory)}
        self._errors = 0
        self._seconds = 0.0
        self._started = time.perf_counter()
        self._closed = self._stepping = self._skipping = False
        self._before: dict[int, Tensor] | None = None
        self._row: _Row | None = None
        if self._step % every == 0 and self._step not in stored:
            self._row = _Row(self._step, reading)
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    @property
    def step(self) -> int:
        """Number of completed optimizer steps."""
        return self._step

    def log(
        self,
        mapping: Mapping[str, SupportsFloat] | None = None,
        *,
        force: bool = False,
        **values: SupportsFloat,
    ) -> None:
        """Add values to the row of the latest step; during a step (in a closure), of that one.

        Parameters
        ----------
        mapping, **values
            Numbers or 0-d tensors by name; a tensor is copied on its device and read only when the
            row is closed.
        force
            Make a row of a step that is not due, of the values and the weights' statistics.
            Without it such values are dropped.

        Raises
        ------
        TypeError
            If a value is neither a number nor a 0-d tensor.
        ValueError
            If a name is one of the row's own (``step``, ``run``, or with a leading underscore).
        RuntimeError
            If the hook is closed.
        """
        if self._closed:
            raise RuntimeError("the hook is closed: log before it is, or inside its `with`")
        named = {**(mapping or {}), **values}
        for name, value in named.items():
            _check(name, value)
        with self._timed():
            row = self._row
            if row is None and force:
                row = self._row = _Row(self._step + self._stepping)
                if not self._stepping:
                    with self._guarded():
                        row.reading = self._probe.measure()
            if row is not None:
                row.values |= {name: _kept(value) for name, value in named.items()}

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint needs for a later start to go on: the step."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from the step of a checkpoint; rows logged after it are superseded.

        Parameters
        ----------
        state
            What `state_dict` returned when the restored model was saved.
        """
        if state["step"] != self._step:
            self._row = None
            self._step = state["step"]
            self._writer.resume(self._step)

    def close(self, status: str = "finished") -> None:
        """Write the open row and ``end.json``, and let go of the optimizer; once is enough.

        Parameters
        ----------
        status
            "finished", or "failed" as the context manager says after an exception.
        """
        if self._closed:
            return
        self._closed = True
        for handle in self._handles:
            handle.remove()
        with self._timed(), self._guarded():
            self._finish_row()
        share = self._seconds / (time.perf_counter() - self._started)
        with self._guarded():
            self._writer.close(
                status=status,
                last_step=self._step,
                errors=self._errors,
                **{"log/overhead": share},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close("finished" if kind is None else "failed")

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        with self._timed():
            self._skipping = False
            with self._guarded():
                self._skipping = _skips(optimizer)
            if self._skipping:
                return
            with self._guarded():
                self._finish_row()
            self._stepping = True
            if (self._step + 1) % self._every == 0:
                self._row = _Row(self._step + 1)
                with self._guarded():
                    self._before = self._probe.snapshot()

    def _after_step(self, *_: Any) -> None:
        if self._skipping:
            return
        self._step += 1
        self._stepping = False
        if self._row is None:
            return
        with self._timed(), self._guarded():
            before, self._before = self._before, None
            self._row.reading = self._probe.measure(gradients=True, before=before)

    def _finish_row(self) -> None:
        """Write the open row, unless it is that of a step which never ended."""
        row, self._row = self._row, None
        if row is None or self._stepping:
            return
        measured = row.reading.scalars if row.reading else []
        waiting = {name: value for name, value in row.values.items() if isinstance(value, Tensor)}
        numbers = to_host([*measured, *waiting.values()])
        record: dict[str, Any] = {"step": row.step}
        if row.reading:
            record |= self._probe.evaluate(row.reading, numbers[: len(measured)])
        record |= row.values
        record |= zip(waiting, numbers[len(measured) :], strict=True)
        self._writer.write(record)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - start

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Count an error, and warn of the first, instead of stopping the training."""
        try:
            yield
        except Exception as error:
            self._errors += 1
            if self._errors == 1:
                message = f"logging to {self._writer.directory} failed, and goes on: {error!r}"
                with contextlib.suppress(UserWarning):  # where warnings are turned into errors
                    warnings.warn(message, stacklevel=2)


def _skips(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a gradient scaler has told a fused optimizer to leave the weights as they are."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and float(found_inf) == 1.0


def _check(name: str, value: Any) -> None:
    if _RESERVED.fullmatch(name):
        raise ValueError(f"{name!r} is a name of the run store: choose another")
    if not isinstance(value, Real) and not (isinstance(value, Tensor) and value.dim() == 0):
        raise TypeError(f"{name}={value!r} is neither a number nor a 0-d tensor: reduce it first")


def _kept(value: Any) -> int | float | Tensor:
    if isinstance(value, Tensor):
        return value.detach().clone()  # a running total changes before it is read
    return int(value) if isinstance(value, Integral) else float(value)
