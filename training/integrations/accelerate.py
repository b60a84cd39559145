"""`MetricTracker`: log a training loop with Accelerate."""

import os
from collections.abc import Mapping
from typing import Any, SupportsFloat, Unpack

import torch

from training.hooks import MetricHook
from training.integrations.deferred import DeferredHook, HookOptions

try:
    from accelerate.tracking import GeneralTracker
except ImportError as error:
    raise ImportError(
        "training.integrations.accelerate needs Accelerate: pip install 'bayeshmm[huggingface]'"
    ) from error


class MetricTracker(GeneralTracker):
    """Log a training loop with Accelerate by `MetricHook`.

    The tracker cannot know what the loop trains: `attach` it to the prepared model and optimizer,
    in every process, after ``accelerator.init_trackers`` (whose ``config`` is recorded) and, if
    there is a checkpoint to go on from, after ``accelerator.load_state``.
    ``accelerator.register_for_checkpointing(tracker)`` makes its state part of the checkpoints, so
    that a restarted script goes on with the run in the same directory, and rows after the
    checkpoint are superseded. ``accelerator.end_training()`` closes the run.

    What ``accelerator.log`` is given is added to the row of the latest optimizer step, whatever
    ``step`` says, and dropped if that gets no row; an evaluation is given a row in any case by
    ``accelerator.log(values, log_kwargs={"metrics": {"force": True}})``. Accelerate logs from the
    main process only, and a row of a sharded model needs every process: force it by
    ``tracker.log(values, force=True)`` in each.

    Parameters
    ----------
    directory
        The run directory.
    **options
        Keyword arguments of `MetricHook`: ``seed``, ``config``, ``every``, ``at``, ``metrics``,
        ``include``, ``activations``.

    Examples
    --------
    >>> tracker = MetricTracker("runs/seed-0", seed=0, every=10)
    >>> accelerator = Accelerator(log_with=tracker)
    >>> model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    >>> accelerator.init_trackers("parity", config=vars(args))
    >>> accelerator.register_for_checkpointing(tracker)
    >>> tracker.attach(model, optimizer)
    """

    name = "metrics"
    requires_logging_directory = False

    def __init__(self, directory: str | os.PathLike[str], **options: Unpack[HookOptions]) -> None:
        super().__init__()
        self._run = DeferredHook(directory, options)

    @property
    def tracker(self) -> MetricHook | None:
        """The hook, while it is attached."""
        return self._run.hook

    def attach(self, model: torch.nn.Module, optimizer: Any) -> None:
        """Begin to log, or go on from the checkpoint that was loaded.

        Parameters
        ----------
        model, optimizer
            As ``accelerator.prepare`` returned them; or several optimizers, the one that steps last
            at the end.

        Raises
        ------
        FileExistsError
            If the directory holds a run and no checkpoint was loaded.
        ValueError, TypeError
            As `MetricHook` does.
        """
        self._run.attach(model, optimizer, self._run.state_dict())

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Add to the configuration that is recorded; ``accelerator.init_trackers`` calls it.

        Parameters
        ----------
        values
            What to record by name.

        Raises
        ------
        RuntimeError
            If the tracker is attached: the record has been written.
        """
        if self.tracker is not None:
            raise RuntimeError("the configuration is recorded already: init_trackers, then attach")
        self._run.options["config"] = {**(self._run.options.get("config") or {}), **values}

    def log(
        self, values: Mapping[str, SupportsFloat], step: int | None = None, *, force: bool = False
    ) -> None:
        """Add values to the row of the latest optimizer step.

        Parameters
        ----------
        values, force
            As for `MetricHook.log`.
        step
            Not used: the hook counts the steps of the optimizer.
        """
        self._run.log(values, force=force)

    def finish(self) -> None:
        """Close the run."""
        self._run.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return dict(self._run.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the step of a checkpoint, now or when attached.

        Parameters
        ----------
        state
            What `state_dict` returned when it was saved.
        """
        self._run.load_state_dict(state)
