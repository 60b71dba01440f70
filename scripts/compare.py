"""Compare runs: python scripts/compare.py RUN RUN ... | SWEEP | outputs."""

import sys

from opsin.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
