"""From the words of a command line to a composed config: Hydra's part."""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from opsin.config import run_config
from opsin.config.overrides import PATHS, check_overrides, key_of, task_overrides
from opsin.config.resume import from_saved
from opsin.config.run_config import ConfigOrigin, RunConfig, plain
from opsin.config.suggestions import config_options, suggest
from opsin.config.yaml_files import in_words, load
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory, new_run_path
from opsin.runs.quoting import override, printed_command, printed_override

WEIGHT_NAMES = ("imagenet", "opsin", "none")
"""Values of `model.weights` that are names, even if a file or folder of that name exists."""


def from_hydra(config: DictConfig) -> RunConfig:
    """What Hydra composed for the job that runs now; on resume, the run's own config with the new values in it.

    Raises:
        UserError: the config cannot be resolved, or there is no such run to resume.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    run = RunDirectory(Path(hydra.runtime.output_dir))
    words = task_overrides(hydra)
    if config.resume and run.config.exists():
        begun = len(RunConfig.load(run).origin.overrides)
        return from_saved(run, words[begun:] if config.resume != "auto" else [])
    if config.resume not in (None, "auto"):
        place = RunDirectory.of(config.resume).path  # raises where Hydra made a new directory because this is none
        raise UserError(
            f"{printed_override('resume', place)} resumes in that directory: leave out hydra.run.dir and --multirun"
        )
    if run.config.exists():
        raise UserError(
            f"{run.path} holds a run already: resume it with {printed_override('resume', run.path)}, or name another "
            "directory"
        )
    return _composed(config, hydra, run)


def discard_empty_run() -> None:
    """Take away the directory that Hydra made for a run which was refused before it began."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    log = folder / f"{hydra.job.name}.log"
    if [*folder.iterdir()] == [log] and log.stat().st_size == 0:
        with contextlib.suppress(OSError):
            log.unlink()
            folder.rmdir()


def compose(words: Sequence[str], run: Path | None = None) -> RunConfig:
    """What `python train.py WORDS` would compose, for scripts, notebooks and tests.

    Args:
        words: overrides, such as `model=mlp` and `optimizer.lr=0.1`.
        run: the run directory; None makes up a new one (nothing is written).

    Raises:
        UserError: the words cannot be composed.
    """
    config = compose_raw(words)
    node = config.hydra
    place = RunDirectory((run or new_run_path(config.output_dir)).absolute())
    with open_dict(config):
        del config["hydra"]
    return _composed(config, node, place)


def compose_raw(words: Sequence[str]) -> DictConfig:
    """What Hydra composes of some words, unresolved, with its own settings under `hydra`.

    Raises:
        UserError: the words cannot be composed.
    """
    words = check_overrides(words, config_options())
    try:
        return load(words)
    except yaml.YAMLError as error:
        raise UserError(in_words(error)) from None
    except Exception as error:  # Hydra's and OmegaConf's share no base class
        raise UserError(f"{suggest(words)}\n{error}".strip()) from None


OF_A_SWEEP = ("sweep", "launcher")
"""Parts of the config that are about a multirun; no run has them."""


def is_of_a_sweep(word: str) -> bool:
    """Whether a word is about a multirun, and not about its runs."""
    return key_of(word).split(".")[0] in OF_A_SWEEP


def _composed(config: DictConfig, hydra: Any, run: RunDirectory) -> RunConfig:
    choices = {key: value for key, value in hydra.runtime.choices.items() if not key.startswith("hydra/")}
    words = task_overrides(hydra)
    for word in words:
        if is_of_a_sweep(word):
            raise UserError(
                f"{word} needs a multirun: {printed_command(['python', 'train.py', '--multirun', word])} ..."
            )
    with open_dict(config):
        for key in OF_A_SWEEP:
            choices.pop(key, None)
            config.pop(key, None)
    config.resume = None
    for key in PATHS:
        value = OmegaConf.select(config, key, throw_on_missing=False)
        named = key == "model.weights" and value in WEIGHT_NAMES
        if isinstance(value, str) and not named and (key == "data_dir" or Path(value).expanduser().exists()):
            OmegaConf.update(config, key, str(Path(value).expanduser().resolve()))
    origin = ConfigOrigin(run_config.CONFIGS, choices, words)
    return RunConfig(plain(config), OmegaConf.to_yaml(config), origin, run)


def multirun_words(arguments: Sequence[str]) -> list[str] | None:
    """The words behind `--multirun`; None where there is no such flag, or where Hydra is asked for something else.

    That is a flag of its own, such as `--cfg job`, or another sweeper, such as `hydra/sweeper=basic`.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-cd", "--config-dir")
    known, words = parser.parse_known_args(arguments)
    if not known.multirun or any(word.startswith(("-", "hydra/sweeper=", "hydra/launcher=")) for word in words):
        return None
    folder = known.config_dir
    places = [override("hydra.searchpath", [f"file://{Path(folder).absolute()}"])] if folder else []
    return [*places, *words]
