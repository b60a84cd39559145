"""`MetricCallback`: log a run of a Hugging Face `Trainer`."""

import os
from collections.abc import Mapping
from typing import Any, Unpack

from training.integrations.deferred import DeferredHook, HookOptions

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError(
        "training.integrations.huggingface needs transformers: pip install 'bayeshmm[huggingface]'"
    ) from error

NAMES = {
    "epoch": "epoch",
    "grad_norm": "opt/grad_norm_preclip",
    "learning_rate": "opt/lr",
    "num_input_tokens_seen": "log/num_input_tokens_seen",
}
"""Names in the rows of what the trainer logs; the others are those of its own loggers."""

SUMMARIES = ("total_flos", "train_loss")
"""What the trainer logs at the end, of all steps."""

TIMINGS = ("_runtime", "_per_second", "_preparation_time")
"""How the names of timings end."""


class MetricCallback(TrainerCallback):
    """Log a run of a Hugging Face ``Trainer``, or of one derived from it, with `MetricHook`.

    The rows are those of optimizer steps, and hold what the trainer logs besides, under the names
    of its own loggers (``train/...``, ``eval/...``), with these exceptions:

    * ``loss`` is the mean since it was last logged: ``train/loss_mean``. Only with
      ``logging_steps=1`` it is the loss of the step, ``train/loss``. (A loss that is not finite is
      hidden by the trainer, unless ``logging_nan_inf_filter=False``.)
    * ``grad_norm``, which is that before clipping, is ``opt/grad_norm_preclip``, and
      ``learning_rate``, the one of the step, ``opt/lr``;
    * timings, and the summary at the end of training, are left out.

    What is logged at a step that gets no row is dropped, except for an evaluation: it has a row in
    any case, of the step at which the trainer evaluates.

    ``trainer.train(resume_from_checkpoint=...)`` goes on with the run in the same directory from
    the checkpoint's ``global_step``; rows after it are superseded. (The trainer counts steps that
    a gradient scaler skips, under ``fp16=True``, and the rows do not: there is a gap of as many
    steps then.) The trainer does not tell callbacks of an exception: the run is then "unfinished",
    like one that was killed, and closed as "failed" if this callback trains again.

    Parameters
    ----------
    directory
        The run directory.
    **options
        Keyword arguments of `MetricHook`: ``seed`` (by default that of the ``TrainingArguments``),
        ``config``, ``every``, ``at``, ``metrics``, ``include``, ``activations``.

    Raises
    ------
    FileExistsError
        When training starts from step 0 and the directory holds a run.
    ValueError, TypeError
        As `MetricHook` does, when training starts.

    Examples
    --------
    >>> trainer = Trainer(model, args, callbacks=[MetricCallback("runs/seed-0", every=10)])
    """

    def __init__(self, directory: str | os.PathLike[str], **options: Unpack[HookOptions]) -> None:
        self._run = DeferredHook(directory, options)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach the hook: model and optimizer are ready, and restored."""
        self._run.options.setdefault("seed", args.seed)
        restored = {"step": state.global_step} if state.global_step else {}
        self._run.attach(kwargs["model"], kwargs["optimizer"], restored)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float],
        **kwargs: Any,
    ) -> None:
        """Log what the trainer does."""
        every_step = args.logging_strategy == "steps" and state.logging_steps == 1
        values = _values(logs, "train/loss" if every_step else "train/loss_mean")
        self._run.log(values, force=any(name.startswith("eval/") for name in values))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the hook."""
        self._run.close()


def _values(logs: Mapping[str, float], loss: str) -> dict[str, float]:
    """Return what is logged by its name in the rows; `loss` is that of the loss."""
    values = {}
    for name, value in logs.items():
        if name in SUMMARIES or name.endswith(TIMINGS):
            continue
        if name == "loss":
            values[loss] = value
        elif name in NAMES:
            values[NAMES[name]] = value
        else:
            kind, _, rest = name.partition("_")
            values[f"{kind}/{rest}" if kind in {"eval", "test"} else f"train/{name}"] = value
    return values
