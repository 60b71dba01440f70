"""Write a trained model to a file for other programs: python scripts/export.py outputs/latest --format onnx."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
