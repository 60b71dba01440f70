"""The config as text in TensorBoard."""

import lightning as L

from opsin.runs.directory import RunDirectory
from opsin.training.callbacks.tensorboard_base import TensorBoardCallback


class ConfigText(TensorBoardCallback):
    """Show `config.yaml`, `overrides.yaml` and `model.txt` of the run in the TEXT tab, if they exist.

    Args:
        run: The run directory.
    """

    def __init__(self, *, run: RunDirectory) -> None:
        self.run = run

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the texts; a resumed run may have new values."""
        if (board := self.board(trainer)) is None:
            return
        for file in (self.run.config, self.run.overrides, self.run.network_table):
            if file.is_file() and (text := file.read_text(encoding="utf-8").strip()) not in ("", "[]"):
                board.experiment.add_text(file.stem, f"```\n{text}\n```", trainer.global_step)
