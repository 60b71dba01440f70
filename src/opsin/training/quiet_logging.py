"""Filter the messages of Lightning."""

import logging
import warnings

from lightning.fabric.utilities.warnings import PossibleUserWarning


def hide_notices() -> None:
    """Hide the notices of Lightning: hardware, tips, advertisements, and warnings that do not apply to Opsin."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec", category=FutureWarning)
    warnings.filterwarnings(
        "ignore", message=".*sync_dist=True", category=PossibleUserWarning
    )  # metrics are reduced over all processes
    warnings.filterwarnings(
        "ignore", message="Be aware that when using `ckpt_path`, callbacks"
    )  # a resume may remove callbacks by the rules of opsin.config.resume_rules
    warnings.filterwarnings("ignore", message="The `srun` command is available", category=PossibleUserWarning)
