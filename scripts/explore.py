"""Open a page to play with convolutions and with the networks of runs: python scripts/explore.py."""

import argparse
import sys
from pathlib import Path

from opsin.errors import UserError


def main() -> int:
    """Serve the page until Ctrl-C, or print a one-line error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="the folder of runs (default: outputs)")
    parser.add_argument("--port", type=int, default=7860, help="port on 127.0.0.1; 0 takes a free one (default: 7860)")
    arguments = parser.parse_args()
    try:
        from opsin.commands.explore.server import serve

        serve(
            arguments.outputs,
            arguments.port,
            announce=lambda address: print(f"The explorer: {address} (stop with Ctrl-C)", flush=True),
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
