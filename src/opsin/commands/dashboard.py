"""Open TensorBoard on runs: `opsin dashboard`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opsin.commands.command_line import command, command_parser
from opsin.commands.loopback import LOOPBACK, foreign_request
from opsin.errors import UserError
from opsin.runs.directory import OUTPUT_DIR
from opsin.runs.home import user_path
from opsin.runs.quoting import opsin_command

SAMPLES = "images=50,pr_curves=50"
"""Steps of each kind that TensorBoard keeps in memory. Its default of 10 leaves out most epochs."""


def guarded_server(app: Any, flags: Any) -> Any:
    """Return the server of TensorBoard; on loopback it answers the requests of its own page only.

    TensorBoard checks neither Host nor Origin: any web site could read runs through a domain name that resolves to
    127.0.0.1. With `--bind_all` or another `--host` the user serves other machines, whose names are not known.

    Args:
        app: The WSGI application of TensorBoard.
        flags: The flags of its command line.
    """
    from tensorboard.program import create_port_scanning_werkzeug_server

    def guarded(environ: dict[str, Any], start_response: Any) -> Any:
        if reason := foreign_request(environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")):
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [reason.encode()]
        return app(environ, start_response)

    on_loopback = not flags.bind_all and flags.host in (None, *LOOPBACK)
    return create_port_scanning_werkzeug_server(guarded if on_loopback else app, flags)


def tensorboard_server() -> Any:
    """Return TensorBoard with the guarded server, before it is configured."""
    from tensorboard import program
    from tensorboard.backend.event_processing import io_wrapper

    def folders_with_events(top: str) -> tuple[str, ...]:
        """Return the folders below `top` with event files. TensorBoard's own search follows the link `latest`."""
        return tuple(path for path, _, files in os.walk(top) if any(map(io_wrapper.IsTensorFlowEventsFile, files)))

    # load_fast=false: the data server in Rust does not use this function
    io_wrapper.GetLogdirSubdirectories = folders_with_events
    return program.TensorBoard(server_class=guarded_server)


@command
def main(arguments: list[str] | None = None) -> int:
    """Serve TensorBoard until Ctrl-C, by default on this machine only."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = command_parser(
        "dashboard",
        "Other flags are those of TensorBoard, such as --port and --host.",
        usage="%(prog)s [-h] [folder] [--port PORT] [--host HOST] [FLAG ...]",
    )
    parser.add_argument("folder", nargs="?", help=f"a run, or a folder of runs (default: {OUTPUT_DIR})")
    typed, flags = parser.parse_known_args(given)  # the help and a wrong folder need no import of TensorBoard
    if not flags:
        _existing(typed.folder)
    server = tensorboard_server()
    for loader in server.plugin_loaders:  # then the parser does not take the value of a flag for the folder
        loader.define_flags(parser)
    typed, unknown = parser.parse_known_intermixed_args(given)
    if typed.logdir:
        raise UserError(f"--logdir: name the folder without the flag: {opsin_command('dashboard', typed.logdir)}")
    if typed.folder is not None:
        given.remove(typed.folder)
    folder = _existing(typed.folder, unknown)
    own = ["--logdir", str(folder), "--load_fast", "false", "--samples_per_plugin", SAMPLES]
    server.configure(["dashboard", *own, *given])
    code: int = server.main()
    return code


def _existing(typed: str | None, unknown: Sequence[str] = ()) -> Path:
    """Return the folder of runs.

    Args:
        typed: The folder of the command line; None for the default folder.
        unknown: Arguments that TensorBoard does not know.

    Raises:
        UserError: There is no such folder.
    """
    folder = user_path(OUTPUT_DIR if typed is None else typed)
    if folder.is_dir():
        return folder
    if flag := next((text for text in unknown if text.startswith("-")), None):
        raise UserError(f"{folder} is not a folder. If it is the value of a flag, write {flag}={folder}")
    raise UserError(f"{folder} is not a folder. Train a run first: {opsin_command('train')} writes to {OUTPUT_DIR}")
