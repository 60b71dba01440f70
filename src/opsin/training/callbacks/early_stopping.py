"""Early stopping that continues correctly in a resumed run."""

from collections.abc import Mapping
from typing import Annotated, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from pydantic import Field
from torch import Tensor

from opsin.runs.metric_registry import mode, split_of
from opsin.training.callbacks.base import MeasuredHook


class EarlyStopping(MeasuredHook, LightningEarlyStopping):
    """Stop once `monitor` has not improved for `patience` validations, or is not finite.

    A value of `monitor` that is NaN or infinite ends the training at once, for any patience: it has diverged
    (`check_finite` of Lightning's callback, which is always on).

    It differs from Lightning's callback after a resume. First, the patience of the config applies: a run that stopped
    because of its patience trains no epoch unless the new patience is larger. Second, a run that stopped because of a
    non-finite value continues.

    Validations within an epoch count for metrics of val.

    Args:
        monitor: Name of the metric.
        patience: Number of validations (for a metric of train: epochs) without improvement after which the run stops.
        min_delta: A value counts as an improvement only if it is better than the best value by more than this.

    Attributes:
        reason: Why no further epoch is trained; None as long as there may be one.
        diverged: Whether the reason is a value that is not finite.
    """

    def __init__(
        self,
        monitor: str,
        patience: Annotated[int, Field(ge=1)] = 10,
        min_delta: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__(monitor, min_delta, patience, mode=mode(monitor), check_on_train_epoch_end=True)
        self.reason: str | None = None
        self.diverged = False

    def state_dict(self) -> dict[str, Any]:
        """Return the count, the best score and the reason."""
        return {**super().state_dict(), "reason": self.reason}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore everything except the patience, which the config sets."""
        super().load_state_dict({**state_dict, "patience": self.patience})
        self.reason = state_dict["reason"] if self.wait_count >= self.patience else None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once if the resumed run had stopped because of its patience."""
        if self.reason:
            trainer.should_stop = True

    def on_measured(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: float, metrics: dict[str, float]
    ) -> None:
        """Count a validation, or an epoch for a metric of train."""
        if self.monitor in metrics:
            self._run_early_stopping_check(trainer)

    def _evaluate_stopping_criteria(self, current: Tensor) -> tuple[bool, str | None]:
        should_stop, reason = super()._evaluate_stopping_criteria(current)
        self.diverged = not bool(torch.isfinite(current))
        if should_stop and self.diverged:
            self.reason = f"{self.monitor} is {float(current)} (best {float(self.best_score):.4f}): training diverged"
        elif should_stop:
            unit = "validation" if split_of(self.monitor) == "val" else "epoch"
            plural = "s" if self.wait_count > 1 else ""
            waited = f"{self.monitor} has not improved for {self.wait_count} {unit}{plural}"
            self.reason = f"{waited} (best {float(self.best_score):.4f})"
        return should_stop, reason


def final_stop(state: Mapping[str, Any]) -> str | None:
    """Return why a callback of Lightning ended the training for good; None if it did not.

    A value that is not finite does not end it for good: a resumed run continues, as with Opsin's callback.

    Args:
        state: The saved state of any callback. That of Opsin's callback, whose patience can change, gives None.
    """
    if "reason" in state or state.get("stopping_reason") == EarlyStoppingReason.NON_FINITE_METRIC.value:
        return None
    reason: str | None = state.get("stopping_reason_message")
    return reason and reason.removesuffix(" Signaling Trainer to stop.")


def stop_again(trainer: L.Trainer) -> None:
    """End a resumed training that a callback of Lightning had ended; Lightning would train one more epoch."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(c, LightningEarlyStopping) and final_stop(c.state_dict()) for c in callbacks):
        trainer.should_stop = True
