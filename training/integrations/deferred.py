"""A `MetricHook` whose model and optimizer somebody else makes, later."""

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat, TypedDict

import torch

from training.cadence import LogSpaced
from training.hooks import MetricHook
from training.metrics import MetricChoice
from training.patterns import Patterns


class HookOptions(TypedDict, total=False):
    """The keyword arguments of `MetricHook`, but for the step to resume from."""

    seed: int | None
    config: Mapping[str, Any] | None
    every: int
    at: Iterable[int] | LogSpaced | None
    metrics: MetricChoice
    include: Patterns | None
    activations: Patterns | None


class DeferredHook:
    """Makes a `MetricHook` when model and optimizer are ready, and resumes it from checkpoints.

    Parameters
    ----------
    directory
        The run directory.
    options
        The keyword arguments of `MetricHook`.

    Attributes
    ----------
    hook
        The hook, between `attach` and `close`.
    options
        As given; what is changed before `attach` counts.

    Raises
    ------
    TypeError
        If `MetricHook` has no such argument.
    """

    def __init__(self, directory: str | os.PathLike[str], options: HookOptions) -> None:
        inspect.signature(MetricHook).bind(None, None, directory, **options)
        self.hook: MetricHook | None = None
        self.options = options
        self._directory = directory
        self._state: Mapping[str, Any] = {}

    def attach(self, model: torch.nn.Module, optimizer: Any, state: Mapping[str, Any]) -> None:
        """Begin to log, or go on from a checkpoint.

        Parameters
        ----------
        model, optimizer
            As for `MetricHook`.
        state
            The checkpoint's `state_dict`, of which ``step`` will do; empty for a new run.

        Raises
        ------
        FileExistsError
            If the directory holds a run and there is no state to go on from.
        """
        self.close("failed")  # what still logs was left behind by an exception
        self.hook = MetricHook(
            model, optimizer, self._directory, resume_step=state.get("step"), **self.options
        )
        if state:
            self.hook.load_state_dict(state)

    def log(self, values: Mapping[str, SupportsFloat], *, force: bool = False) -> None:
        """Add values to the row of the latest step, if there are any and a hook to take them.

        Parameters
        ----------
        values, force
            As for `MetricHook.log`.
        """
        if self.hook is not None and values:
            self.hook.log(values, force=force)

    def close(self, status: str = "finished") -> None:
        """Close the hook, if there is one; its state stays.

        Parameters
        ----------
        status
            As for `MetricHook.close`.
        """
        if self.hook is not None:
            self.hook.close(status)
            self._state = self.hook.state_dict()
            self.hook = None

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a checkpoint needs; empty before the first `attach`."""
        return self._state if self.hook is None else self.hook.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, or keep its state for `attach`.

        Parameters
        ----------
        state
            What `state_dict` returned when it was saved; empty to forget an earlier one.
        """
        self._state = state
        if self.hook is not None and state:
            self.hook.load_state_dict(state)
