"""The page: its frame, its look, and the application that serves it."""

from importlib import resources
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse, Response
from gradio.themes.utils.fonts import LocalFont

from opsin.commands.explore import classify_tab, convolution_image, convolution_steps, features_tab, runs_tab
from opsin.commands.explore.models import RunModels
from opsin.commands.explore.security import LoopbackOnly
from opsin.commands.explore.uploads import MOST_BYTES

TITLE = "Opsin explorer"

FONT = (LocalFont("Source Sans Pro", weights=(400, 700)), "sans-serif")
"""It comes with Gradio; not in weight 600, its own choice, whose file has no Latin letters but A and B."""


def application(outputs: Path) -> FastAPI:
    """The explorer of the runs in a folder, as an application to serve.

    Args:
        outputs: The folder of runs; nothing else is read, but what is uploaded.
    """
    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)
    networks = RunModels(outputs)

    @app.get("/report/{name:path}")
    def report(name: str) -> Response:
        file = runs_tab.report_file(networks, name)
        return (
            FileResponse(file, media_type="text/html") if file else PlainTextResponse("There is no such report.", 404)
        )

    page = build_page(networks)
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
        max_file_size=MOST_BYTES,
        show_error=True,
        enable_monitoring=False,
        mcp_server=False,
    )
    # Gradio checks where a file lies only once it "has launched", which it never learns of a page that is mounted:
    # without this, whoever names a file of this machine in a request gets it copied to where files are served from.
    page.has_launched = True
    app.add_middleware(LoopbackOnly)
    return app


def build_page(networks: RunModels) -> gr.Blocks:
    """The tabs, over the runs in a folder."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# Opsin explorer")
        with gr.Tabs():
            with gr.Tab("Convolution", id="convolution"), gr.Tabs():
                with gr.Tab("Step by step", id="stepping"):
                    convolution_steps.build()
                convolution_image.build()
            with gr.Tab("Classify", id="classify") as tab:
                classify_tab.build(networks, tab)
            with gr.Tab("Inside", id="inside") as tab:
                features_tab.build(networks, tab)
            with gr.Tab("Runs", id="runs") as tab:
                runs_tab.build(networks, tab)
    return page
