"""The tab about convolutions."""

import gradio as gr

from opsin.explorer import stepping, sweeping


def build() -> None:
    """Lay out the tab."""
    with gr.Tabs():
        with gr.Tab("Step by step", id="stepping"):
            stepping.build()
        sweeping.build()
