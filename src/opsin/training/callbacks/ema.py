"""An exponential moving average of the weights, with a warning if the run is too short for the decay."""

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated, Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from pydantic import Field
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

log = logging.getLogger(__name__)

INITIAL_SHARE = 0.05
"""Largest share of the weights of the first step in the final average. A larger share gives a warning."""

WINDOWS = 10
"""Number of windows of 1 / (1 - decay) updates in a run with a suitable decay."""


class EMA(WeightAveraging):
    """An exponential moving average of the weights; the average is validated, saved and tested.

    The average has at least single precision, because the update of a bfloat16 value is often below its resolution.
    Buffers, such as BatchNorm statistics, are copied from the network at each update. Lightning's `EMAWeightAveraging`
    computes `decay * average + (1 - decay) * weight`, which rounds even if both are equal, so that frozen weights
    drift. This class adds a fraction of the difference, which keeps frozen weights bit for bit.

    Args:
        decay: Fraction of the average that every update keeps; the window is about 1 / (1 - decay) updates.
        update_every_n_steps: Optimizer steps between updates.
    """

    def __init__(
        self,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        update_every_n_steps: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.decay = decay
        self.update_every_n_steps = update_every_n_steps
        self._begun = False
        self._trained: list[Tensor] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the average on the device of the run: the module is still on the CPU and in single precision."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None and trainer.precision == "64-true":
            self._average_model.double()

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether to update after the optimizer step of this index."""
        return step_idx is not None and step_idx % self.update_every_n_steps == 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average after an optimizer step; unlike torch's own update, it does not wait for the device."""
        step = trainer.global_step
        if step <= self._latest_update_step or not self.should_update(step_idx=step - 1):
            return
        model = self._average_model
        assert model is not None
        averages = [parameter.detach() for parameter in model.module.parameters()]
        pairs = zip(pl_module.parameters(), averages, strict=True)
        weights = [parameter.detach().to(average.dtype) for parameter, average in pairs]
        if self._begun:
            self._average(averages, weights, None)
        else:
            _copy(averages, weights)
        _copy(model.module.buffers(), pl_module.buffers())
        model.n_averaged += 1
        self._begun, self._latest_update_step = True, step

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the average to the module; Lightning would exchange both, which rounds the average in bfloat16."""
        if self._average_model is not None:
            self._trained = [value.detach().clone() for value in _tensors(pl_module)]
            self._copy_average_to_current(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the module its own weights again."""
        if self._average_model is not None:
            _copy(_tensors(pl_module), self._trained)
            self._trained = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn if the run is too short for the decay or for the interval of the updates."""
        self._begun = self._average_model is not None and bool(self._average_model.n_averaged)  # a resumed run
        steps = trainer.estimated_stepping_batches
        updates = int(steps / self.update_every_n_steps) if steps != float("inf") else None
        if not trainer.is_global_zero or updates is None:
            return
        if updates == 0:
            log.warning(
                "callbacks.ema.update_every_n_steps=%d is above the %d steps of this run: the average is the weights "
                "after the first step. Lower it",
                *(self.update_every_n_steps, steps),
            )
        elif (share := self.decay**updates) > INITIAL_SHARE:
            log.warning(
                "callbacks.ema.decay=%g is too large for the %d updates of this run: the weights of the first step "
                "still make up %.0f%% of the average at its end. A suitable value is callbacks.ema.decay=%.4g",
                *(self.decay, updates, 100 * share, fitting_decay(updates)),
            )


def _tensors(module: L.LightningModule) -> Iterator[Tensor]:
    """Return the parameters and buffers of a module."""
    return chain(module.parameters(), module.buffers())


def _copy(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.detach().copy_(source)


def fitting_decay(updates: int) -> float:
    """Return a decay whose window is a tenth of the updates of a run."""
    return max(0.0, 1 - WINDOWS / updates)
