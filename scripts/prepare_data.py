"""Prepare a dataset before training: python scripts/prepare_data.py mnist [key=value ...] [--shards OUT]."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
