"""The explorer's server: on loopback, offline, with a folder of its own for what is uploaded."""

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from opsin.errors import UserError

HOST = "127.0.0.1"


def serve(outputs: Path, port: int, announce: Callable[[str], None]) -> None:
    """Serve the explorer of the runs in a folder until Ctrl-C.

    Args:
        outputs: The folder of runs.
        port: On loopback; 0: any that is free.
        announce: Called with the address, as soon as the page can be opened.

    Raises:
        UserError: Gradio is not installed, there is no such folder, or the port is taken.
    """
    if not outputs.is_dir():
        raise UserError(f"--outputs {outputs}: there is no such folder; train something first: python train.py")
    with tempfile.TemporaryDirectory(prefix="opsin-explorer-") as own:
        go_offline(Path(own))
        try:
            import gradio  # noqa: F401
            import uvicorn
        except ImportError as error:
            raise UserError(f"The explorer needs Gradio ({error}): pip install 'opsin[app]', or make setup") from None
        from opsin.commands.explore.page import application
        from opsin.training.quiet_logging import quieten

        quieten(True)
        with _bound(port) as listener:
            app = application(outputs.resolve())
            listener.listen()  # a browser that comes from now on waits for the server
            announce(f"http://{HOST}:{listener.getsockname()[1]}")
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
            uvicorn.Server(config).run(sockets=[listener])


def go_offline(own: Path) -> None:
    """Set what Gradio reads when it is imported: nothing is reported to anybody, and files stay in one folder."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": str(own),
        "GRADIO_EXAMPLES_CACHE": str(own / "examples"),
    }


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(
            f"--port {port}: cannot be taken ({error}): choose another, or 0 for any that is free"
        ) from None
    return listener
