"""Open TensorBoard on runs: python scripts/dashboard.py [outputs] [--port 6006]."""

import sys

from opsin.commands.dashboard import main

if __name__ == "__main__":
    sys.exit(main())
