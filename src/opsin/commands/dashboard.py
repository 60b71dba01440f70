"""Open TensorBoard on runs: `opsin dashboard`."""

import os
from pathlib import Path

from opsin.commands.command_line import command, command_parser
from opsin.errors import UserError
from opsin.runs.directory import OUTPUT_DIR
from opsin.runs.home import user_path
from opsin.runs.quoting import opsin_command

SAMPLES = "images=50,pr_curves=50"
"""Steps of each kind that TensorBoard keeps in memory. Its default of 10 leaves out most epochs."""


@command
def main(arguments: list[str] | None = None) -> int:
    """Serve TensorBoard until Ctrl-C, by default on this machine only."""
    parser = command_parser("dashboard")
    parser.add_argument(
        "folder", nargs="?", type=user_path, default=Path(OUTPUT_DIR), help="a run, or a folder of runs"
    )
    options, others = parser.parse_known_args(arguments)
    if not options.folder.is_dir():
        raise UserError(
            f"{options.folder} is not a folder. Train a run first: {opsin_command('train')} writes to outputs"
        )
    from tensorboard import program
    from tensorboard.backend.event_processing import io_wrapper

    def folders_with_events(top: str) -> tuple[str, ...]:
        """Return the folders below `top` with event files. TensorBoard's own search follows the link `latest`."""
        return tuple(path for path, _, files in os.walk(top) if any(map(io_wrapper.IsTensorFlowEventsFile, files)))

    # load_fast=false: the data server in Rust does not use this function
    io_wrapper.GetLogdirSubdirectories = folders_with_events
    server = program.TensorBoard()
    own = ["--logdir", str(options.folder), "--load_fast", "false", "--samples_per_plugin", SAMPLES]
    server.configure(["dashboard", *own, *others])
    code: int = server.main()
    return code
