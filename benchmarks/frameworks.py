"""Wall time of whole commands of Opsin, fastai and timm, which train the same network on the same photographs."""

import os
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.datasets import photos
from benchmarks.goals import GoalResult, Spread, at_most, spread
from benchmarks.session import Session
from benchmarks.startup_memory_scaling import ROOT, environment
from benchmarks.workloads import Workload
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import override

PACKAGES = ("fastai==2.8.12", "timm")
COUNTS, SIZE, EPOCHS, BATCH_SIZE = (1_200, 100, 100), 128, 3, 64
TITLES = {
    "opsin": "Opsin, `python train.py` with its defaults",
    "timm_tuned": "timm, channels_last and bfloat16",
    "timm": "timm, float32",
    "fastai": "fastai",
}
GOAL = "(d) / timm with channels_last and bfloat16, whole command"


def frameworks(session: Session) -> tuple[dict[str, Any], list[GoalResult]]:
    """Train ResNet18 from scratch with each framework, interleaved, from the command to the test accuracy.

    All read the photographs at their original size, crop randomly, flip, validate every epoch and keep the best or last
    weights. fastai is installed into an environment of its own, which shares torch and timm with this one.
    """
    counts, epochs = ((64, 12, 12), 1) if session.quick else (COUNTS, EPOCHS)
    folder = session.folder / "frameworks"
    images, real = photos(session.data_dir.absolute(), folder / "photos", counts)
    seconds: dict[str, list[float]] = {name: [] for name in TITLES}
    accuracies: dict[str, list[float]] = {name: [] for name in TITLES}
    try:
        contenders = _contenders(_environment_with_fastai(folder / "environment"), images, epochs)
        for number in range(1 if session.quick else session.runs):
            for name, train in contenders.items():
                session.log(f"frameworks: round {number + 1}, {name}")
                start = time.perf_counter()
                accuracies[name].append(train(folder / f"{name}_{number}"))
                seconds[name].append(time.perf_counter() - start)
    except subprocess.CalledProcessError as error:
        reason = f"{' '.join(error.cmd[:4])}: {str(error.stderr)[-500:]}"
        return {"error": reason}, [at_most(GOAL, None, 0.85, "of its time")]
    spreads = {name: spread(values) for name, values in seconds.items()}
    figures = {name: {**vars(spreads[name]), "accuracies": accuracies[name]} for name in TITLES}
    return {"real_images": real, "epochs": epochs, **figures}, _goals(spreads)


def _goals(spreads: dict[str, Spread]) -> list[GoalResult]:
    """Compare Opsin's time with the goal for tuned timm; for the others, it must not be longer."""
    ours, found = spreads["opsin"], []
    for name, figure, goal in (
        ("timm_tuned", GOAL, 0.85),
        ("timm", "(d) / timm with float32, whole command", 1.0),
        ("fastai", "(d) / fastai, whole command", 1.0),
    ):
        ratio = at_most(figure, ours.median / spreads[name].median, goal, "of its time")
        found.append(replace(ratio, text=f"{ratio.value:.2f} ({ours} s against {spreads[name]} s, n={ours.n})"))
    return found


def _contenders(python: Path, images: Path, epochs: int) -> dict[str, Callable[[Path], float]]:
    """Return for each framework a function that trains in a folder and returns the test accuracy."""
    scripts = ROOT / "benchmarks" / "framework_runs"
    settings = [str(number) for number in (SIZE, epochs, BATCH_SIZE, os.cpu_count() or 1)]

    def script(name: str, *more: str) -> Callable[[Path], float]:
        command = [str(python), str(scripts / name), str(images)]
        return lambda folder: float(_run([*command, str(folder), *settings, *more]).split()[-1])

    return {
        "opsin": lambda folder: _opsin(images, epochs, folder),
        "timm_tuned": script("timm_run.py", "tuned"),
        "timm": script("timm_run.py", "plain"),
        "fastai": script("fastai_run.py"),
    }


def _opsin(images: Path, epochs: int, folder: Path) -> float:
    """Train with `python train.py`, with empty caches, and return the test accuracy."""
    work = Workload(
        *("frameworks", "runs", "photos", "resnet18_full", SIZE, BATCH_SIZE, ("opsin",), COUNTS),
        augmentation="random_resized_crop",
        epochs=epochs,
        overrides=("model.weights=none", "optimizer=sgd", "scheduler=cosine"),
    )
    places = [override("data_dir", folder / "data"), override("hydra.run.dir", folder / "run")]
    _run([sys.executable, str(ROOT / "train.py"), *work.command(images), *places])
    return RunDirectory(folder / "run").read_result().metrics["test/acc"]


def _environment_with_fastai(folder: Path) -> Path:
    """Make a virtual environment with fastai and all packages of this one; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    (packages / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    _run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES])
    return python


def _run(command: list[str]) -> str:
    """Run a command and return its standard output."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment(), check=True).stdout
