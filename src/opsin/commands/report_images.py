"""Make the images of a report: misclassified images with class activation maps, augmentation, and kernels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from opsin.data import ImageDataModule
from opsin.data.augmentation.augmentation import Augmentation
from opsin.data.loader.batch_loader import batch_key
from opsin.data.types import Indices, Split
from opsin.errors import UserError
from opsin.evaluation.confusion import most_confident_errors
from opsin.evaluation.report.pictures import INDEX_FILE, pictures_folder
from opsin.inference.opened_run import open_run
from opsin.interpretability.attribution import gradcam
from opsin.interpretability.eval_context import as_input, eval_context, resolve_stage
from opsin.interpretability.faithfulness import RandomComparison, faithfulness, random_maps
from opsin.interpretability.kernels import first_kernels, kernel_pictures
from opsin.models import Network
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import Predictions, check_positions, read_predictions, softmax
from opsin.visualization.images import Pixels, encode, grid, overlay_heat, resize_for_display

MISCLASSIFIED, TOP_CLASSES = 12, 3
MAPS_CHECKED, CHECK_STEPS = 4, 8  # few maps, and few steps of their curves: a report must not take long
SAMPLES, VIEWS = 6, 5
KERNELS = 64
SIDE = 168
"""Longer side of a misclassified image in pixels."""


def make_images(run: RunDirectory, data: ImageDataModule, network: Network, predictions: Predictions) -> Path:
    """Make the images of a run's report in `RUN/pictures`; the network, its mode and all random states do not change.

    Args:
        run: The run directory.
        data: The data of the run.
        network: The network with the weights of the best checkpoint, on any device.
        predictions: Predictions of the test or validation images, to find misclassified images.

    Returns:
        The path of `pictures.json`, which lists the images.
    """
    folder = pictures_folder(run)
    index: dict[str, Any] = {"split": predictions.split}
    index |= _misclassified(folder, data, network, predictions)
    index |= _augmentation(folder, data)
    index |= _kernels(folder, network)
    index_path = folder / INDEX_FILE
    write_atomically(index_path, json.dumps(index, indent=2) + "\n")
    return index_path


def remake_images(run: RunDirectory) -> Path:
    """Make the images of a run's report from its directory and its data.

    Raises:
        UserError: The run has no checkpoint or no predictions, or its data has changed or is missing.
    """
    opened = open_run(run)
    try:
        predictions = read_predictions(run, "test")
    except UserError:
        predictions = read_predictions(run, "val")
    return make_images(run, opened.data, opened.network, predictions)


def _misclassified(folder: Path, data: ImageDataModule, network: Network, predictions: Predictions) -> dict[str, Any]:
    rows = most_confident_errors(predictions, MISCLASSIFIED)
    if not len(rows):
        return {"misclassified": [], "stage": None, "note": None, "check": None}
    subset, positions = data.subset(cast("Split", predictions.split)), predictions.positions[rows]
    check_positions(positions, predictions.split, len(subset))
    pixels = subset.read(positions)
    inputs = data.preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    heat, stage, note = _maps(network, inputs, torch.from_numpy(predictions.predicted[rows]))
    check = None if heat is None else _against_random(network, inputs, predictions.predicted[rows], heat)
    probabilities, entries = softmax(predictions.logits[rows]), []
    for place, row in enumerate(rows.tolist()):
        name, image = f"misclassified_{place + 1:02}", resize_for_display(pixels[place], SIDE)
        write_atomically(folder / f"{name}.png", encode(image))
        if heat is not None:
            write_atomically(folder / f"{name}_cam.png", encode(overlay_heat(image, heat[place].numpy())))
        best = np.argsort(-probabilities[place], kind="stable")[:TOP_CLASSES].tolist()
        entries.append(
            {
                "image": f"{name}.png",
                "cam": f"{name}_cam.png" if heat is not None else None,
                "path": predictions.paths[row],
                "true": predictions.classes[predictions.targets[row]],
                "predictions": [[predictions.classes[i], float(probabilities[place, i])] for i in best],
            }
        )
    return {"misclassified": entries, "stage": stage, "note": note, "check": check}


def _against_random(network: Network, inputs: Tensor, classes: Indices, heat: Tensor) -> dict[str, Any]:
    """Compare the first maps with random ones: whether they are better, and a sentence with the values."""
    some, targets = inputs[:MAPS_CHECKED], torch.from_numpy(classes[:MAPS_CHECKED])
    scores, baseline = (
        faithfulness(network, some, targets, maps, steps=CHECK_STEPS)
        for maps in (heat[:MAPS_CHECKED], random_maps(some))
    )
    compared = RandomComparison.of(scores, baseline)
    return {"better": compared.is_better, "statement": compared.statement}


def _maps(network: Network, inputs: Tensor, classes: Tensor) -> tuple[Tensor | None, str | None, str | None]:
    """Return Grad-CAM maps `(N, H, W)` and their stage; or None for both, and the reason."""
    try:
        with eval_context(network) as model:
            stage = resolve_stage(model, as_input(model, inputs[:1]), None)
        return gradcam(network, inputs, classes, stage), stage, None
    except UserError as error:
        return None, None, f"There are no class activation maps: {error}."


def _augmentation(folder: Path, data: ImageDataModule) -> dict[str, Any]:
    """Make an image of training images next to five augmented versions of each."""
    train = data.subset("train")
    chosen = np.sort(np.random.default_rng(data.seed).choice(len(train), min(SAMPLES, len(train)), replace=False))
    pixels, targets = train.read(chosen), train.targets[chosen]
    plain = data.preprocess.to_unit_range(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    views = _views(data.augmentation, plain, torch.from_numpy(targets), data.seed)
    names = [data.source.classes[target] for target in targets]
    rows = [[_pixels(plain[i]), *(_pixels(view[i]) for view in views)] for i in range(len(plain))]
    captions = [caption for name in names for caption in (name, *[""] * len(views))]
    picture = grid(
        [image for row in rows for image in row], columns=len(views) + 1 if views else len(plain), captions=captions
    )
    write_atomically(folder / "augmentation.png", encode(picture))
    what = data.augmentation.describe() if type(data.augmentation) is Augmentation else str(data.augmentation)
    text = f"the first image of each row is the original, the others are augmented: {what}" if views else "none"
    return {"augmentation": "augmentation.png", "augmentation_text": text}


def _views(augmentation: nn.Module | None, plain: Tensor, targets: Tensor, seed: int) -> list[Tensor]:
    """Return several augmented versions `(B, C, H, W)` of the images; none if the augmentation changes nothing."""
    if augmentation is None:
        return []
    was_training = augmentation.training
    augmentation.train()
    try:
        found = [augmentation(plain.clone(), targets, batch_key(seed, 0, step, 0))[0] for step in range(VIEWS)]
    finally:
        augmentation.train(was_training)
    return [] if all(torch.equal(view, plain) for view in found) else found


def _kernels(folder: Path, network: Network) -> dict[str, Any]:
    try:
        name, weights = first_kernels(network)
    except UserError:
        return {"kernels": None, "kernels_layer": None}
    some: Sequence[Pixels] = kernel_pictures(weights)[:KERNELS]
    write_atomically(folder / "kernels.png", encode(grid(some, columns=min(16, max(8, len(some) // 4)), side=48)))
    more = f", the first {KERNELS} of {len(weights)}" if len(weights) > KERNELS else ""
    return {"kernels": "kernels.png", "kernels_layer": f"{name}{more}"}


def _pixels(image: Tensor) -> Pixels:
    """Return an image `(C, H, W)` in [0, 1] as uint8 pixels `(H, W, C)`."""
    bytes_ = (image * 255).round().clamp(0, 255).to(torch.uint8)
    picture: Pixels = bytes_.permute(1, 2, 0).numpy()
    return picture
