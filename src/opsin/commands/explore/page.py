"""The Gradio page with its tabs, theme and style sheet, and the FastAPI application that serves it."""

from importlib import resources
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse, Response
from gradio.themes.utils.fonts import LocalFont

from opsin.commands.explore import (
    classify_tab,
    convolution_image,
    convolution_steps,
    features_tab,
    pixels_tab,
    runs_tab,
)
from opsin.commands.explore.models import RunModels
from opsin.commands.explore.security import LoopbackOnly
from opsin.commands.explore.uploads import MAX_BYTES

TITLE = "Opsin explorer"

FONT = (LocalFont("Source Sans Pro", weights=(400, 700)), "sans-serif")
"""This font comes with Gradio. Not in weight 600, Gradio's default: that file has no Latin letters except A and B."""


def application(outputs: Path, data_dir: str | None) -> FastAPI:
    """Return the explorer of the runs in a folder, ready to serve.

    Args:
        outputs: The folder of runs; apart from uploads, only files in this folder and in that of the datasets are read.
        data_dir: The folder of the datasets; None for the default.
    """
    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)
    models = RunModels(outputs, data_dir)

    @app.get("/report/{name:path}")
    def report(name: str) -> Response:
        file = runs_tab.report_file(models, name)
        return FileResponse(file, media_type="text/html") if file else PlainTextResponse("No such report.", 404)

    page = build_page(models, data_dir)
    page.queue(default_concurrency_limit=4, api_open=False)
    gr.mount_gradio_app(
        app,
        page,
        "/",
        theme=gr.themes.Default(primary_hue="orange", font=FONT),
        css=(resources.files("opsin.commands.explore") / "page.css").read_text(encoding="utf-8"),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        max_file_size=MAX_BYTES,
        show_error=True,
        enable_monitoring=False,
        mcp_server=False,
    )
    # Gradio checks the location of requested files only if `has_launched` is set, which mounting does not do. Without
    # it, a request can name any file of this machine, and Gradio copies the file into the folder that it serves.
    page.has_launched = True
    app.add_middleware(LoopbackOnly)
    return app


def build_page(models: RunModels, data_dir: str | None) -> gr.Blocks:
    """Build the tabs for the runs in a folder and the datasets in another."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# Opsin explorer")
        with gr.Tabs():
            with gr.Tab("Convolution", id="convolution"), gr.Tabs():
                with gr.Tab("Step by step", id="steps"):
                    convolution_steps.build(data_dir)
                with gr.Tab("On an image", id="image"):
                    convolution_image.build_kernels(data_dir)
                with gr.Tab("Gabor filters", id="gabor"):
                    convolution_image.build_gabor(data_dir)
                with gr.Tab("Pixels", id="pixels"):
                    pixels_tab.build(data_dir)
            with gr.Tab("Classify", id="classify") as tab:
                classify_tab.build(models, tab)
            with gr.Tab("Features", id="features") as tab:
                features_tab.build(models, tab)
            with gr.Tab("Runs", id="runs") as tab:
                runs_tab.build(models, tab)
    return page
