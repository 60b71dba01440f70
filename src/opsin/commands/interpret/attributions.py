"""Attribution maps with faithfulness scores and the check with randomized weights."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from opsin.commands.interpret.model_and_images import ImageBatch, ModelAndImages, Output
from opsin.inference.trained_model import TrainedModel
from opsin.interpretability.attribution import attribute, channel_maps, integrated_gradients, occlusion
from opsin.interpretability.eval_context import as_input, eval_context
from opsin.interpretability.faithfulness import Faithfulness, RandomComparison, faithfulness, random_maps
from opsin.interpretability.sanity_check import Attribute, randomization_check
from opsin.models.network import class_logits
from opsin.visualization.images import grid, overlay_heat, resize_for_display

CHECK_IMAGES = 32
"""Number of images in the check with randomized weights."""

SLOW_CHECK_IMAGES = 12
"""Number of images for methods that run the network dozens of times per map; their maps are coarser, too."""

TOP_CHANNELS = 8
"""Number of channels shown, by weight."""

SIDE = 200


class _Predicted(NamedTuple):
    """The predicted class of each image and its probability, `(N,)` each."""

    classes: Tensor
    probabilities: Tensor


def attribution_maps(source: ModelAndImages, method: str, stage: str | None, count: int) -> Iterator[Output]:
    """Make attribution maps of the predicted class for each image, with scores, and check the method."""
    network, batch = source.trained_model.network, source.selected_images(count)
    images = source.input(batch.pixels)
    predicted = _predict(source.trained_model, images)
    heat = attribute(network, images, predicted.classes, method, stage)
    scores = faithfulness(network, images, predicted.classes, heat)
    baseline = faithfulness(network, images, predicted.classes, random_maps(images))
    pictures, captions = [], []
    for i in range(len(images)):
        large = resize_for_display(batch.pixels[i], SIDE)
        pictures += [large, overlay_heat(large, heat[i].numpy())]
        captions += _captions(source, batch, predicted, scores, i)
    where = f" at {stage}" if stage else ""
    title = f"{method}{where}: evidence for the predicted class; low del and high ins are better"
    yield Output(
        method + (f"_{stage}" if stage else ""),
        grid(pictures, columns=4, side=SIDE, captions=captions, title=title),
        [f"The maps of {method} are {RandomComparison.of(scores, baseline).statement}."],
    )
    if method == "gradcam":
        yield _top_channels(source, batch, images[0], int(predicted.classes[0]), stage)
    yield Output("check", None, [_sanity_line(source, method, stage)])


def _predict(trained: TrainedModel, images: Tensor) -> _Predicted:
    """Return the predicted class of each image and its probability, with the temperature of the run."""
    with eval_context(trained.network) as still, torch.no_grad():
        rows = [class_logits(still(as_input(still, some)).float()).cpu() for some in torch.split(images, 32)]
    probabilities, classes = (torch.cat(rows) / trained.temperature).softmax(1).max(dim=1)
    return _Predicted(classes, probabilities)


def _captions(
    source: ModelAndImages, batch: ImageBatch, predicted: _Predicted, scores: Faithfulness, i: int
) -> list[str]:
    true = "" if batch.targets is None else f"true: {source.label(int(batch.targets[i]))}"
    prediction = f"{source.label(int(predicted.classes[i]))} {predicted.probabilities[i]:.1%}"
    areas = f"del {scores.deletion_area[i]:.2f}, ins {scores.insertion_area[i]:.2f}"
    return [f"{batch.names[i]}\n{true}", f"{prediction}\n{areas}"]


def _top_channels(source: ModelAndImages, batch: ImageBatch, image: Tensor, target: int, stage: str | None) -> Output:
    found = channel_maps(source.trained_model.network, image, target, stage, TOP_CHANNELS)
    large = resize_for_display(batch.pixels[0], SIDE)
    pictures = [overlay_heat(large, one.map.numpy()) for one in found]
    captions = [f"channel {one.channel}\nweight {one.weight:.3g}" for one in found]
    title = f"the {len(found)} channels with the largest weight for {source.label(target)}"
    name = "gradcam_channels" + (f"_{stage}" if stage else "")
    return Output(name, grid(pictures, columns=4, side=SIDE, captions=captions, title=title))


def _sanity_line(source: ModelAndImages, method: str, stage: str | None) -> str:
    """Check whether the maps of some images change when the weights are randomized."""
    check: str | Attribute = method
    if method == "integrated_gradients":
        check = partial(integrated_gradients, steps=12)
    elif method == "occlusion":
        window = max(2, min(source.trained_model.size) // 6)
        check = partial(occlusion, window=window, stride=window)
    count = CHECK_IMAGES if check == method else SLOW_CHECK_IMAGES
    batch = source.selected_images(count) if source.files else source.validation(count)
    images = source.input(batch.pixels[:count])
    network = source.trained_model.network
    known = batch.targets is not None
    targets = (
        torch.from_numpy(batch.targets) if batch.targets is not None else _predict(source.trained_model, images).classes
    )
    sanity = randomization_check(network, images, targets[:count], check, stage)
    if known:
        return f"randomized weights: {sanity.summary}"
    # Without labels the accuracy is unknown, so only the dependence of the maps on the weights is checked.
    outcome = "passed, the maps depend on the weights" if sanity.sensitive else "failed, the maps do not change"
    over = f"{len(images)} image{'s' * (len(images) > 1)}"
    return f"randomized weights: {outcome} (rank correlation {sanity.correlation:.2f}, {over})"
