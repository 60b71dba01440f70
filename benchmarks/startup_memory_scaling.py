"""Measurements besides speed: start-up time, memory, scaling with the number of images, and reuse by a second run."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.contenders import Task
from benchmarks.datasets import many_photos, prepare
from benchmarks.goals import GoalResult, at_most, spread
from benchmarks.session import ContenderProcess, Session
from benchmarks.workloads import Workload
from opsin.config import CONFIGS
from opsin.config.target_refusal import TARGETS_VARIABLE
from opsin.runs.quoting import override

ROOT = CONFIGS.parent
FIRST_STEP = "start-up to the first step, beyond `import torch, lightning`"
PREDICT = "`opsin predict` of one image, beyond `import torch`"
STORE_IMAGES, STORE_SIZE = 25_000, 180
GROWTH_MB = 500.0


def startup(session: Session) -> tuple[dict[str, Any], list[GoalResult]]:
    """Measure the start-up of `python train.py` to its first step and of a prediction, and their imports alone.

    The processes are interleaved, and their wall and CPU times are measured.
    """
    commands = _startup_commands(session)
    times: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(1 + (1 if session.quick else max(3, session.rounds))):
        session.log(f"startup: round {number}")
        for name, command in commands.items():
            start, before = time.perf_counter(), _child_seconds()
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment(), check=False)
            if done.returncode:
                return {"error": done.stderr[-500:]}, [at_most(FIRST_STEP, None, 0.5, "s")]
            if number:  # the first brings files into the page cache
                times[name].append(time.perf_counter() - start)
                cpu[name].append(_child_seconds() - before)
    found = {name: spread(values) for name, values in times.items()}
    figures = {name: {**vars(value), "cpu": vars(spread(cpu[name]))} for name, value in found.items()}
    return figures, [
        at_most(FIRST_STEP, found["opsin"].median - found["torch and lightning"].median, 0.5, "s"),
        at_most(PREDICT, found["predict"].median - found["torch"].median, 1.5, "s"),
    ]


def _startup_commands(session: Session) -> dict[str, list[str]]:
    """Return the commands to time by their names, after a run for the prediction."""
    counts = (48, 12, 12) if session.quick else (20_000, 500, 500)
    images, _ = prepare("mnist", session.data_dir.absolute(), session.folder, counts)
    folder = session.folder / "startup"
    work = Workload("startup", "steps", "mnist", "cnn_gap", 28, 64, ("opsin",), counts)
    places = [override("data_dir", folder), override("output_dir", folder)]
    train = [sys.executable, str(ROOT / "train.py"), *work.command(images), *places]
    run, image = folder / "run", folder / "image.png"
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "test=false", "report=false"]
    subprocess.run(
        [*train, *short, override("hydra.run.dir", run)], cwd=ROOT, capture_output=True, env=environment(), check=True
    )
    Image.new("L", (28, 28)).save(image)
    return {
        "torch and lightning": [
            sys.executable,
            "-c",
            "import os, torch, lightning; os._exit(0)",
        ],  # as at the first step
        "opsin": [*train, "+callbacks.first._target_=benchmarks.timing.ExitAfterFirstStep"],
        "torch": [sys.executable, "-c", "import torch"],
        "predict": [sys.executable, "-m", "opsin", "predict", str(run), str(image)],
    }


def _child_seconds() -> float:
    """Return the CPU time of all child processes that have ended."""
    usage = os.times()
    return usage.children_user + usage.children_system


def environment() -> dict[str, str]:
    """Return environment variables for a process that runs this checkout with the default number of threads."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": path, TARGETS_VARIABLE: "benchmarks"}
    return {name: value for name, value in variables.items() if name != "OMP_NUM_THREADS"}


def memory(session: Session) -> tuple[dict[str, Any], list[GoalResult]]:
    """Measure memory growth while training from a large store, and the set-up time of the first and second run."""
    count, size = (60, 32) if session.quick else (STORE_IMAGES, STORE_SIZE)
    session.log(f"memory: making {count:,} JPEGs of {size}x{size}")
    folder = many_photos(session.folder / "many", count, size)
    overrides = [
        "datamodule=image_folder",
        override("datamodule.path", folder),
        f"datamodule.image_size={size}",
        "datamodule.batch_size=64",
        "datamodule.mean=0.5",  # given, so that computing them is not part of the set-up time
        "datamodule.std=0.5",
        "model=strided_cnn",
        "trainer.max_epochs=1",
        "trainer.limit_val_batches=2",
        "trainer.limit_test_batches=2",
    ]
    # Two processes, because building the store grows the memory of the first.
    (first,), (second,) = (_runs(session, "memory", [overrides]) for _ in range(2))
    growth = second.get("growth")
    total = growth["total"] if growth else None
    setups = [run["parts"]["setup"] if "parts" in run else None for run in (first, second)]
    name = f"resident growth, {count:,} images of {size}x{size} in the store"
    checks = [at_most(name, total, GROWTH_MB, "MB")]
    saved = setups[1] / setups[0] if setups[0] is not None and setups[1] is not None else None
    checks.append(at_most("set-up of a second run on the same store / of the first", saved, 0.5, "of it"))
    return {"growth_mb": growth, "setup_seconds": setups, "errors": _errors(first, second)}, checks


def growth(session: Session) -> tuple[dict[str, Any], list[GoalResult]]:
    """Measure the seconds of three epochs on one, two and four times the images."""
    counts = (480, 48, 48) if session.quick else (20_000, 500, 500)
    images, _ = prepare("mnist", session.data_dir.absolute(), session.folder, counts)
    work = Workload("growth", "runs", "mnist", "cnn_gap", 28, 64, ("opsin",), counts, epochs=3)
    shares = (0.04, 0.08, 0.16)
    cut = ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
    jobs = [[*work.command(images), *cut, f"datamodule.train_fraction={share}"] for share in shares]
    warm, *runs = _runs(session, "growth", [jobs[0], *(jobs * (1 if session.quick else 2))])
    if errors := _errors(warm, *runs):
        return {"errors": errors}, [at_most("cost per image at 4x / at 1x the images", None, 1.1, "times")]
    by_share = [runs[i :: len(shares)] for i in range(len(shares))]
    counted = [group[0]["images"] for group in by_share]
    seconds = [spread([run["parts"]["fit"] for run in group]) for group in by_share]
    ratio = (seconds[2].median / counted[2]) / (seconds[0].median / counted[0])
    figures = {"images": counted, "seconds": [vars(value) for value in seconds]}
    return figures, [at_most("cost per image at 4x / at 1x the images", ratio, 1.1, "times")]


def _runs(session: Session, name: str, jobs: list[list[str]]) -> list[dict[str, Any]]:
    """Run several Opsin runs in sequence in one process."""
    work = Workload(name, "runs", "mnist", "cnn_gap", 28, 64, ("opsin",), (0, 0, 0))
    folder = session.folder / name
    contender = ContenderProcess("opsin", Task(work, Path(), folder), session.threads)
    try:
        if "error" in (started := contender.receive()):
            return [started] * len(jobs)
        found = []
        for number, overrides in enumerate(jobs):
            session.log(f"{name}: run {number + 1} of {len(jobs)}")
            found.append(
                contender.ask(
                    [*overrides, override("data_dir", folder / "data"), override("output_dir", folder / "outputs")]
                )
            )
        return found
    finally:
        contender.stop()


def _errors(*runs: dict[str, Any]) -> list[str]:
    return [run["error"] for run in runs if "error" in run]
