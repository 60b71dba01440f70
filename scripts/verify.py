"""Verify a finished run: python scripts/verify.py outputs/latest."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
