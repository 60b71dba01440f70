"""Weights & Biases, online or offline."""

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import printed_command
from opsin.training.loggers.base import RunFacts, RunLogger, recorded_id, run_name

log = logging.getLogger(__name__)


class WandB(WandbLogger, RunLogger):
    """A run in Weights & Biases; its local files are in `wandb` of the run directory.

    The step of wandb is the optimizer step, so that a resumed run repeats no point.

    Args:
        run: The run directory.
        project: Project of wandb.
        mode: `online`, or `offline` to upload later with `wandb sync`; None: WANDB_MODE, else online.
        entity: User or team; None: the default of the account.
        group: Group of runs; None: the sweep of the run, if it has one.
        api_key: The key of the account; None: WANDB_API_KEY or `wandb login`.
    """

    library: ClassVar[str] = "wandb"
    advice: ClassVar[str] = "Without an account or a network use logger.wandb.mode=offline."

    def __init__(
        self,
        run: RunDirectory,
        project: str = "opsin",
        mode: Literal["online", "offline"] | None = None,
        entity: str | None = None,
        group: str | None = None,
        api_key: str | None = None,
    ) -> None:
        identifier, _ = recorded_id(run, f"wandb {project}", secrets.token_hex(4))
        name = run_name(run)
        super().__init__(name=name, project=project, save_dir=run.path, id=identifier)
        self._api_key = api_key
        self._wandb_init |= {"mode": mode, "entity": entity, "group": group or name.rpartition("/")[0] or None}
        del self._wandb_init["anonymous"]  # wandb warns about it

    @rank_zero_only
    def log_start(self, facts: RunFacts) -> None:
        """Begin the run with its tags and config, or continue it."""
        import wandb

        # The console belongs to Opsin.
        settings: dict[str, Any] = {"silent": True, "console": "off"}
        if self._api_key:
            settings["api_key"] = self._api_key
        self._wandb_init |= {"tags": list(facts.tags) or None, "settings": wandb.Settings(**settings)}
        super().log_start(facts)
        upload = printed_command(["wandb", "sync", Path(self.experiment.dir).parent])
        log.info("wandb      %s", f"offline; upload with: {upload}" if self.experiment.offline else self.experiment.url)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values at an optimizer step."""
        self.experiment.log({**metrics, **({} if step is None else {"trainer/global_step": step})}, step=step)

    @rank_zero_only
    def log_outcome(self, facts: RunFacts, metrics: Mapping[str, float], step: int) -> None:
        """Record the final metrics in the summary, and close the run."""
        self.experiment.summary.update({f"final/{name}": value for name, value in metrics.items()})
        self.close(0)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close a failed or interrupted run; a finished one is closed after its outcome is recorded."""
        if status == "failed" and self._experiment is not None:
            self.close(1)

    def close(self, exit_code: int) -> None:
        """End the run in wandb."""
        self.experiment.finish(exit_code=exit_code)
        self._experiment = None
