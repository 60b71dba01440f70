"""Visualize what a network has learned: python scripts/interpret.py outputs/latest --what gradcam."""

import sys

from opsin.commands.interpret import main

if __name__ == "__main__":
    sys.exit(main())
