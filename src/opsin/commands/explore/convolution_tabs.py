"""The tab about convolutions."""

import gradio as gr

from opsin.commands.explore import convolution_steps
from opsin.commands.explore import convolution_image


def build() -> None:
    """Lay out the tab."""
    with gr.Tabs():
        with gr.Tab("Step by step", id="stepping"):
            convolution_steps.build()
        convolution_image.build()
