"""Hydra looks for plugins in this package; what a multirun does is in `opsin.sweep`."""

import sys
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OpsinSweeper(Sweeper):
    """Runs each job of a multirun in a process of its own, and goes on with a sweep that was cut off."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra has composed; jobs run the script, and not the function."""
        self._context, self._config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep; this process ends with its exit code."""
        from opsin.errors import Interrupted, UserError
        from opsin.sweep import sweep

        try:
            sys.exit(sweep(self._config, arguments, self._context.config_loader))
        except UserError as error:
            sys.exit(str(error))
        except Interrupted as stop:
            sys.exit(128 + stop.signal)
