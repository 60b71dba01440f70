"""Time to accuracy: seconds of training and test accuracy of fast recipes, over seeds, beside the bare loop."""

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.contenders import Task
from benchmarks.datasets import Kind, prepare
from benchmarks.goals import GoalResult
from benchmarks.session import ContenderProcess, Session
from benchmarks.startup_memory_scaling import ROOT, environment
from benchmarks.workloads import Workload
from opsin.evaluation.confidence_intervals import Interval, interval_over_runs
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import override
from opsin.training.plan import RunPlan


@dataclass(frozen=True)
class Recipe:
    """A recipe of configs/experiment with its goals.

    Attributes:
        name: Option of configs/experiment.
        images: Kind of images.
        counts: Number of images of train, val and test, for synthetic ones.
        accuracy: Lowest mean test accuracy.
        seconds: Longest mean time of `fit`.
        seeds: Number of seeds.
    """

    name: str
    images: Kind
    counts: tuple[int, int, int]
    accuracy: float
    seconds: float
    seeds: int


RECIPES = {
    "mnist_fast": Recipe("mnist_fast", "mnist", (60_000, 0, 10_000), 0.992, 4.0, 20),
    "cifar10_fast": Recipe("cifar10_fast", "cifar10", (50_000, 0, 10_000), 0.91, 1800.0, 3),
}


@dataclass(frozen=True)
class Trained:
    """One run and the bare loop next to it.

    Attributes:
        accuracy: Test accuracy.
        fit: Seconds of `fit`: training, validation and checkpoints.
        bare: Seconds that the bare loop needs for the same training steps; it has neither augmentation nor validation.
    """

    accuracy: float
    fit: float
    bare: float


def time_to_accuracy(session: Session, name: str) -> tuple[dict[str, Any], list[GoalResult]]:
    """Train a recipe with several seeds by `python train.py`, each after a round of the bare loop."""
    recipe = RECIPES[name]
    counts = (480, 0, 48) if session.quick else recipe.counts
    images, real = prepare(recipe.images, session.data_dir.absolute(), session.folder, counts)
    seeds = 1 if session.quick else session.seeds or recipe.seeds
    task = _task(recipe, images, session.folder / name)
    bare = ContenderProcess("bare_same", task, session.threads)
    try:
        if "error" in (reply := bare.receive()):
            return reply, goals_of(recipe, [], real)
        found: list[Trained] = []
        for seed in range(seeds):
            session.log(f"{name}: seed {seed}")
            speed = bare.ask(session.seconds)
            done = _train(task, seed)
            if error := speed.get("error") or done.get("error"):
                return {"error": error}, goals_of(recipe, [], real)
            passes = done["images"] * task.plan.trainer.max_epochs
            found.append(Trained(done["accuracy"], done["fit"], passes * speed["seconds"] / speed["images"]))
    finally:
        bare.stop()
    figures = {"real_images": real, "runs": [vars(run) for run in found]}
    return figures, goals_of(recipe, found, real)


def _task(recipe: Recipe, images: Path, folder: Path) -> Task:
    """Return the task of a recipe, with its own batch size."""
    first = Workload(
        recipe.name, "steps", recipe.images, "", 0, 1, ("bare_same",), recipe.counts, experiment=recipe.name
    )
    plan: RunPlan = Task(first, images, folder).plan
    assert isinstance(plan.data.batch_size, int)  # the recipes set it
    return Task(
        Workload(
            *(recipe.name, "steps", recipe.images, plan.model.name, 0, plan.data.batch_size, ("bare_same",)),
            recipe.counts,
            experiment=recipe.name,
        ),
        images,
        folder,
    )


def _train(task: Task, seed: int) -> dict[str, Any]:
    """Train with a seed, and return accuracy, seconds of `fit` and number of training images, or the error."""
    run = task.folder / f"seed{seed}"
    command = [*task.overrides(), f"seed={seed}", "report=false", override("hydra.run.dir", run)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    if done.returncode:
        return {"error": done.stderr[-500:]}
    result = RunDirectory(run).read_result()
    assert result.data is not None
    return {
        "accuracy": result.metrics["test/acc"],
        "fit": result.seconds["fit"],
        "images": result.data.counts["train"],
    }


def goals_of(recipe: Recipe, found: list[Trained], real: bool) -> list[GoalResult]:
    """Compare means with the goals of a recipe; synthetic images have no goal of accuracy."""
    reached = interval_over_runs([run.accuracy for run in found]) if found and real else None
    spent = interval_over_runs([run.fit for run in found]) if found else None
    accuracy = GoalResult(
        f"{recipe.name}, mean test accuracy",
        f"at least {recipe.accuracy:.1%}",
        reached and reached.estimate,
        reached and reached.estimate >= recipe.accuracy,
        "" if reached is None else f"{_text(reached, 100)} %, median {_median(found, 'accuracy'):.2%}, n={len(found)}",
    )
    seconds = GoalResult(
        f"{recipe.name}, mean seconds of fit",
        f"at most {recipe.seconds:g} s",
        spent and spent.estimate,
        spent and spent.estimate <= recipe.seconds,
        "" if spent is None else _seconds(spent, found),
    )
    return [accuracy, seconds]


def _seconds(spent: Interval, found: list[Trained]) -> str:
    multiple = statistics.median(run.fit / run.bare for run in found)
    return (
        f"{_text(spent, 1)} s, median {_median(found, 'fit'):.2f} s, n={len(found)}; "
        f"{multiple:.2f} times the bare loop (median {_median(found, 'bare'):.2f} s)"
    )


def _median(found: list[Trained], name: Literal["accuracy", "fit", "bare"]) -> float:
    return float(statistics.median(getattr(run, name) for run in found))


def _text(interval: Interval, factor: float) -> str:
    return f"{factor * interval.estimate:.2f} ± {factor * interval.margin:.2f}"
