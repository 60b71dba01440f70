"""What the evaluation of a split came to, over all processes, as predictions to keep."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from opsin.data import ImageDataModule
from opsin.data.types import Split
from opsin.models.network import class_logits
from opsin.runs.predictions import Predictions

T = TypeVar("T")

Outputs = Sequence[tuple[Tensor, Tensor]]
"""Of each batch: positions `(B,)` in the split, and logits `(B, L)`."""


def collect(outputs: Outputs, data: ImageDataModule, split: Split) -> Predictions:
    """The predictions of a split, of the batches of all processes.

    Every process has to call this; all get the same.

    Args:
        outputs: Of this process; at least one batch.
        data: Where the images are from.
        split: Which.
    """
    positions = torch.cat([batch for batch, _ in outputs]).cpu()
    logits = class_logits(torch.cat([batch for _, batch in outputs]).float()).cpu()
    positions, logits = (torch.cat(values) for values in zip(*of_all_processes((positions, logits)), strict=True))
    order = positions.argsort()
    chosen = positions[order].numpy()
    part = data.subset(split).choose(chosen, "given")
    return Predictions(
        split,
        tuple(data.source.classes),
        logits[order].numpy().astype(np.float32),
        part.targets,
        chosen,
        tuple(part.locate(row) for row in range(len(part))),
        part.identity,
    )


def of_all_processes(value: T) -> list[T]:
    """What each process has, by rank; every process has to call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
