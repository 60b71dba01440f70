"""SIGKILL at random steps and times, and at the moments at which files are written."""

import random
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.children import Child, Hook, kill_at_step, kill_on
from tests.chaos.outcomes import Outcome, Setting, fault
from tests.chaos.run_state import COMPARED, differences

CPU = ("trainer=cpu", "trainer.threads=1", "callbacks.progress.bar=false")
DIGITS = ("model=cnn_gap", "datamodule.train_fraction=0.3", "trainer.max_epochs=4", *CPU)
NO_PICTURES = ("callbacks=no_pictures", "report=false")
AUGMENTED = (
    "model=resnet18_partial",
    "model.weights=none",
    "datamodule.image_size=32",
    "datamodule.train_fraction=0.1",
    "datamodule.base_batch_size=16",
    "augmentation=mixup_cutmix",
    "augmentation.mixup=0.4",
    "callbacks=ema",
    "callbacks.ema.decay=0.9",
    "trainer.max_epochs=3",
    "report=false",
    *CPU,
)
TWO_PHASES = (
    "model=strided_cnn",
    "model.trainable=head",
    "model.phases=[{epoch: 2, trainable: [block5], lr_factor: 0.1}]",
    "datamodule.train_fraction=0.2",
    "trainer.max_epochs=4",
    *NO_PICTURES,
    *CPU,
)


def places(folder: Path, name: str) -> tuple[str, ...]:
    """Return the overrides of the directories of a run in a folder, with `resume=auto`."""
    return (
        f"data_dir={folder / 'data'}",
        f"output_dir={folder / 'outputs'}",
        f"hydra.run.dir={folder / name}",
        "resume=auto",
    )


def completed(words: Sequence[str], folder: Path, name: str) -> Path:
    """Run a command to its end, undisturbed, and return the run directory."""
    child = Child(("train", *words, *places(folder, name)), folder)
    if code := child.wait():
        raise RuntimeError(f"exit code {code}: {child.printed()[-400:]}")
    return folder / name


def resumed(words: Sequence[str], folder: Path, name: str, by_name: bool = False) -> list[str]:
    """Start a killed run again, by the same command or by `resume=RUN`; return what is wrong with that."""
    again = [f"resume={folder / name}"] if by_name and (folder / name / "config.yaml").exists() else None
    child = Child(("train", *(again or [*words, *places(folder, name)])), folder)
    code = child.wait()
    return [f"the resume ended with {code}: {' '.join(child.printed().split())[-200:]}"] if code else []


def killed(words: Sequence[str], folder: Path, name: str, *hooks: Hook, after: float | None = None) -> bool:
    """Start a run that a hook kills, or that is killed after some seconds; return whether it was killed."""
    child = Child(("train", *words, *places(folder, name)), folder, hooks)
    if after is not None:
        deadline = time.monotonic() + after
        while child.running() and time.monotonic() < deadline:
            time.sleep(0.001)
        child.kill()
    return child.wait() < 0


def random_kills(setting: Setting, words: Sequence[str], kills: int, steps: int) -> Outcome:
    """Kill runs at random, every second one at a random step and the others at a random time; resume and compare.

    Args:
        setting: The setting.
        words: Overrides of the run.
        kills: Number of runs.
        steps: Number of training steps of a run.
    """
    draw = random.Random(setting.seed)
    begun = time.monotonic()
    whole = completed(words, setting.folder, "whole")
    seconds = time.monotonic() - begun
    outcome = Outcome(compared=COMPARED)
    for number in range(setting.kills or kills):
        name = f"run{number}"
        if number % 2 == 0:
            step = draw.randint(1, steps)
            where, happened = f"step {step}", killed(words, setting.folder, name, kill_at_step(step))
        else:
            after = draw.uniform(0.05, 0.98) * seconds
            where, happened = f"{after:.2f} s", killed(words, setting.folder, name, after=after)
        problems = [] if happened or number % 2 else ["not killed"]
        if happened:  # a kill by the clock may come after the end
            problems += resumed(words, setting.folder, name, by_name=number % 3 == 2)
        outcome.add(problems or differences(setting.folder / name, whole), where)
    return outcome


@fault("kill-digits", "SIGKILL of cnn_gap on the digits, at random steps and times")
def kill_digits(setting: Setting) -> Outcome:
    """Kill small runs."""
    return random_kills(setting, DIGITS, 20, steps=100)


@fault("kill-augmented", "SIGKILL of resnet18_partial with augmentation, Mixup and EMA")
def kill_augmented(setting: Setting) -> Outcome:
    """Kill runs with random numbers in each step and averaged weights."""
    return random_kills(setting, AUGMENTED, 10, steps=24)


@fault("kill-two-phases", "SIGKILL of a run in two phases, one in each phase")
def kill_two_phases(setting: Setting) -> Outcome:
    """Kill a run in its first and another in its second phase."""
    whole = completed(TWO_PHASES, setting.folder, "whole")
    outcome = Outcome(compared=COMPARED)
    for step in (20, 55)[: setting.kills or 2]:
        problems = [] if killed(TWO_PHASES, setting.folder, f"run{step}", kill_at_step(step)) else ["not killed"]
        problems += resumed(TWO_PHASES, setting.folder, f"run{step}")
        outcome.add(problems or differences(setting.folder / f"run{step}", whole), f"step {step}")
    return outcome


WRITTEN = {
    "best.ckpt": 2,
    "last.ckpt": 2,
    "metrics.csv": 2,
    "val.npz": 2,
    "test.npz": 1,
    "result.json": 2,
    "config.yaml": 1,
    "report.html": 1,
}
"""Files of a run, and the number of the write that is interrupted."""


@fault("kill-writes", "SIGKILL while a checkpoint, table, prediction, result or report is written")
def kill_writes(setting: Setting) -> Outcome:
    """Kill runs when a file is opened, half written, and before it is renamed."""
    whole = completed(DIGITS, setting.folder, "whole")
    outcome = Outcome(compared=f"{COMPARED}, report.html")
    cases = [
        (file, moment, hook)
        for file, count in WRITTEN.items()
        for moment, hook in {
            "opened": kill_on("open", f"*/.{file}.*.part", count),
            "half written": kill_on("open", f"*/.{file}.*.part", count, delay=0.002),
            "before the rename": kill_on("os.rename", f"*/.{file}.*.part", count),
        }.items()
    ]
    for number, (file, moment, hook) in enumerate(cases[: setting.kills]):
        name = f"run{number}"
        happened = killed(DIGITS, setting.folder, name, hook)
        problems = [] if happened or moment == "half written" else ["not killed"]
        problems += resumed(DIGITS, setting.folder, name)
        problems = problems or differences(setting.folder / name, whole)
        if not (setting.folder / name / "report.html").is_file():
            problems.append("no report.html")
        outcome.add(problems, f"{file} {moment}")
    return outcome
