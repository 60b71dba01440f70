"""What Hydra loads from the folder of config files, and what is said of a file that cannot be loaded."""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from opsin.config import run_config
from opsin.config.overrides import parse_override
from opsin.config.resume import register_resolvers
from opsin.errors import UserError


def load(words: Sequence[str]) -> DictConfig:
    """What Hydra composes of some words, its own settings included; its exceptions share no base class."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(run_config.CONFIGS), version_base="1.3"):
        return hydra.compose("train", list(words), return_hydra_config=True)


def parse(words: Sequence[str]) -> list[Any]:
    """Hydra's `Override` of each word.

    Raises:
        UserError: one cannot be read.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(run_config.CONFIGS), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # which `glob(*)` needs
    return [parse_override(word, parser) for word in words]


def refuse_broken_files(words: Sequence[str]) -> None:
    """See to it that every config file which a command line loads is YAML: Hydra would end in a traceback.

    A broken file that is not loaded does no harm.

    Raises:
        UserError: names the file, the line and what is wrong there.
    """
    faults = {path: fault for path in sorted(run_config.CONFIGS.rglob("*.yaml")) if (fault := _fault(path))}
    if not faults:
        return
    first = []
    for group, options in _chosen(words):
        for option in options:
            if fault := faults.get(run_config.CONFIGS / group / f"{option}.yaml"):
                raise UserError(in_words(fault))
        first.append(f"{group}={options[0]}")
    try:  # what those load in their turn
        load(first)
    except yaml.YAMLError as error:
        raise UserError(in_words(error)) from None
    except Exception:  # Hydra says it
        return


def in_words(error: yaml.YAMLError) -> str:
    """The file, the line and the reason of a YAML error."""
    mark, reason = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
    return f"{place}: this is no YAML, {reason or error}"


def _fault(path: Path) -> yaml.YAMLError | None:
    parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one reads all files in a hundredth of a second
    try:
        with path.open(encoding="utf-8") as file:
            deque(yaml.parse(file, parser), maxlen=0)
    except yaml.YAMLError as error:
        return error
    except (OSError, UnicodeDecodeError):
        return None
    return None


def _chosen(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The options that words choose of each group; several in a multirun."""
    for word in words:
        group, _, option = word.lstrip("+").partition("=")
        if option and (run_config.CONFIGS / group).is_dir():
            yield group, option.split(",")
