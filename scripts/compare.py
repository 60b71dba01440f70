"""Compare runs: python scripts/compare.py RUN RUN ... | SWEEP | outputs."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
