"""Honest runs of many kinds, for tests of `opsin verify`: none of them may be reported as forged."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from opsin.commands.evaluate import evaluate
from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.errors import Interrupted
from opsin.runs.directory import RunDirectory

QUICK = (
    "datamodule=image_folder",
    "datamodule.image_size=18",
    "datamodule.batch_size=8",
    "model=cnn_gap",
    "trainer=cpu",
    "trainer.max_epochs=4",
    "verify_checkpoints=6",
    "report=false",
    "logger=none",
    "callbacks=no_pictures",
    "callbacks.progress.bar=false",
)
PHASES = "model.phases=[{epoch: 2, trainable: all, lr_factor: 0.5}]"
STOP = "+callbacks.stop={{_target_: interruptions.StopAt, step: {}, how: {}}}"


def stop(step: int, how: str = "SIGINT") -> str:
    """Return the override for a run that is stopped after some steps."""
    return STOP.format(step, how)


@dataclass(frozen=True)
class HonestRun:
    """A run that is verified without a difference.

    Attributes:
        words: Overrides beside `QUICK`.
        resumes: Overrides of each resume; `callbacks.stop=null` is among those of the first.
        after: What happens after the run: `evaluate` writes missing predictions, `move` moves its images.
        before: Name of another run that is trained before.
    """

    words: tuple[str, ...] = ()
    resumes: tuple[tuple[str, ...], ...] = ()
    after: tuple[str, ...] = field(default=())
    before: str = ""


GO_ON = ("callbacks.stop=null",)
HONEST: dict[str, HonestRun] = {
    "plain": HonestRun(),
    "without replay points": HonestRun(("verify_checkpoints=0",)),
    "EMA, Mixup, flip": HonestRun(("augmentation=mixup_cutmix", "callbacks=ema", "callbacks.ema.decay=0.8")),
    "plateau, validation within epochs": HonestRun(
        ("scheduler=plateau", "scheduler.patience=0", "trainer.val_check_interval=0.5", "augmentation=flip")
    ),
    "accumulation, clipping, limited batches": HonestRun(
        (
            "trainer.accumulate_grad_batches=3",
            "trainer.gradient_clip_norm=0.5",
            "trainer.limit_train_batches=7",
            "trainer.limit_test_batches=1",
        )
    ),
    "SGD, one cycle, label smoothing": HonestRun(("optimizer=sgd", "scheduler=onecycle", "loss.label_smoothing=0.1")),
    "class weights, balanced sampler": HonestRun(("loss.class_weights=balanced", "datamodule.sampler=balanced")),
    "two phases": HonestRun(("model.trainable=head", PHASES)),
    "feature cache": HonestRun(("model.trainable=head",)),
    "early stopping": HonestRun(("callbacks.early_stopping.patience=1", "optimizer.lr=0.1", "trainer.max_epochs=9")),
    "dropout, bfloat16": HonestRun(("model=simple_cnn", "trainer.precision=bf16")),
    "distillation from another run": HonestRun(("model.teacher={folder}/outputs/teacher",), before="teacher"),
    "interrupted within an epoch": HonestRun((stop(13),), (GO_ON,)),
    "stopped by an error": HonestRun((stop(18, "error"), "augmentation=flip"), (GO_ON,)),
    "interrupted twice, two phases, EMA": HonestRun(
        ("model.trainable=head", PHASES, "callbacks=ema", "callbacks.ema.decay=0.8", stop(6)),
        (("callbacks.stop.step=11",), GO_ON),
    ),
    "interrupted, feature cache": HonestRun(("model.trainable=head", stop(11)), (GO_ON,)),
    "resumed for longer with another rate": HonestRun((), (("trainer.max_epochs=6", "optimizer.lr=0.0005"),)),
    "tested at the end of a sweep": HonestRun(("test=false",), (("test=true",),)),
    "evaluated again, images moved": HonestRun((), (), ("evaluate", "move")),
    "resumed for longer, evaluated again": HonestRun((), (("trainer.max_epochs=5",),), ("evaluate",)),
}


def start(folder: Path, images: Path, words: Sequence[str], name: str = "run") -> RunDirectory:
    """Train a run of `QUICK` with other overrides in `folder/outputs`."""
    run = RunDirectory(folder / "outputs" / name)
    run.path.mkdir(parents=True)
    places = (f"datamodule.path={images}", f"data_dir={folder / 'data'}", f"output_dir={folder / 'outputs'}")
    with suppress(Interrupted, RuntimeError):
        train(compose([*QUICK, *places, *words], run.path))
    return run


def honest_run(folder: Path, images: Path, kind: str) -> tuple[RunDirectory, tuple[str, ...]]:
    """Make a run of a kind and return it with the overrides of its verification; OPSIN_TARGETS=interruptions is set."""
    made = HONEST[kind]
    if made.before:
        start(folder, images, ["trainer.max_epochs=1"], made.before)
    run = start(folder, images, [word.replace("{folder}", str(folder)) for word in made.words])
    for words in made.resumes:
        with suppress(Interrupted):
            train(from_saved(run, words))
    if "evaluate" in made.after:
        evaluate(run)
        (run.path / "predictions" / "val.npz").unlink()
        evaluate(run, "val")
    if "move" not in made.after:
        return run, ()
    moved = folder / "moved"
    shutil.move(images, moved)
    return run, (f"datamodule.path={moved}",)
