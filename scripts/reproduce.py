"""Reproduce the figures of the lectures: python scripts/reproduce.py --only mnist --data-dir DATA."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # for `benchmarks`, which is beside the package
    from benchmarks.reproduce.command import main

    sys.exit(main())
