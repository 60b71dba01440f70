"""Test accuracy in bfloat16 and in float32, compared over seeds: the same runs, once in each precision."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.goals import GoalResult
from benchmarks.session import Session
from opsin.commands import train
from opsin.config import compose
from opsin.evaluation.confidence_intervals import t_interval
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import override
from opsin.training.quiet_logging import hide_notices

MARGIN = 0.3
"""Percentage points within which the interval of the difference must lie."""

QUIET = (
    "trainer=cpu",
    "callbacks=no_pictures",
    "callbacks.progress.bar=false",
    "callbacks.early_stopping=null",
    "logger=none",
    "report=false",
)


@dataclass(frozen=True)
class Comparison:
    """Runs on one dataset.

    Attributes:
        words: Overrides of a run.
        folder: Folder of the real images in the data folder; None if the package has the images.
        seeds: Number of seeds.
    """

    words: tuple[str, ...]
    folder: str | None
    seeds: int


COMPARISONS = {
    "precision_digits": Comparison(("datamodule=digits", "model=cnn_gap", "trainer.max_epochs=8"), None, 60),
    "precision_mnist": Comparison(("experiment=mnist_cnn_gap", "trainer.max_epochs=4"), "MNIST/raw", 5),
    "precision_cifar10": Comparison(("experiment=cifar10_cnn_batchnorm", "trainer.max_epochs=12"), "cifar10_jpeg", 10),
    "precision_cats_vs_dogs": Comparison(
        ("experiment=cats_vs_dogs_efficientnet_lite0_feature_extract",), "cats_vs_dogs_original", 10
    ),
}
"""The comparisons by the name for `--only`."""


def comparison(name: str) -> Callable[[Session], tuple[dict[str, Any], list[GoalResult]]]:
    """Return the measurement of a comparison."""
    return lambda session: _compare(session, name, COMPARISONS[name])


def _compare(session: Session, name: str, runs: Comparison) -> tuple[dict[str, Any], list[GoalResult]]:
    """Train each seed in both precisions, and compare the test accuracies of the same seed."""
    if runs.folder and not (session.data_dir / runs.folder).is_dir():
        return {"error": f"{session.data_dir / runs.folder} is missing"}, [_verdict(name, [])]
    hide_notices()
    logging.getLogger("opsin").setLevel(logging.WARNING)
    found: dict[str, list[float]] = {"32": [], "bf16": []}
    for seed in range(2 if session.quick else runs.seeds):
        for precision, accuracies in found.items():
            accuracies.append(_accuracy(session, name, runs, seed, precision))
        session.log(f"{name}: seed {seed}, " + ", ".join(f"{p} {values[-1]:.2f} %" for p, values in found.items()))
    differences = [b - a for a, b in zip(found["32"], found["bf16"], strict=True)]
    return {**found, "differences": differences}, [_verdict(name, differences)]


def _accuracy(session: Session, name: str, runs: Comparison, seed: int, precision: str) -> float:
    folder = session.folder / name
    place = folder / f"{precision}_{seed}"
    place.mkdir(parents=True)
    words = [*runs.words, *QUIET, f"seed={seed}", f"trainer.precision={precision}"]
    words += [override("data_dir", folder / "data"), override("output_dir", folder)]
    if runs.folder:
        words.append(override("datamodule.path", session.data_dir.absolute() / runs.folder))
    if session.quick:
        words += ["trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    train.train(compose(words, place))
    return 100 * RunDirectory(place).read_result().metrics["test/acc"]


def _verdict(name: str, differences: list[float]) -> GoalResult:
    """Return whether the 95 % interval of the mean difference lies within the margin."""
    figure = f"{name.replace('precision_', 'accuracy, ')}: bfloat16 - float32"
    goal = f"95 % interval within {MARGIN:g} points"
    if len(differences) < 2:
        return GoalResult(figure, goal, None, None, "")
    mean, low, high = t_interval(differences)
    text = f"{mean:+z.2f} points ({low:+z.2f} to {high:+z.2f}), n={len(differences)}"
    return GoalResult(figure, goal, mean, low >= -MARGIN and high <= MARGIN, text)
