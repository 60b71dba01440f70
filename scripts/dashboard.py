"""Open TensorBoard on runs: python scripts/dashboard.py [outputs] [--port 6006]."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
