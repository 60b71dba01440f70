"""A moving average of the weights that says when a run is too short for it."""

import logging
from typing import Annotated

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging
from pydantic import Field

log = logging.getLogger(__name__)

INITIAL_SHARE = 0.05
"""What the weights of the first step may still weigh in the average at the end of a run."""
WINDOWS = 10
"""How many times the average's window, 1 / (1 - decay) updates, fits into a run for which the decay is right."""


class MovingAverage(EMAWeightAveraging):
    """The exponential moving average of the weights, which is what is validated, saved and tested.

    Args:
        decay: what an update leaves of the average; it looks back over about 1 / (1 - decay) updates.
        update_every_n_steps: optimizer steps between updates.
        use_buffers: average BatchNorm's statistics too, and not only parameters.
    """

    def __init__(
        self,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        update_every_n_steps: Annotated[int, Field(ge=1)] = 1,
        use_buffers: bool = False,
    ) -> None:
        super().__init__(decay=decay, update_every_n_steps=update_every_n_steps, use_buffers=use_buffers)
        self.decay = decay

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say which decay fits, where the run is too short for this one."""
        steps = trainer.estimated_stepping_batches
        updates = int(steps / self.update_every_n_steps) if steps != float("inf") else 0
        if trainer.is_global_zero and updates and (share := self.decay**updates) > INITIAL_SHARE:
            log.warning(
                "callbacks.ema.decay=%g is slow for the %d updates of this run: the first step's weights still make up "
                "%.0f%% of the average at its end. callbacks.ema.decay=%.4g would fit",
                *(self.decay, updates, 100 * share, fitting_decay(updates)),
            )


def fitting_decay(updates: int) -> float:
    """A decay whose window is a tenth of a run with so many updates."""
    return max(0.0, 1 - WINDOWS / updates)
