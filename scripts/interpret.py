"""Visualize what a network has learned: python scripts/interpret.py outputs/latest --what gradcam."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
