"""The link to the newest run."""

from pathlib import Path

import lightning as L

from opsin.runs.directory import RunDirectory


class LatestLink(L.Callback):
    """Point `outputs/latest` at the run when its training begins; a run that fails earlier does not change the link.

    Args:
        run: The run directory.
        outputs: The folder of the link.
    """

    def __init__(self, run: RunDirectory, outputs: Path) -> None:
        self._run = run
        self._outputs = outputs

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the link."""
        if trainer.is_global_zero:
            self._run.become_latest(self._outputs)
