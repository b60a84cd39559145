"""`MetricCallback`: log a run of a Lightning `Trainer`."""

import os
from typing import Any, Unpack

from torch import Tensor

from training.integrations.deferred import DeferredHook, HookOptions

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError(
        "training.integrations.lightning needs Lightning: pip install 'bayeshmm[lightning]'"
    ) from error


class MetricCallback(Callback):
    """Log a run of a Lightning ``Trainer`` with `MetricHook`.

    The rows are those of optimizer steps, whatever ``accumulate_grad_batches`` is, and hold what
    the module logs by ``self.log`` besides, under the names that Lightning gives its loggers
    (neither a logger nor ``log_every_n_steps`` matters):

    * what is logged at a batch is in the row of its step, if that gets one; of accumulated batches
      it is that of the last;
    * what is logged at the end of an epoch or of a validation has a row in any case, of the latest
      step. An epoch's value of a training metric (``on_epoch=True``) is a mean over that epoch.

    The sanity check before training is not logged, and neither is a ``fast_dev_run``. The run is
    closed as "failed" after an exception.

    The callback's state is in every checkpoint: ``trainer.fit(..., ckpt_path=...)`` goes on with
    the run in the same directory, and rows after the checkpoint are superseded. If the callback
    was not there when the checkpoint was saved, the step is ``trainer.global_step``, which of
    several optimizers counts the steps of each.

    Parameters
    ----------
    directory
        The run directory.
    **options
        Keyword arguments of `MetricHook`: ``seed``, ``config``, ``every``, ``at``, ``metrics``,
        ``include``, ``activations``.

    Raises
    ------
    FileExistsError
        When training starts from step 0 and the directory holds a run.
    ValueError, TypeError
        As `MetricHook` does, when training starts.

    Examples
    --------
    >>> trainer = Trainer(callbacks=[MetricCallback("runs/seed-0", seed=0, every=10)])
    """

    def __init__(self, directory: str | os.PathLike[str], **options: Unpack[HookOptions]) -> None:
        self._run = DeferredHook(directory, options)
        self._seen: dict[str, Tensor] = {}
        self._global_step = 0
        self._stepped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier training with this callback; a checkpoint is loaded after this."""
        if stage == "fit" and trainer.global_step == 0:
            self._run.load_state_dict({})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the hook: model and optimizers are ready, and restored."""
        self._seen = dict(trainer.logged_metrics)
        self._global_step, self._stepped = trainer.global_step, False
        if not trainer.fast_dev_run:
            fallback = {"step": trainer.global_step} if trainer.global_step else {}
            self._run.attach(pl_module, trainer.optimizers, self._run.state_dict() or fallback)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was logged at the end of the epoch before."""
        self._run.log(self._new(trainer), force=True)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Log what the module logged after `on_train_batch_end`."""
        if self._stepped:
            self._run.log(self._new(trainer))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Log what was logged at the batch, if the optimizer has stepped."""
        self._stepped = trainer.global_step > self._global_step
        self._global_step = trainer.global_step
        new = self._new(trainer)
        if self._stepped:
            self._run.log(new)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the validation has found."""
        self._run.log(self._new(trainer), force=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was logged at the end of the last epoch, and close the hook."""
        self._run.log(self._new(trainer), force=True)
        self._run.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the hook."""
        self._run.close("failed")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return dict(self._run.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the step of a checkpoint when training starts.

        Parameters
        ----------
        state_dict
            What `state_dict` returned when it was saved.
        """
        self._run.load_state_dict(state_dict)

    def _new(self, trainer: Trainer) -> dict[str, Tensor]:
        """Return what was logged since this was last asked.

        Lightning keeps the last value of everything that was ever logged; what was logged again is
        in memory of its own, as long as the value before is kept too.
        """
        seen, self._seen = self._seen, dict(trainer.logged_metrics)
        return {
            name: value
            for name, value in self._seen.items()
            if name != "step"  # tells loggers another step
            and (name not in seen or value.data_ptr() != seen[name].data_ptr())
        }
