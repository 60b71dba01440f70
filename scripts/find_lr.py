"""Find a learning rate with a range test: python scripts/find_lr.py model=cnn_gap datamodule=mnist."""

import sys

from opsin.commands.find_lr import main

if __name__ == "__main__":
    sys.exit(main())
