"""Find a learning rate with a range test: python scripts/find_lr.py model=cnn_gap datamodule=mnist."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
