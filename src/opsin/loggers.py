"""TensorBoard, as one curve per run."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from opsin.rundir import RunDirectory


class TensorBoard(TensorBoardLogger):
    """Events in the run's `tensorboard` folder; a resumed run continues the curve.

    Args:
        run: the run directory.
        resume_step: what an earlier process logged from this optimizer step on is hidden, for it will come again.
    """

    def __init__(self, run: RunDirectory, resume_step: int | None = None) -> None:
        super().__init__(run.path, name="tensorboard", version="", default_hp_metric=False, purge_step=resume_step)

    def log_outcome(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Fill the HPARAMS tab: what the run was told, and what came out. To be called once, at the end."""
        self.log_hyperparams(dict(config), dict(metrics))
        self.save()
