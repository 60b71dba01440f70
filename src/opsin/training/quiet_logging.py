"""Filter the messages of Lightning."""

import logging
import warnings

from lightning.fabric.utilities.warnings import PossibleUserWarning


def quieten(writes: bool) -> None:
    """Hide messages of Lightning that Opsin replaces, and all messages of processes that do not write.

    Args:
        writes: whether this process logs.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec", category=FutureWarning)
    warnings.filterwarnings(
        "ignore", message=".*sync_dist=True", category=PossibleUserWarning
    )  # metrics are reduced over all processes
    warnings.filterwarnings("ignore", message="The `srun` command is available", category=PossibleUserWarning)
    if not writes:
        logging.getLogger("opsin").setLevel(logging.WARNING)
