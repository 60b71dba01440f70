"""Write the backbone of a run to a file for model.weights: python scripts/export.py outputs/latest FILE."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
