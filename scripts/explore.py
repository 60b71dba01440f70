"""Open a page for convolutions and trained models: python scripts/explore.py."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
