"""Open a page for convolutions and trained models: python scripts/explore.py."""

import sys

from opsin.commands.explore import main

if __name__ == "__main__":
    sys.exit(main())
