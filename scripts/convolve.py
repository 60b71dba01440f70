"""Draw convolutions, no network needed: python scripts/convolve.py --image coins --kernel blur."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
