"""Training loss and learning rates by step."""

from typing import Any

import lightning as L

from opsin.training.callbacks.base import step_rates


class StepCurves(L.Callback):
    """Log the training loss and the learning rates every `trainer.log_every_n_steps` optimizer steps.

    The loss, `train/loss_step`, is that of one batch of process 0, as it is minimized. `lr/<part>` is the rate with
    which the step is taken: `head`, `backbone`, or each stage if the stages have rates of their own.
    """

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}
        self._every = 1
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the number of steps between points."""
        self._every = trainer.log_every_n_steps  # type: ignore[attr-defined]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the step, and read the learning rates before a step that is logged."""
        self._step = trainer.global_step
        if (trainer.global_step + 1) % self._every == 0 and trainer.loggers and trainer.is_global_zero:
            self._rates = {f"lr/{part}": rate for part, rate in step_rates(trainer).items()}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a step, unless its gradients are still being accumulated."""
        if self._rates and trainer.global_step > self._step:
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches / getattr(pl_module, "share", 1.0)
            for logger in trainer.loggers:
                logger.log_metrics({"train/loss_step": loss, **self._rates}, self._step)
                logger.save()
            self._rates = {}
