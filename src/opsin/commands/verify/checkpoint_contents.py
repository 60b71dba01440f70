"""The content of checkpoints: reading it, and comparing two of them."""

import copy
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opsin.runs.training_record import TrainingRecord
from opsin.training.module import reopen_epoch

COMPARED = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")
"""Parts that two checkpoints of one step share beside the position: weights, their averages, optimizer, schedule."""


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Return the content of a checkpoint; its tensors stay on the disk until they are used.

    Raises:
        FileNotFoundError: There is no regular file of this path.
        Exception: The file is damaged.
    """
    if not file.is_file():  # such as a named pipe, which would wait for a writer
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    content: dict[str, Any] = torch.load(file, weights_only=True, mmap=True, map_location="cpu")
    return content


def training_record(checkpoint: Mapping[str, Any]) -> TrainingRecord:
    """Return the record of how the steps before a checkpoint were trained.

    Raises:
        UserError: There is none, or it is damaged.
    """
    return TrainingRecord.parse(checkpoint.get("opsin", {}).get("training"))


def callback_state(checkpoint: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the state of a callback in a checkpoint, by the name of its class; empty for an unknown name."""
    found: Mapping[str, Any] = next((s for key, s in checkpoint["callbacks"].items() if key.split("{")[0] == name), {})
    return found


def differences(recorded: Mapping[str, Any], again: Mapping[str, Any], name: str) -> list[str]:
    """Return one line if two checkpoints of one step differ; none if training continues from both in the same way.

    Args:
        recorded: A checkpoint of a run.
        again: The other checkpoint.
        name: Name of the first, for the line.
    """
    found = [key for part in COMPARED for key in different(recorded.get(part), again.get(part), part)]
    found += different(_position(recorded), _position(again), "loops")
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [f"{name} differs in {found[0]}{more}"] if found else []


def _position(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the position in training, which determines the next batches, as a run takes it up from a checkpoint.

    A checkpoint of a validation within an epoch counts one completed batch less than one of the same step without it.
    """
    parts = checkpoint["loops"]["fit_loop"].items()
    loops = copy.deepcopy({name: part for name, part in parts if name.endswith("_progress") and "val_loop" not in name})
    reopen_epoch(loops)
    batches = loops["epoch_loop.batch_progress"]
    for counts in (batches["total"], batches["current"]):
        counts["completed"] += counts["completed"] == counts["processed"] - 1
    return loops


def different(a: Any, b: Any, place: str) -> Iterator[str]:
    """Yield the places at which two nested values differ; tensors are compared bit for bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(_bits(a), _bits(b)):
            yield place
    elif isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            yield from different(a.get(key), b.get(key), f"{place}.{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from different(one, other, f"{place}.{number}")
    elif type(a) is not type(b) or repr(a) != repr(b):
        yield place


def raw_weights(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the trained weights, which are not the averaged ones if the run has an EMA."""
    found: Mapping[str, Tensor] = checkpoint.get("current_model_state") or checkpoint["state_dict"]
    return found


def distance(first: Mapping[str, Tensor], last: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> float:
    """Return the distance between `last` and `again` as a multiple of the distance between `first` and `last`.

    Distances are Euclidean, over all floating-point tensors.
    """
    moved, apart = _distance(first, last), _distance(again, last)
    return apart / moved if moved else float("inf")


def _distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    names = [name for name, value in b.items() if value.is_floating_point() and name in a]
    squares = [(a[name].double().cpu() - b[name].double().cpu()).square().sum() for name in names]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
