"""Steps of an epoch after which a validation runs, by `trainer.val_check_interval`.

The images that a validation reads are chosen in `opsin.data.loader.evaluation_batches`.
"""

import math

import lightning as L

from opsin.errors import UserError
from opsin.training.lightning_patches import validate_within_epoch, validates_epoch


class ValidationSchedule(L.Callback):
    """Validate at regular steps of an epoch and at its end.

    Every epoch ends with a validation, for any interval, so that each epoch has all of its metrics. The steps are a
    function of the interval and the length of the epoch, so a resumed run validates at the same steps.

    Args:
        interval: Fraction of an epoch, or number of optimizer steps.

    Attributes:
        steps: Optimizer steps of an epoch after which to validate, counted from 1; known when training starts.
    """

    def __init__(self, interval: int | float) -> None:
        self._interval = interval
        self.steps: list[int] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute the steps.

        Raises:
            UserError: The interval is longer than an epoch.
        """
        batches, accumulated = int(trainer.num_training_batches), trainer.accumulate_grad_batches
        self.steps = validation_steps(self._interval, math.ceil(batches / accumulated))
        if len(self.steps) > 1:
            validate_within_epoch(trainer, [step * accumulated for step in self.steps[:-1]])

    def is_due(self, trainer: L.Trainer) -> bool:
        """Return whether a validation within the epoch, or at its end, follows the current batch."""
        batch = trainer.fit_loop.batch_idx + 1
        return validates_epoch(trainer) and batch in (step * trainer.accumulate_grad_batches for step in self.steps)


def validation_steps(interval: int | float, steps: int) -> list[int]:
    """Return the steps of an epoch after which to validate; the last one is always among them.

    Args:
        interval: Fraction of an epoch, or number of steps.
        steps: Number of steps of the epoch.

    Raises:
        UserError: The interval is longer than the epoch.
    """
    if isinstance(interval, int):
        if interval > steps:
            raise UserError(
                f"trainer.val_check_interval={interval} is above the {steps} steps of an epoch: use at most {steps}, a "
                "fraction such as 0.5, or trainer.check_val_every_n_epoch to validate less often"
            )
        return [*range(interval, steps, interval), steps]
    parts = math.ceil(1 / interval - 1e-9)
    inner = {max(1, round(i * interval * steps)) for i in range(1, parts)}
    return sorted({*inner, steps})
