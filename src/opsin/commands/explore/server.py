"""Serve the explorer on loopback, offline, with a temporary folder for uploads."""

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from opsin.errors import UserError
from opsin.runs.home import real_path
from opsin.runs.quoting import opsin_command

HOST = "127.0.0.1"


def serve(outputs: Path, port: int, announce: Callable[[str], None], data_dir: str | None = None) -> None:
    """Serve the explorer of the runs in a folder until Ctrl-C.

    Args:
        outputs: The folder of runs.
        port: Port on loopback; 0 takes a free one.
        announce: Called with the address as soon as the page can be opened.
        data_dir: The folder of the datasets; None for the default.

    Raises:
        UserError: Gradio is not installed, the folder does not exist, or the port is not available.
    """
    if not outputs.is_dir():
        raise UserError(f"--outputs {outputs}: no such folder. Train a model first: {opsin_command('train')}")
    with tempfile.TemporaryDirectory(prefix="opsin-explorer-") as folder:
        configure_gradio(Path(folder))
        try:
            import gradio  # noqa: F401
            import uvicorn
        except ImportError as error:
            raise UserError(
                f"the explorer needs Gradio ({error}). Install it: pip install 'opsin[app]', or make setup"
            ) from None
        from opsin.commands.explore.page import application

        with _bound(port) as listener:
            app = application(real_path(outputs), data_dir)
            listener.listen()  # from now on a browser waits until the server is ready
            announce(f"http://{HOST}:{listener.getsockname()[1]}")
            config = uvicorn.Config(app, log_level="warning", use_colors=False, timeout_graceful_shutdown=1)
            uvicorn.Server(config).run(sockets=[listener])


def configure_gradio(folder: Path) -> None:
    """Set the environment variables that Gradio reads on import: no telemetry, and all files in one folder."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_EXAMPLES_CACHE": str(folder / "examples"),
    }


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(f"--port {port} is not available ({error}). Use another port, or 0 for a free one") from None
    return listener
