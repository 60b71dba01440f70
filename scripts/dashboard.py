"""Open TensorBoard on runs: python scripts/dashboard.py [outputs] [--port 6006 and other options of TensorBoard]."""

import argparse
import os
import sys
from pathlib import Path

SAMPLES = "images=50,pr_curves=50"
"""Steps of each kind to keep in memory; TensorBoard's own 10 leave out most epochs."""


def main() -> int:
    """Serve until interrupted, on this machine only unless TensorBoard is told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="a run, or a folder of runs")
    arguments, options = parser.parse_known_args()
    if not arguments.folder.is_dir():
        print(f"{arguments.folder} is no folder: runs are written to outputs by python train.py", file=sys.stderr)
        return 1

    from tensorboard import program
    from tensorboard.backend.event_processing import io_wrapper

    def folders_of_events(top: str) -> tuple[str, ...]:
        """The folders below `top` with events; TensorBoard's own follows links, so that `latest` would be a run too."""
        return tuple(path for path, _, files in os.walk(top) if any(map(io_wrapper.IsTensorFlowEventsFile, files)))

    io_wrapper.GetLogdirSubdirectories = folders_of_events  # the data server in Rust has no such place: load_fast
    board = program.TensorBoard()
    told = ["--logdir", str(arguments.folder), "--load_fast", "false", "--samples_per_plugin", SAMPLES]
    board.configure(["dashboard", *told, *options])
    served: int = board.main()
    return served


if __name__ == "__main__":
    sys.exit(main())
