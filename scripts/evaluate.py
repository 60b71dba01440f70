"""Evaluate a finished run again: python scripts/evaluate.py outputs/latest."""

import sys

from opsin.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
