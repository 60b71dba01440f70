"""Classify images: python scripts/predict.py outputs/latest photo.jpg FOLDER --top 3."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
