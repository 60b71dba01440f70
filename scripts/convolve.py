"""Draw convolutions, no network needed: python scripts/convolve.py --image coins --kernel blur."""

import sys

from opsin.commands.convolve import main

if __name__ == "__main__":
    sys.exit(main())
