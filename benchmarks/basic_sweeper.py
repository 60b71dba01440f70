"""Run a sweep with Hydra's basic sweeper: one run after the other, in one process. Opsin itself has no such command."""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from opsin.commands.train_cli import run_config
from opsin.config import ConfigSource, compose
from opsin.config.hydra_session import hydra_session
from opsin.config.overrides import task_overrides


def main(overrides: list[str]) -> None:
    """Run the sweep of some overrides, such as `seed=range(10)`."""
    source = ConfigSource()

    def job(_: DictConfig) -> float:
        settings = HydraConfig.get()
        return run_config(compose(task_overrides(settings), Path(settings.runtime.output_dir), source))

    hydra_session(source).multirun(source.config_name, job, overrides)


if __name__ == "__main__":
    main(sys.argv[1:])
