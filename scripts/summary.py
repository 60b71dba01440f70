"""Print the layers of a network: python scripts/summary.py model=resnet18_partial."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
