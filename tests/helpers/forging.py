"""Forgeries of a finished run, for tests of `opsin verify`.

A plain forgery edits one file. A consistent one also edits all that follows from it: predictions, metrics, tables, the
facts in the checkpoints, and the digests at last.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from opsin.commands.evaluate import measure
from opsin.evaluation.calibration import calibrate
from opsin.inference.opened_run import open_run
from opsin.runs.digests import record_digests
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import read_epochs, write_epochs
from opsin.runs.per_class import SplitScores
from opsin.runs.predictions import Predictions, read_predictions
from opsin.runs.result import result_text
from opsin.training import build
from opsin.training.recording import data_facts

Forgery = Callable[[RunDirectory, Path, int], None]
"""Function of a run, its folder of images and the number of a variant."""


def recompute_digests(run: RunDirectory) -> None:
    """Write digests that fit the forged files."""
    record_digests(run.path, {"result.json": result_text(run.read_result()).encode()})


def edit_checkpoints(run: RunDirectory, edit: Callable[[dict[str, Any]], None], *names: str) -> None:
    """Change the content of checkpoints, by default of all; hard links stay links."""
    files = [run.checkpoints / name for name in names] or sorted(run.checkpoints.rglob("*.ckpt"))
    done: dict[int, Path] = {}
    for file in files:
        inode = file.stat().st_ino
        content = torch.load(file, weights_only=True) if inode not in done else None
        file.unlink()
        if content is None:
            file.hardlink_to(done[inode])
        else:
            edit(content)
            torch.save(content, file)
            done[inode] = file


def edit_result(run: RunDirectory, **fields: Any) -> None:
    run.write_result(replace(run.read_result(), **fields))


def edit_metrics(run: RunDirectory, changes: Mapping[str, float]) -> None:
    edit_result(run, metrics={**run.read_result().metrics, **changes})


def write_predictions(run: RunDirectory, predictions: Predictions) -> None:
    """Write predictions, with the metrics and the tables that follow from them."""
    from opsin.commands.verify.recomputed import _metrics

    predictions.write(run)
    result = run.read_result()
    metrics, confusion = _metrics(open_run(run), predictions)
    SplitScores.of(confusion.numpy(), predictions.classes).write(run, predictions.split)
    calibration = calibrate(predictions.logits, predictions.targets) if predictions.split == "val" else None
    metrics = {name: float(np.float32(value)) for name, value in metrics.items()}  # as Lightning logs them
    metrics = {**result.metrics, **metrics}
    monitor = replace(result.monitor, best=metrics[result.monitor.metric])
    edit_result(run, metrics=metrics, monitor=monitor, calibration=calibration or result.calibration)
    if predictions.split == "val":
        best = {name: value for name, value in metrics.items() if not name.startswith("test/")}
        rows = [
            replace(row, values={**row.values, **best}) if row.epoch == result.best_epoch else row
            for row in read_epochs(run.metrics)
        ]
        write_epochs(run.metrics, rows)
        edit_checkpoints(run, lambda content: _set_best(content, best, monitor.best), "best.ckpt", "last.ckpt")


def weights(run: RunDirectory, images: Path, variant: int) -> None:
    """Change one tensor of the best checkpoint, and of the checkpoints that are the same."""

    def edit(content: dict[str, Any]) -> None:
        state = content["state_dict"]
        names = [name for name in state if name.startswith("network.") and state[name].is_floating_point()]
        tensor = state[names[-1 - variant]]
        tensor.add_(torch.full_like(tensor, 0.05 * (variant + 1)))

    best = run.best.read_bytes()
    same = [file for file in run.checkpoints.rglob("*.ckpt") if file.read_bytes() == best]
    edit_checkpoints(run, edit, *(str(file.relative_to(run.checkpoints)) for file in same))


def weights_consistent(run: RunDirectory, images: Path, variant: int) -> None:
    weights(run, images, variant)
    for split in ("val", "test"):
        write_predictions(run, measure(run, split, [f"datamodule.path={images}"])[1])
    recompute_digests(run)


def metrics(run: RunDirectory, images: Path, variant: int) -> None:
    """Change a number of the result."""
    result = run.read_result()
    name = ("test/acc", "test/loss", "val/acc", "train/loss", "test/f1_macro")[variant]
    edit_metrics(run, {name: result.metrics[name] * 1.01})


def metrics_consistent(run: RunDirectory, images: Path, variant: int) -> None:
    """Improve the metrics of the test by better predictions of some images."""
    predictions = read_predictions(run, "test")
    logits = predictions.logits.copy()
    for row in np.argsort(logits[np.arange(len(logits)), predictions.targets])[: variant + 1]:
        logits[row, predictions.targets[row]] = logits[row].max() + 1
    write_predictions(run, replace(predictions, logits=logits))
    recompute_digests(run)


def predictions(run: RunDirectory, images: Path, variant: int) -> None:
    """Change predictions of one split, without the metrics."""
    split = ("test", "val")[variant % 2]
    found = read_predictions(run, split)
    logits, targets = found.logits.copy(), found.targets.copy()
    if variant < 2:
        logits[variant] += np.float32(0.25) * np.arange(logits.shape[1], dtype=np.float32)
    elif variant < 4:
        logits[[0, -1]] = logits[[-1, 0]]
    else:
        targets[0] = (targets[0] + 1) % logits.shape[1]
    replace(found, logits=logits, targets=targets).write(run)


def predictions_consistent(run: RunDirectory, images: Path, variant: int) -> None:
    predictions(run, images, variant)
    for split in ("val", "test"):
        write_predictions(run, read_predictions(run, split))
    recompute_digests(run)


CONFIG_EDITS: tuple[dict[str, Any], ...] = (
    {"optimizer.lr": 0.0123},
    {"seed": 43},
    {"trainer.max_epochs": 7},
    {"augmentation.horizontal_flip": 0.0},
    {"loss.label_smoothing": 0.1},
)


def config(run: RunDirectory, images: Path, variant: int) -> None:
    """Change a value of the config."""
    run.config.write_text(_edited(run.config.read_text(), CONFIG_EDITS[variant]))


def config_consistent(run: RunDirectory, images: Path, variant: int) -> None:
    config(run, images, variant)
    settings = run.read_result().settings
    edits = CONFIG_EDITS[variant]
    if "trainer.max_epochs" in edits:
        edit_result(run, settings=replace(settings, max_epochs=edits["trainer.max_epochs"]))
    if "seed" in edits:
        edit_result(run, seed=edits["seed"])

    def edit(content: dict[str, Any]) -> None:
        record = content["opsin"]["training"]
        record["config"] = _edited(record["config"], edits)

    edit_checkpoints(run, edit)
    recompute_digests(run)


def data(run: RunDirectory, images: Path, variant: int) -> None:
    """Change an image of a split, or its class."""
    split = ("test", "test", "train", "val", "test")[variant]
    folder = sorted(path for path in (images / split).iterdir() if path.is_dir())
    file = sorted(folder[0].iterdir())[variant]
    if variant == 1:
        file.rename(folder[1] / f"moved_{file.name}")
        return
    pixels = np.asarray(Image.open(file))
    Image.fromarray(255 - pixels).save(file)


def data_consistent(run: RunDirectory, images: Path, variant: int) -> None:
    data(run, images, variant)
    opened = open_run(run, [f"datamodule.path={images}"])
    made = build.data(opened.plan, image_format=opened.data_facts.image_format)
    made.setup()
    facts = data_facts(made)
    edit_result(run, data=facts)

    def edit(content: dict[str, Any]) -> None:
        content["opsin"]["data"] |= {"fingerprint": facts.fingerprint, "dataset": facts.dataset}

    edit_checkpoints(run, edit)
    recompute_digests(run)


FORGERIES: dict[str, tuple[Forgery, Forgery]] = {
    "weights": (weights, weights_consistent),
    "metrics": (metrics, metrics_consistent),
    "predictions": (predictions, predictions_consistent),
    "config": (config, config_consistent),
    "data": (data, data_consistent),
}
"""For each kind, the plain forgery and the consistent one; each has five variants."""

VARIANTS = 5


def _edited(text: str, edits: Mapping[str, Any]) -> str:
    tree = yaml.safe_load(text)
    for key, value in edits.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node[section]
        assert last in node, key
        node[last] = value
    return yaml.safe_dump(tree, sort_keys=False)


def _set_best(content: dict[str, Any], metrics: Mapping[str, float], value: float) -> None:
    """Change the metrics of the best epoch that a checkpoint remembers."""
    state = next(state for key, state in content["callbacks"].items() if key.startswith("Checkpoints"))
    state |= {"metrics": dict(metrics), "value": value}
