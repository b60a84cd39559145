"""`MetricHook`: log a model's metrics from any training loop, through its optimizer."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, SupportsFloat

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from training.cadence import LogSpaced, cadence
from training.failures import Failures, Stopwatch, warn
from training.metrics import MetricChoice
from training.open_row import OpenRow, checked
from training.patterns import Patterns
from training.probe import Probe
from training.processes import rank, world
from training.steps import Steps
from training.store import RunWriter, read


class MetricHook:
    """Log metrics of a model from the optimizer that trains it, into a run directory.

    Row n holds the state after step n, and row 0 the initial state, whose gradients and update are
    missing. A step is a call of ``optimizer.step()`` that was not skipped (by a gradient scaler: an
    optimizer that is not fused is not even called then; a fused one is, and the next row tells in
    ``log/skipped`` how often). A row stays open, for `log` to add to, until the next step begins or
    the hook is closed; then it is written by a single ``write``, and no way to die can lose it.

    Gradients are measured as the optimizer used them: accumulated, unscaled, reduced over
    processes and clipped. The update is that of one step. Nothing is waited for: the numbers of a
    row are copied to the host while training goes on, and read when the row is closed. Nothing that
    fails in here ends the training: each kind of failure is warned about once, and all are counted
    (``errors`` in ``end.json``). A directory that cannot be written to is replaced by a temporary
    one, which the warning names.

    Make the hook after the model is wrapped (``DistributedDataParallel``, ``fully_shard``), and
    before a compiled model first runs if activations are measured. Where several processes train
    one model, every process makes one, and the first writes. They hold the whole model, or parts of
    all of its parameters; the stages of a pipeline are not supported.

    Parameters
    ----------
    model
        The model, wrapped or not.
    optimizer
        The optimizer, or a wrapper that holds it as ``.optimizer``; or several, the one that steps
        last in an iteration at the end: a step is a step of that one. The gradients and updates of
        each are measured at its own step.
    directory
        The run directory.
    seed, config
        Recorded, never acted on.
    every
        Steps from row to row.
    at
        The steps that get a row instead: a list, or `LogSpaced`.
    metrics
        ``"core"``, ``"spectral"``, ``"hu2023"``, or a list of names and functions (see
        `training.metrics`).
    include
        ``fnmatch`` patterns of parameters whose metrics are logged one by one too.
    activations
        ``fnmatch`` patterns of modules of whose outputs mean, root mean square and share of zeros
        are logged.
    resume_step
        The step whose state `model` was restored to. Rows after it are superseded; without it, a
        directory that holds a run already is an error.

    Raises
    ------
    FileExistsError
        If the directory holds a run and `resume_step` is None.
    ValueError
        If an argument is out of range or names something unknown, or if a resumed run began with
        other metrics or at another cadence.
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
        at: Iterable[int] | LogSpaced | None = None,
        metrics: MetricChoice = "core",
        include: Patterns | None = None,
        activations: Patterns | None = None,
        resume_step: int | None = None,
    ) -> None:
        if resume_step is not None and resume_step < 0:
            raise ValueError(f"resume_step={resume_step} must not be negative")
        optimizers = _optimizers(optimizer)
        self._last = optimizers[-1]
        self._only = optimizers[0] if len(optimizers) == 1 else None
        first, paced = resume_step or 0, cadence(every, at)
        self._steps = Steps(paced, first, self._write)
        self._watch = Stopwatch()
        self._failures = Failures(self._place)
        self._stepping = self._failures.guard("following a step")
        self._closed = False
        self._directory = Path(directory)
        self._handles: list[RemovableHandle] = []
        self._probe = Probe(model, metrics, include, activations, failures=self._failures)
        if not any(map(self._probe.holds, optimizers)):
            warn(
                "the optimizer holds no parameter of the model, so that gradients and updates are "
                "not logged: give the model whose parameters it was made with"
            )
        with contextlib.ExitStack() as refused:
            refused.callback(self._probe.close)
            reading = self._probe.measure()  # what cannot be measured must not leave a directory
            description = (
                {"seed": seed, "config": config, "cadence": paced.describe()}
                | self._probe.describe()
                | {"torch": torch.__version__, "processes": world()}
            )
            self._writer = self._open(description, resume_step) if rank() == 0 else None
            refused.pop_all()
        resumed = resume_step is not None and self._writer is not None
        stored = read(self._directory).rows["step"].tolist() if resumed else []
        if paced.due(first) and first not in stored:
            self._steps.row = OpenRow(first, reading=reading)
        # a compiled step calls the hooks, and must not be compiled with what they do; most do so
        # little that the way out of the compiler would cost more
        self._pass_by = torch.compiler.disable(self._steps.pass_by, recursive=False)
        self._begin = torch.compiler.disable(self._begin_step)
        self._end = torch.compiler.disable(self._end_step)
        before = torch.compiler.disable(self._before_step, recursive=False)
        after = torch.compiler.disable(self._after_step, recursive=False)
        for each in optimizers:
            self._handles.append(each.register_step_pre_hook(before))
            self._handles.append(each.register_step_post_hook(after))
        self._failures.harmless = True

    @property
    def step(self) -> int:
        """Number of completed optimizer steps."""
        self._steps.settle()
        return self._steps.latest

    @property
    def directory(self) -> Path:
        """Where the run is logged: a temporary directory if that asked for cannot be written."""
        return self._directory

    def log(
        self,
        mapping: Mapping[str, SupportsFloat] | None = None,
        *,
        force: bool = False,
        **values: SupportsFloat,
    ) -> None:
        """Add values to the row of the latest step; during a step (in a closure), of that one.

        Log once per step: a row stays open until the next step, and where gradients are accumulated
        it would take the loss of a batch that this one has not seen.

        A value that cannot be logged, because it is neither a number nor a 0-d tensor or has a name
        of the row's own (``step``, ``run``, or with a leading underscore), is left out with a
        warning that names it, as is all that is logged after the hook is closed.

        Parameters
        ----------
        mapping, **values
            Numbers or 0-d tensors by name; a tensor is copied while training goes on.
        force
            Make a row of a step that is not due, of the values and the weights' metrics.
            Without it such values are dropped. Of a sharded model, every process has to.
        """
        if self._steps.resting and not force and not self._closed:
            return
        with self._watch, self._failures.guard("hook.log"):
            if self._closed:
                raise RuntimeError("the hook is closed: log before it is")
            row = self._steps.receiving(force=force)
            if row is None:
                return
            if force and row.reading is None and row.stepped:
                with self._failures.guard("measuring"):
                    row.reading = self._probe.measure()
            accepted = {}
            for name, value in {**(mapping or {}), **values}.items():
                with self._failures.guard(f"hook.log({name!r})"):
                    accepted[name] = checked(name, value)
            row.add(accepted)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs for a later start to go on."""
        return {"step": self.step, "measures": self._probe.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the step of a checkpoint; rows logged after it are superseded.

        Parameters
        ----------
        state
            What `state_dict` returned when the restored model was saved.
        """
        self._probe.load_state_dict(state.get("measures", {}))
        if state["step"] != self.step:
            self._steps.go_back(state["step"])
            if self._writer is not None:
                with self._failures.guard("opening a segment"):
                    self._writer.resume(state["step"])

    def close(self, status: str = "finished") -> None:
        """Write the open row and ``end.json``, and let go of model and optimizer; once is enough.

        Parameters
        ----------
        status
            "finished", or "failed" as the context manager says after an exception.
        """
        if self._closed:
            return
        for handle in self._handles:
            handle.remove()
        self._probe.close()
        with self._watch, self._stepping:
            self._steps.settle()
            self._steps.finish()
        self._closed = True
        if self._writer is not None:
            with self._failures.guard("ending the run"):
                self._writer.close(
                    status=status,
                    last_step=self._steps.latest,
                    errors=self._failures.count,
                    **{"log/overhead": self._watch.share()},
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close("finished" if kind is None else "failed")

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)  # of a gradient scaler
        # nothing may log within the step then, no closure and nothing between two optimizers
        plain = optimizer is self._only and len(args) == 1 and not kwargs
        if not (plain and found_inf is None and self._steps.resting):
            self._begin(optimizer, found_inf)

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._steps.resting:
            self._pass_by()
        else:
            self._end(optimizer)

    def _begin_step(self, optimizer: torch.optim.Optimizer, found_inf: Tensor | None) -> None:
        with self._watch, self._stepping:
            if self._steps.begin(found_inf, last=optimizer is self._last).due:
                self._probe.before(optimizer)

    def _end_step(self, optimizer: torch.optim.Optimizer) -> None:
        with self._watch, self._stepping:
            row = self._steps.under_way
            if row is not None and row.due:
                with self._failures.guard("measuring"):
                    self._probe.after(optimizer)
                    if optimizer is self._last:
                        row.reading = self._probe.measure()
            if optimizer is self._last:
                self._steps.end()

    def _write(self, row: OpenRow) -> None:
        if self._writer is None:
            return
        record: dict[str, Any] = {"step": row.step}
        if row.reading is not None:
            with self._failures.guard("reading the metrics"):
                record |= self._probe.evaluate(row.reading)
        with self._failures.guard("reading what was logged"):
            record |= row.numbers()
        if row.skipped:
            record["log/skipped"] = row.skipped
        with self._failures.guard("writing"):
            self._writer.write(record)

    def _open(self, description: Mapping[str, Any], resume_step: int | None) -> RunWriter:
        try:
            return RunWriter(self._directory, description, resume_step=resume_step)
        except FileExistsError:
            raise
        except OSError as error:
            asked = self._directory
            self._directory = Path(tempfile.mkdtemp(prefix=f"{asked.name}-"))
            self._failures.count += 1
            warn(f"{asked} cannot be written to ({error}): logging to {self._directory} instead")
            return RunWriter(self._directory, description, resume_step=resume_step)

    def _place(self) -> str:
        return f"{self._directory}, after step {self._steps.latest}"


def _optimizers(given: Any) -> list[torch.optim.Optimizer]:
    """Return the optimizers, without what wraps them."""
    optimizers = []
    for each in given if isinstance(given, list | tuple) else [given]:
        inner = each
        while hasattr(inner, "optimizer"):
            inner = inner.optimizer
        if not isinstance(inner, torch.optim.Optimizer):
            raise TypeError(f"{each!r} is not a torch optimizer, nor a wrapper of one")
        optimizers.append(inner)
    if not optimizers:
        raise TypeError("optimizer=[]: give at least one")
    return optimizers
