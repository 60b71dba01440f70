"""Stop a run whose training loss becomes infinite or NaN, and write the images of that step."""

import csv
import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from opsin.data import ImageDataModule
from opsin.errors import UserError
from opsin.runs.atomic import atomic_open, write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.escaping import CSVLines, valid_text
from opsin.runs.finished_backup import FinishedBackup
from opsin.runs.quoting import opsin_command, override
from opsin.training.callbacks.base import is_within_epoch
from opsin.training.gather import gather_from_all_processes
from opsin.visualization.images import Pixels, encode

READ_EVERY = 50
"""Number of batches after which the losses are read on an accelerator, because a read waits for the device."""

ADVICE = "try a smaller optimizer.lr, or trainer.gradient_clip_norm=1"


@dataclass(frozen=True)
class TakenStep:
    """A training batch and its loss.

    Attributes:
        step: Number of the optimizer step that the batch belongs to, counted from 1.
        epoch: Number of the epoch, counted from 1.
        batch: Number of the batch in its epoch, counted from 0.
        loss: The loss, a scalar on the device.
        positions: Positions of the images in the training split `(B,)`, on the CPU.
    """

    step: int
    epoch: int
    batch: int
    loss: Tensor
    positions: Tensor


class FiniteLoss(L.Callback):
    """Stop at the first training loss that is infinite or NaN, and write the images of that step to `diverged/step_N`.

    The loss is read after every step on a CPU. On an accelerator or with several processes it is read every 50 batches
    and before each validation, and the first bad step is found among them. With `trainer.precision=16` nothing is read,
    because the gradient scaler skips such steps.

    Args:
        run: The run directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._taken: list[TakenStep] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, and read the losses if this is due.

        Raises:
            UserError: A loss is not finite.
        """
        if str(trainer.precision) == "16-mixed" or not isinstance(outputs, dict):
            return
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches != 0 and is_within_epoch(trainer)
        step = trainer.global_step + int(accumulating)
        taken = TakenStep(step, trainer.current_epoch + 1, batch_idx, outputs["loss"].detach(), batch.positions)
        self._taken.append(taken)
        if reads_every_step(trainer, taken.loss) or len(self._taken) >= READ_EVERY or not is_within_epoch(trainer):
            self._read(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the losses before a validation, after which checkpoints are written.

        Raises:
            UserError: A loss is not finite.
        """
        if self._taken:
            self._read(trainer)

    def _read(self, trainer: L.Trainer) -> None:
        losses = torch.stack([taken.loss for taken in self._taken]).tolist()  # waits for the device once
        bad = next((taken for taken, loss in zip(self._taken, losses, strict=True) if not math.isfinite(loss)), None)
        bad = bad and replace(bad, loss=bad.loss.cpu())  # other processes may lack the device
        self._taken = []
        found = [taken for taken in gather_from_all_processes(bad) if taken]
        if not found:
            return
        first = min(found, key=lambda taken: (taken.epoch, taken.batch))
        message, facts = self._description(first)
        data = getattr(trainer, "datamodule", None)
        if trainer.is_global_zero and isinstance(data, ImageDataModule):
            write_step(self._folder(first), data, first, facts)
        raise UserError(message)

    def _folder(self, taken: TakenStep) -> Path:
        return self._run.path / "diverged" / f"step_{taken.step}"

    def _description(self, taken: TakenStep) -> tuple[str, dict[str, Any]]:
        """Return the message, and the same facts as plain values."""
        run = FinishedBackup(self._run.path).place_of_failure()
        replay = opsin_command("train", override("resume", run), "trainer.detect_anomaly=true")
        saved = [file for file in (self._run.last, self._run.step) if file.exists()]
        good = max(saved, key=lambda file: file.stat().st_mtime_ns, default=None)
        loss = float(taken.loss)
        message = (
            f"the training loss is not finite ({loss}) at step {taken.step}, in epoch {taken.epoch}: "
            f"training diverged; {ADVICE}. The images of the step are in {self._folder(taken)}. The last good "
            f"checkpoint is {good or 'none, because the run had not written any'}. Replay from there, with a traceback "
            f"of the operation: {replay}"
        )
        facts = {"step": taken.step, "epoch": taken.epoch, "batch": taken.batch, "loss": str(loss), "replay": replay}
        return message, {**facts, "checkpoint": str(good) if good else None}


def reads_every_step(trainer: L.Trainer, loss: Tensor) -> bool:
    """Return whether a loss can be read without waiting for a device or another process."""
    return trainer.world_size == 1 and loss.device.type == "cpu"


def write_step(folder: Path, data: ImageDataModule, taken: TakenStep, facts: dict[str, Any]) -> None:
    """Write the images of a step as they are stored, before augmentation, with their names and classes.

    The folder gets `step.json`, `batch.csv` and an image `<row>.png` per row; images of other than one or three
    channels are in `images.npy`.

    Args:
        folder: The folder to write to.
        data: The datamodule of the run.
        taken: The step.
        facts: Content of `step.json`.
    """
    subset, positions = data.subset("train"), taken.positions.numpy()
    pixels: Pixels = subset.read(positions)
    text = io.StringIO()
    writer = csv.writer(CSVLines(text))
    writer.writerow(["image", "position", "class", "path"])
    for row, position in enumerate(positions.tolist()):
        label = data.source.classes[int(subset.targets[position])]
        writer.writerow([row, position, valid_text(label), valid_text(subset.locate(position))])
    write_atomically(folder / "batch.csv", text.getvalue())
    if pixels.shape[-1] in (1, 3):
        for row, image in enumerate(pixels):
            write_atomically(folder / f"{row}.png", encode(image))
    else:
        with atomic_open(folder / "images.npy") as stream:
            np.save(stream, pixels)
    write_atomically(folder / "step.json", json.dumps(facts, indent=2) + "\n")
