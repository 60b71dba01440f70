"""The stretches of training between the checkpoints of a run, and the choice of those that are repeated."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opsin.commands.verify.checkpoint_contents import read_checkpoint, training_record
from opsin.runs.directory import RunDirectory
from opsin.runs.training_record import TrainingRecord

SHARE = 0.1
"""Share of training that the default repeats at most, unless two stretches are longer."""


@dataclass(frozen=True)
class Point:
    """A moment of training whose state is known.

    Attributes:
        step: Number of optimizer steps.
        files: Checkpoints of this step; none at the start of training, which follows from config and seed.
        records: Record of the training before this step in each file.
    """

    step: int
    files: tuple[Path, ...] = ()
    records: tuple[TrainingRecord, ...] = ()


@dataclass(frozen=True)
class Stretch:
    """The training steps between two neighboring points."""

    start: Point
    end: Point

    @property
    def steps(self) -> int:
        """The number of steps."""
        return self.end.step - self.start.step

    @property
    def is_whole(self) -> bool:
        """Whether one process trained it from its start; otherwise the config may have changed at an unknown step."""
        begun = {self.start.step, *(record.start for record in self.start.records[:1])}
        return self.record.start in begun and self.record.start <= self.start.step

    @property
    def record(self) -> TrainingRecord:
        """Record of the training of its steps."""
        return self.end.records[0]

    def __str__(self) -> str:
        return f"steps {self.start.step} to {self.end.step}"


def points(run: RunDirectory) -> list[Point]:
    """Return the points of a run by step: its start, its replay points, `best.ckpt` and `last.ckpt`.

    Raises:
        UserError: A checkpoint does not record how it was trained.
        Exception: A checkpoint is damaged.
    """
    by_step: dict[int, list[tuple[Path, TrainingRecord]]] = {}
    for file in (*sorted(run.replay_points.glob("*.ckpt")), run.best, run.last):
        content = read_checkpoint(file)
        by_step.setdefault(int(content["global_step"]), []).append((file, training_record(content)))
    found = [Point(step, *map(tuple, zip(*files, strict=True))) for step, files in sorted(by_step.items()) if step]
    return [Point(0), *found]


def stretches(found: Sequence[Point]) -> list[Stretch]:
    """Return the stretches between neighboring points."""
    return [Stretch(start, end) for start, end in itertools.pairwise(found)]


def choose(candidates: Sequence[Stretch], best: Path, total: int, chance: random.Random) -> list[Stretch]:
    """Return stretches to repeat: the one that ends at the best checkpoint, and others at random.

    There is at least one other; more as long as all together are at most `SHARE` of training.

    Args:
        candidates: The stretches that can be repeated.
        best: The best checkpoint.
        total: Number of steps of the training.
        chance: Source of random numbers.
    """
    chosen = [stretch for stretch in candidates if best in stretch.end.files]
    others = [stretch for stretch in candidates if stretch not in chosen]
    chance.shuffle(others)
    for number, stretch in enumerate(others):
        if number and sum(one.steps for one in (*chosen, stretch)) > SHARE * total:
            break
        chosen.append(stretch)
    return sorted(chosen, key=lambda stretch: stretch.end.step)
