"""Gather the outputs of all processes into the predictions of a split."""

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
"""Positions `(B,)` in the split and logits `(B, L)` of each batch."""


def collect(outputs: Outputs, data: ImageDataModule, split: Split) -> Predictions:
    """Return the predictions of a split from the outputs of all processes.

    Every process must call this; all get the same result.

    Args:
        outputs: Outputs of this process; at least one batch.
        data: The datamodule.
        split: The split of the outputs.
    """
    positions = torch.cat([batch for batch, _ in outputs]).cpu()
    logits = class_logits(torch.cat([batch for _, batch in outputs]).float()).cpu()
    positions, logits = (
        torch.cat(values) for values in zip(*gather_from_all_processes((positions, logits)), strict=True)
    )
    order = positions.argsort()
    chosen = positions[order].numpy()
    subset = data.subset(split).choose(chosen, "given")
    return Predictions(
        split,
        tuple(data.source.classes),
        logits[order].numpy().astype(np.float32),
        subset.targets,
        chosen,
        tuple(subset.locate(row) for row in range(len(subset))),
        subset.identity,
    )


def gather_from_all_processes(value: T) -> list[T]:
    """Return the values of all processes, by rank; every process must call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
