"""The tab Features: activations of each layer for an image, first-layer kernels, and feature visualization."""

import html
from typing import Any

import gradio as gr
import numpy as np

from opsin.commands.explore.models import OpenModel, RunModels
from opsin.commands.explore.outputs import error_area, picture_area, shows_errors
from opsin.commands.explore.pickers import ONE_AT_A_TIME, ImageChoice, ModelAndImagePicker, selected_image
from opsin.errors import UserError
from opsin.interpretability.activations import activations, layers
from opsin.interpretability.feature_visualization import ascend
from opsin.interpretability.kernels import first_kernels, kernel_pictures
from opsin.visualization.images import Pixels, colorize, grid, resize_for_display, rgb

MAX_CHANNELS = 64
"""Number of channels in one image: more would be too small to see."""

COLUMNS = 8

SINGLE_SCALE = "single scale: 100 steps at the input size of the network"
MULTI_SCALE = "multi-scale: from 56 pixels, enlarged 12 times"


def activation_picture(model: OpenModel, image: ImageChoice, layer: str) -> tuple[Pixels, str]:
    """Return the activation maps of a layer's channels for an image, the strongest first, and a caption.

    Raises:
        UserError: No image is chosen, or there is no such layer.
    """
    pixels, what = selected_image(model, image)
    maps = activations(model.trained_model.network, model.inputs(pixels[None]), [layer])[layer][0].numpy()
    zero = sum(not map_.any() for map_ in maps)
    order = np.argsort(-np.abs(maps).max(axis=(1, 2)), kind="stable")[: MAX_CHANNELS - 1]
    top = max(float(maps.max()), 1e-9)
    low = min(float(maps.min()), 0.0)
    pictures = [rgb(pixels), *(colorize(maps[channel], "viridis", low, top) for channel in order)]
    captions = ["image", *(f"{channel}: {maps[channel].max():.3g}" for channel in order)]
    count, height, width = maps.shape
    more = f"the {len(order)} strongest of " if len(order) < count else ""
    text = (
        f"{what}; {layer}: {more}{count} channels of {width} x {height}, each with its number and maximum; "
        f"{zero} of {count} are zero everywhere for this image"
    )
    return grid(pictures, columns=COLUMNS, side=104, captions=captions), text


def kernel_picture(model: OpenModel) -> tuple[Pixels, str]:
    """Return the kernels of the first convolution, and a caption.

    Raises:
        UserError: The network has no convolution.
    """
    name, kernels = first_kernels(model.trained_model.network)
    pictures = kernel_pictures(kernels)[:MAX_CHANNELS]
    count, channels, height, width = kernels.shape
    colors = "shown as RGB colors" if channels == 3 else "red is positive, blue is negative"
    text = f"{name}: {count} kernels of {width} x {height} on {channels} channel{'s' * (channels > 1)}, {colors}"
    return grid(pictures, columns=COLUMNS, side=72, captions=[str(i) for i in range(len(pictures))]), text


def filter_picture(
    model: OpenModel, stage: str, first: int, count: int, recipe: str, progress: Any
) -> tuple[Pixels, str]:
    """Return feature visualizations of some filters of a stage by gradient ascent, and a caption.

    Raises:
        UserError: There is no such stage or filter, or the network cannot run at this size.
    """
    trained = model.trained_model
    pictures, captions = [], []
    if recipe == SINGLE_SCALE:
        how: dict[str, Any] = {"size": trained.size, "steps": 100, "upscalings": 0}
    else:
        how = {"size": (56, 56), "upscalings": 12}
    for channel in progress.tqdm(range(first, first + count), desc=f"filters of {stage}"):
        found = ascend(
            trained.network,
            stage,
            [channel],
            mean=trained.mean,
            std=trained.std,
            channels_in=trained.source_channels,
            **how,
        )
        pictures.append(resize_for_display(rgb(found.pictures[0]), 220))
        captions.append(f"{channel}: {found.start[0]:.2g} to {found.end[0]:.2g}")
    text = f"{stage}: images that maximize a filter's mean activation, with its value for noise and for this image"
    return grid(pictures, columns=min(count, 4), side=220, captions=captions), text


def build(models: RunModels, tab: gr.Tab) -> None:
    """Build the tab."""
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            picker = ModelAndImagePicker(models, tab, with_classes=False)
            layer = gr.Dropdown([], label="Layer", allow_custom_value=True)
            with gr.Accordion("Feature visualization by gradient ascent", open=True):
                stage = gr.Dropdown([], label="Stage", allow_custom_value=True)
                with gr.Row():
                    first = gr.Number(0, label="First filter", minimum=0, precision=0, min_width=80)
                    count = gr.Slider(1, 16, 4, step=1, label="Number of filters", min_width=100, buttons=[])
                recipe = gr.Radio([SINGLE_SCALE, MULTI_SCALE], value=SINGLE_SCALE, label="Method")
                visualize = gr.Button("Visualize filters")
        with gr.Column(scale=2, min_width=280):
            error = error_area()
            maps = picture_area("Activations")
            maps_text = gr.HTML(js_on_load=None)
            filters = picture_area("Feature visualization")
            filters_text = gr.HTML(js_on_load=None)
            kernels = picture_area("Kernels of the first layer")
            kernels_text = gr.HTML(js_on_load=None)

    @shows_errors(None, "")
    def show_activations(name: str, image: ImageChoice, chosen: str) -> tuple[Any, str]:
        if image is None:
            return None, ""
        model = models.open(name)
        picture, text = activation_picture(model, image, chosen or model.stages[0])
        return picture, _caption(text)

    @shows_errors(gr.skip(), gr.skip(), None, "", None, "")
    def show_model(name: str) -> tuple[Any, ...]:
        return (*_choices_and_kernels(models.open(name)), None, "")

    @shows_errors(None, "")
    def show_filters(
        name: str,
        chosen: str,
        start: int,
        many: int,
        how: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - as Gradio requires
    ) -> tuple[Any, str]:
        model = models.open(name)
        picture, text = filter_picture(model, chosen or model.stages[-1], int(start or 0), int(many), how, progress)
        return picture, _caption(text)

    picker.connect(show_activations, [layer], [error, maps, maps_text])
    again: dict[str, Any] = {
        "fn": show_activations,
        "inputs": [picker.name, picker.image, layer],
        "outputs": [error, maps, maps_text],
        **ONE_AT_A_TIME,
    }
    layer.input(**again)
    of_model = [error, layer, stage, kernels, kernels_text, filters, filters_text]
    picker.name.change(show_model, picker.name, of_model, **ONE_AT_A_TIME).success(**again)
    visualize.click(
        show_filters, [picker.name, stage, first, count, recipe], [error, filters, filters_text], **ONE_AT_A_TIME
    )


def _choices_and_kernels(model: OpenModel) -> tuple[gr.Dropdown, gr.Dropdown, Pixels | None, str]:
    """Return the layers and the stages of a model to choose from, its first kernels, and their caption."""
    try:
        picture, text = kernel_picture(model)
    except UserError as error:  # the network has no convolution, but has other features
        picture, text = None, str(error)
    names, stages = list(layers(model.trained_model.network)), model.stages
    return gr.Dropdown(names, value=stages[0]), gr.Dropdown(stages, value=stages[-1]), picture, _caption(text)


def _caption(text: str) -> str:
    return f'<p class="caption">{html.escape(text)}</p>'
