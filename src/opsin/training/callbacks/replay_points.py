"""Checkpoints from which `opsin verify` repeats stretches of training: the option `verify_checkpoints`."""

import re
from pathlib import Path
from typing import Any

import lightning as L

from opsin.runs.atomic import link_atomically
from opsin.runs.directory import RunDirectory
from opsin.training.callbacks.base import EpochCallback, measurement_follows


class ReplayPoints(EpochCallback):
    """Keep the state of training at regular steps, so that each stretch between two of them can be repeated.

    The steps are a function of the length of the run, so a resumed run keeps the same ones. The checkpoint from which a
    run resumes is a point too, because the config may change there. At the end of an epoch the point is a hard link of
    `last.ckpt`, which takes no time. This callback must come after `Checkpoints`.

    Args:
        run: The run directory.
        count: Number of stretches into which the points divide training; `last.ckpt` is the end of the last one.
    """

    def __init__(self, run: RunDirectory, count: int) -> None:
        super().__init__()
        self._run = run
        self._count = count
        self._due: list[int] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the steps, delete points after this step, and keep the checkpoint from which the run resumes."""
        step, total = trainer.global_step, float(trainer.estimated_stepping_batches)
        chosen = {round(i * total / self._count) for i in range(1, self._count)}
        self._due = sorted(number for number in chosen if step < number < total)
        if not trainer.is_global_zero:
            return
        for point in self._run.replay_points.glob("*.ckpt"):  # training from here on repeats or replaces them
            if step_of(point) > step:
                point.unlink()
        if step and trainer.ckpt_path:
            link_atomically(Path(trainer.ckpt_path), point_file(self._run, step))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a point within an epoch, unless a validation follows, after which it is kept."""
        if not self._due or trainer.global_step < self._due[0]:
            return
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if not accumulating and not measurement_follows(trainer):
            self._take_due(trainer)
            trainer.save_checkpoint(point_file(self._run, trainer.global_step))

    def on_measured(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: float, metrics: dict[str, float]
    ) -> None:
        """Keep a point at the end of an epoch, or after a validation within it: `last.ckpt` has been written."""
        if self._take_due(trainer) and trainer.is_global_zero:
            link_atomically(self._run.last, point_file(self._run, trainer.global_step))

    def _take_due(self, trainer: L.Trainer) -> bool:
        """Remove the steps that have been reached from the list, and return whether there were any."""
        reached = [step for step in self._due if step <= trainer.global_step]
        self._due = self._due[len(reached) :]
        return bool(reached)


def point_file(run: RunDirectory, step: int) -> Path:
    """Return the path of the point at a step."""
    return run.replay_points / f"{step:08d}.ckpt"


def step_of(point: Path) -> int:
    """Return the step of a point from its file name; -1 for another file."""
    return int(point.stem) if re.fullmatch(r"\d+", point.stem) else -1
