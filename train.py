"""Train an image classifier: `python train.py datamodule=mnist model=cnn_gap`; `python train.py --help` says more."""

import os
import sys

from opsin.commands.train_cli import main

if __name__ == "__main__":
    # Threads that spin while they wait make a run up to ten times slower as soon as another program wants their core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
