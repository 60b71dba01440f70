"""The picker of an image that needs no network: a sample, an image of a dataset, or an upload."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from opsin.commands.explore.uploads import drop_zone, on_upload
from opsin.interpretability.convolution.dataset_images import DATASETS
from opsin.interpretability.convolution.sample_images import sample_names


def image_picker() -> tuple[gr.Dropdown, gr.Image, gr.State]:
    """Create the components: the name of an image, a drop zone, and the state with the uploaded file."""
    names = [*sample_names(), *(f"{dataset}:0" for dataset in DATASETS)]
    dropdown = gr.Dropdown(
        names, value=names[0], label="Image", info="mnist:7 is training image 7 of MNIST", allow_custom_value=True
    )
    return dropdown, *drop_zone("or your own image")


def connect(handler: Callable[..., Any], zone: gr.Image, inputs: list[Any], outputs: list[Any]) -> None:
    """Call the handler on every change of an input, and when the tab is opened.

    Args:
        handler: The handler of all events.
        zone: The drop zone of the picker.
        inputs: Name and upload of the picker, then further inputs.
        outputs: The outputs of the handler.
    """
    name, upload, *others = inputs
    for event in on_upload(zone, upload):
        event.then(handler, inputs, outputs, api_visibility="private")
    for component in (name, *others):
        component.change(handler, inputs, outputs, trigger_mode="always_last", api_visibility="private")
    tab = gr.context.Context.block
    while not isinstance(tab, gr.Tab):
        tab = tab.parent
    tab.select(handler, inputs, outputs, api_visibility="private")
