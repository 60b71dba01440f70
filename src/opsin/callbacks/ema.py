"""A moving average of the weights."""

from typing import Annotated

from lightning.pytorch.callbacks import WeightAveraging
from pydantic import Field
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(WeightAveraging):
    """An exponential moving average of the weights, which is what is validated, saved and tested.

    Buffers, such as BatchNorm statistics, are those of the last step. Lightning's `EMAWeightAveraging` takes
    `decay * average + (1 - decay) * weight`, which rounds even where both are the same, so that frozen weights
    drift; this one moves the average by a part of the difference, and leaves frozen weights as they are to the bit.

    Args:
        decay: share of the average that every update keeps.
        update_every_n_steps: optimizer steps between updates.
    """

    def __init__(
        self,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        update_every_n_steps: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        super().__init__(use_buffers=False, multi_avg_fn=average)
        self.update_every_n_steps = update_every_n_steps

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to update after the optimizer step of this index."""
        return step_idx is not None and step_idx % self.update_every_n_steps == 0
