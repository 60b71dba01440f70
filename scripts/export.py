"""Write the backbone of a run to a file for model.weights: python scripts/export.py outputs/latest FILE."""

import sys

from opsin.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
