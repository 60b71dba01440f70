"""Code that depends on internals of Lightning."""

import contextlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.profilers import PassThroughProfiler

from opsin.runs.atomic import atomic_open

STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def drop_empty_hooks(callbacks: list[L.Callback]) -> None:
    """Spare every step the calls that do nothing: Lightning passes over a hook that cannot be called."""
    for callback in callbacks:
        for name in STEP_HOOKS:
            if getattr(type(callback), name) is getattr(L.Callback, name):
                setattr(callback, name, None)


class NoProfiler(PassThroughProfiler):
    """Measures nothing, and so quickly that sixty of its contexts in a step do not show."""

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """A context in which nothing is done."""
        return self._nothing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, flushes it to the disk and renames it: a kill leaves the old one whole.

    Lightning's own writes in the folder for temporary files, which may be another disk, and does not flush.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint`; either the old file or the new one is at `path` at every moment."""
        with atomic_open(Path(path)) as file:
            torch.save(checkpoint, file)
