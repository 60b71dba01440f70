"""Open a page to try convolutions and the trained models of runs: `opsin explore`."""

from pathlib import Path

from opsin.commands.command_line import command, command_parser
from opsin.runs.directory import OUTPUT_DIR
from opsin.runs.home import user_path


@command
def main(arguments: list[str] | None = None) -> int:
    """Serve the page until Ctrl-C."""
    parser = command_parser("explore")
    parser.add_argument(
        "--outputs", type=user_path, default=Path(OUTPUT_DIR), help="the folder of runs (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=7860, help="on 127.0.0.1 (default: %(default)s; 0: any free port)")
    parser.add_argument("--data-dir", metavar="FOLDER", help="the folder of the datasets (default: data)")
    options = parser.parse_intermixed_args(arguments)
    from opsin.commands.explore.server import serve

    serve(
        options.outputs,
        options.port,
        announce=lambda address: print(f"The explorer: {address} (Ctrl-C ends it)", flush=True),
        data_dir=options.data_dir,
    )
    return 0
