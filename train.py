"""Train an image classifier: `python train.py datamodule=mnist model=cnn_gap`; `python train.py --help` says more."""

import sys

from opsin.commands.dispatch import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
