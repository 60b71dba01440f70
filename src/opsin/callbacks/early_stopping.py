"""Early stopping that a resumed run takes up where it was."""

import logging
from typing import Annotated, Any, Literal

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from pydantic import Field

log = logging.getLogger(__name__)


class EarlyStopping(LightningEarlyStopping):
    """Stops once `monitor` has not improved for `patience` validations, and says so.

    Lightning's own, at the end of the epoch, with two changes: the patience of the config holds after a resume, and
    a run that had decided to stop does not start another epoch when it is resumed.

    Args:
        monitor: metric to watch.
        mode: whether less or more of it is better.
        patience: validations without improvement before it stops.
        min_delta: smallest change that counts as an improvement.
    """

    def __init__(
        self,
        monitor: str,
        mode: Literal["min", "max"] = "min",
        patience: Annotated[int, Field(ge=1)] = 10,
        min_delta: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__(monitor, min_delta, patience, mode=mode, check_on_train_epoch_end=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count and the best score, but not the patience."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once if the run that is resumed had come to its end."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    @property
    def reason(self) -> str | None:
        """Why it stopped, in words; None if it did not."""
        if self.wait_count < self.patience:
            return None
        return f"{self.monitor} has not improved for {self.wait_count} epochs (best {float(self.best_score):.4f})"

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell why training ended."""
        if self.reason and trainer.is_global_zero:
            log.info("stopped early: %s", self.reason)
