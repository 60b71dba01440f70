"""The tab inside a network: what each layer makes of an image, its first kernels, and what its filters look for."""

import html
from typing import Any

import gradio as gr
import numpy as np

from opsin.commands.explore.messages import answers, message
from opsin.commands.explore.models import Opened, Pixels, RunModels
from opsin.commands.explore.pickers import ONE_NETWORK, Source, Subject, look
from opsin.interpretability.activations import activations, layers
from opsin.interpretability.feature_visualization import ascend
from opsin.interpretability.kernels import first_kernels, kernel_pictures
from opsin.visualization.images import coloured, grid, rgb, shown

MOST = 64
"""Channels that one picture shows: with more, none can be seen."""

COLUMNS = 8

FINE, COARSE = "fine: 100 steps at the network's own size", "coarse first: from 56 pixels, enlarged 12 times"


def activation_picture(opened: Opened, source: Source, layer: str) -> tuple[Pixels, str]:
    """What the channels of a layer make of an image, the strongest first, and what it is.

    Raises:
        UserError: There is no image, or no such layer.
    """
    pixels, what = look(opened, source)
    maps = activations(opened.learned.network, opened.inputs(pixels[None]), [layer])[layer][0].numpy()
    silent = [channel for channel, map_ in enumerate(maps) if not map_.any()]
    order = np.argsort(-np.abs(maps).max(axis=(1, 2)), kind="stable")[: MOST - 1]
    top = max(float(maps.max()), 1e-9)
    low = min(float(maps.min()), 0.0)
    pictures = [rgb(pixels), *(coloured(maps[channel], "viridis", low, top) for channel in order)]
    captions = ["image", *(f"{channel}: {maps[channel].max():.3g}" for channel in order)]
    count, height, width = maps.shape
    more = f"the {len(order)} strongest of " if len(order) < count else ""
    text = (
        f"{what}; {layer}: {more}{count} channels of {width} x {height}, each with its number and largest value; "
        f"{len(silent)} of {count} are zero everywhere on this image"
    )
    return grid(pictures, columns=COLUMNS, side=104, captions=captions), text


def kernel_picture(opened: Opened) -> tuple[Pixels, str]:
    """The kernels of the first convolution, and what they are.

    Raises:
        UserError: There is none.
    """
    name, kernels = first_kernels(opened.learned.network)
    pictures = kernel_pictures(kernels)[:MOST]
    count, channels, height, width = kernels.shape
    colours = "in the colours they look for" if channels == 3 else "red is positive, blue negative"
    text = f"{name}: {count} kernels of {width} x {height} on {channels} channel{'s' * (channels > 1)}, {colours}"
    return grid(pictures, columns=COLUMNS, side=72, captions=[str(i) for i in range(len(pictures))]), text


def filter_picture(
    opened: Opened, stage: str, first: int, count: int, recipe: str, progress: Any
) -> tuple[Pixels, str]:
    """What some filters of a stage look for, by gradient ascent, one after the other.

    Raises:
        UserError: There is no such stage or filter, or it cannot run at such a size.
    """
    learned = opened.learned
    pictures, captions = [], []
    if recipe == FINE:
        how: dict[str, Any] = {"size": learned.size, "steps": 100, "upscalings": 0}
    else:
        how = {"size": (56, 56), "upscalings": 12}
    for channel in progress.tqdm(range(first, first + count), desc=f"filters of {stage}"):
        found = ascend(
            learned.network,
            stage,
            [channel],
            mean=learned.mean,
            std=learned.std,
            channels_in=learned.source_channels,
            **how,
        )
        pictures.append(shown(rgb(found.pictures[0]), 220))
        captions.append(f"{channel}: {found.start[0]:.2g} to {found.end[0]:.2g}")
    text = f"{stage}: pictures that raise a filter's mean activation, from what it was on noise to what it is now"
    return grid(pictures, columns=min(count, 4), side=220, captions=captions), text


def build(networks: RunModels, tab: gr.Tab) -> None:
    """Lay out the tab."""
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            subject = Subject(networks, tab, with_classes=False)
            layer = gr.Dropdown([], label="Layer", allow_custom_value=True)
            with gr.Accordion("Filters by gradient ascent", open=True):
                stage = gr.Dropdown([], label="Stage", allow_custom_value=True)
                with gr.Row():
                    first = gr.Number(0, label="First filter", minimum=0, precision=0, min_width=80)
                    count = gr.Slider(1, 16, 4, step=1, label="How many", min_width=100, buttons=[])
                recipe = gr.Radio([FINE, COARSE], value=FINE, label="Recipe")
                make = gr.Button("Make filter pictures")
        with gr.Column(scale=2, min_width=280):
            said = message()
            maps = gr.Image(label="Activations", format="png", buttons=["fullscreen"], elem_classes="picture")
            maps_text = gr.HTML(js_on_load=None)
            filters = gr.Image(
                label="What the filters look for", format="png", buttons=["fullscreen"], elem_classes="picture"
            )
            filters_text = gr.HTML(js_on_load=None)
            kernels = gr.Image(
                label="Kernels of the first layer", format="png", buttons=["fullscreen"], elem_classes="picture"
            )
            kernels_text = gr.HTML(js_on_load=None)

    @answers(None, "")
    def activated(name: str, source: Source, chosen: str) -> tuple[Any, str]:
        if source is None:
            return None, ""
        opened = networks.open(name)
        picture, text = activation_picture(opened, source, chosen or opened.stages[0])
        return picture, _line(text)

    @answers(gr.skip(), gr.skip(), None, "", None, "")
    def opened(name: str) -> tuple[Any, ...]:
        network = networks.open(name)
        picture, text = kernel_picture(network)
        names = list(layers(network.learned.network))
        stages = network.stages
        return (
            gr.Dropdown(names, value=stages[0]),
            gr.Dropdown(stages, value=stages[-1]),
            picture,
            _line(text),
            None,
            "",
        )

    @answers(None, "")
    def made(
        name: str,
        chosen: str,
        start: int,
        many: int,
        how: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio's way to hand one over
    ) -> tuple[Any, str]:
        network = networks.open(name)
        picture, text = filter_picture(network, chosen or network.stages[-1], int(start or 0), int(many), how, progress)
        return picture, _line(text)

    subject.connect(activated, [layer], [said, maps, maps_text])
    again: dict[str, Any] = {
        "fn": activated,
        "inputs": [subject.name, subject.source, layer],
        "outputs": [said, maps, maps_text],
        **ONE_NETWORK,
    }
    layer.input(**again)
    shown_anew = [said, layer, stage, kernels, kernels_text, filters, filters_text]
    subject.name.change(opened, subject.name, shown_anew, **ONE_NETWORK).success(**again)
    make.click(made, [subject.name, stage, first, count, recipe], [said, filters, filters_text], **ONE_NETWORK)


def _line(text: str) -> str:
    return f'<p class="size">{html.escape(text)}</p>'
