"""Prepare a dataset before training: python scripts/prepare_data.py mnist [key=value ...] [--shards OUT]."""

import sys

from opsin.commands.prepare_data import main

if __name__ == "__main__":
    sys.exit(main())
