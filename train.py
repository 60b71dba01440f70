"""Train an image classifier: `python train.py datamodule=mnist model=cnn_gap`; `python train.py --help` says more."""

import os
import sys

import hydra
from omegaconf import DictConfig

from opsin import config
from opsin.errors import Interrupted, UserError
from opsin.runs.rank import is_spawned, stand_alone

composition = config.HydraErrors()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float:
    """Train on what Hydra composed; the value returned is what a sweep optimises."""
    composition.release()
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from opsin.commands.train import train  # torch and lightning are heavy: --help does without

    try:
        return train(config.from_hydra(cfg))
    except (UserError, MisconfigurationException) as error:
        config.discard_empty_run()
        raise SystemExit(str(error)) from None
    except Interrupted as stop:
        raise SystemExit(128 + stop.signal) from None  # what shells call a process that a signal ended


if __name__ == "__main__":
    # Threads that spin while they wait make a run up to ten times slower as soon as another program wants their core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    config.register_resolvers()
    try:
        sys.argv[1:] = config.check_overrides(sys.argv[1:], config.config_options())
        words = config.multirun_words(sys.argv[1:])
        config.refuse_broken_files(sys.argv[1:])
        if words is not None:
            from opsin.sweeps.sweep import sweep  # which a single run does without

            stand_alone()
            sys.exit(sweep(words))
        if is_spawned():
            from opsin.commands.train_worker import join

            join()
        sys.argv[1:] = config.expand_resume(sys.argv[1:])
        with composition:
            main()
    except UserError as error:
        sys.exit(str(error))
    except Interrupted as stop:
        sys.exit(128 + stop.signal)
    except KeyboardInterrupt:
        sys.exit(130)
