"""Which messages of Lightning a user sees."""

import logging
import warnings

from lightning.fabric.utilities.warnings import PossibleUserWarning


def quieten(speaks: bool) -> None:
    """Leave to Opsin's own lines what Lightning says of every run; only the first of several processes speaks."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*sync_dist=True", category=PossibleUserWarning)  # all are the same
    warnings.filterwarnings("ignore", message="The `srun` command is available", category=PossibleUserWarning)
    if not speaks:
        logging.getLogger("opsin").setLevel(logging.WARNING)
