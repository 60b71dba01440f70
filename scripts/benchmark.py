"""Measure Opsin beside bare PyTorch and beside common practice: python scripts/benchmark.py --help."""

import sys

if __name__ == "__main__":  # contestants import this file again, each in a process of its own
    from benchmarks.main import main

    sys.exit(main())
