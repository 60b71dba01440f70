"""The tab Classify: class probabilities of an image, and attribution maps."""

import html
from typing import Any

import gradio as gr
import torch

from opsin.commands.explore.models import OpenModel, RunModels
from opsin.commands.explore.outputs import error_area, picture_area, shows_errors
from opsin.commands.explore.pickers import ONE_AT_A_TIME, ImageChoice, ModelAndImagePicker, selected_image
from opsin.data.subset import evenly_spaced
from opsin.interpretability.attribution import METHODS, attribute
from opsin.interpretability.faithfulness import compare_with_random
from opsin.interpretability.sanity_check import Sanity, randomization_check
from opsin.visualization.images import Pixels, overlay_heat, resize_for_display, rgb

SIDE = 448
MOST_PROBABLE = "the most probable class"
LAST_SPATIAL = "the last spatial stage"
SANITY_IMAGES = 24
"""Number of validation images in the check with randomized weights."""


def classify(
    models: RunModels, name: str, image: ImageChoice, method: str, stage: str, chosen: str
) -> tuple[dict[str, float], Pixels, Pixels, str]:
    """Return the class probabilities of an image, the image, its attribution map as an overlay, and a caption.

    Raises:
        UserError: There is no such run, no image is chosen, or the method does not support this network.
    """
    model = models.open(name)
    pixels, what = selected_image(model, image)
    probabilities = model.probabilities(pixels)
    target = _target(model, probabilities, chosen)
    heat = attribute(
        model.trained_model.network, model.inputs(pixels[None]), torch.tensor([target]), method, _stage(model, stage)
    )[0].numpy()
    seen = rgb(resize_for_display(pixels, SIDE))
    height, width = model.trained_model.size
    about = model.classes[target]
    text = f"{what}, {width} x {height} as the network sees it; the map shows the evidence for {about!r}"
    if not heat.any():
        text += " and is empty: this stage has no evidence for the class"
    return probabilities, seen, overlay_heat(seen, heat), f'<p class="caption">{html.escape(text)}</p>'


def check_map(models: RunModels, name: str, image: ImageChoice, method: str, stage: str, chosen: str) -> str:
    """Return the comparison of the map with random ones, and the result of the check with randomized weights, as HTML.

    Raises:
        UserError: As `classify`; or the validation images of the run, which the check needs, are missing.
    """
    model = models.open(name)
    pixels, _ = selected_image(model, image)
    targets = torch.tensor([_target(model, model.probabilities(pixels), chosen)])
    network, images, where = model.trained_model.network, model.inputs(pixels[None]), _stage(model, stage)
    heat = attribute(network, images, targets, method, where)
    lines = [
        f"This map is {compare_with_random(network, images[0], int(targets[0]), heat[0]).statement}.",
        f"Randomized weights, on {SANITY_IMAGES} validation images: {_sanity(model, method, where).summary}.",
    ]
    return "".join(f'<p class="caption">{html.escape(line)}</p>' for line in lines)


def _sanity(model: OpenModel, method: str, stage: str | None) -> Sanity:
    part = model.validation
    positions = evenly_spaced(len(part), SANITY_IMAGES)
    images, targets = model.inputs(part.read(positions)), torch.from_numpy(part.targets[positions])
    return randomization_check(model.trained_model.network, images, targets, method, stage)


def _target(model: OpenModel, probabilities: dict[str, float], chosen: str) -> int:
    names = list(model.classes)
    return names.index(chosen) if chosen in names else names.index(max(probabilities, key=probabilities.__getitem__))


def _stage(model: OpenModel, stage: str) -> str | None:
    return stage if stage in model.stages else None


def build(models: RunModels, tab: gr.Tab) -> None:
    """Build the tab."""
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            picker = ModelAndImagePicker(models, tab, with_classes=True)
            method = gr.Dropdown(list(METHODS), value="gradcam", label="Attribution method")
            stage = gr.Dropdown(
                [LAST_SPATIAL], value=LAST_SPATIAL, label="Stage (for Grad-CAM)", allow_custom_value=True
            )
            chosen = gr.Dropdown([MOST_PROBABLE], value=MOST_PROBABLE, label="Class", allow_custom_value=True)
        with gr.Column(scale=2, min_width=280):
            error = error_area()
            label = gr.Label(num_top_classes=5, label="Probabilities")
            with gr.Row():
                seen = picture_area("Input of the network", min_width=200)
                over = picture_area("Evidence for the class", min_width=200)
            about = gr.HTML(js_on_load=None)
            check_button = gr.Button("Is this map faithful?")
            scores = gr.HTML(js_on_load=None)

    @shows_errors(None, None, None, None, "")
    def classify_image(*inputs: Any) -> tuple[Any, ...]:
        if inputs[1] is None:
            return None, None, None, None, ""
        return (*classify(models, *inputs), "")

    @shows_errors(gr.skip(), gr.skip())
    def update_choices(name: str) -> tuple[Any, Any]:
        model = models.open(name)
        return (
            gr.Dropdown([LAST_SPATIAL, *model.stages], value=LAST_SPATIAL),
            gr.Dropdown([MOST_PROBABLE, *model.classes], value=MOST_PROBABLE),
        )

    @shows_errors("")
    def check(*inputs: Any, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008 - as Gradio requires
        progress(0.1, desc="computing deletion and insertion scores, and maps of randomized weights")
        return check_map(models, *inputs)

    inputs = [picker.name, picker.image, method, stage, chosen]
    outputs = [error, label, seen, over, about, scores]
    again = {"fn": classify_image, "inputs": inputs, "outputs": outputs, **ONE_AT_A_TIME}
    picker.connect(classify_image, inputs[2:], outputs)
    for dropdown in (method, stage, chosen):
        dropdown.input(**again)
    picker.name.change(update_choices, picker.name, [error, stage, chosen], **ONE_AT_A_TIME).then(**again)
    check_button.click(check, inputs, [error, scores], **ONE_AT_A_TIME)
