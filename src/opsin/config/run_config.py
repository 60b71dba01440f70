"""A composed config: plain values, where each was set, and the run directory that goes with it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from opsin.config.overrides import key_of
from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
"""The folder of the config files."""


@dataclass(frozen=True)
class ConfigOrigin:
    """Where values of a config were set, as far as can be known: to be named in a message.

    Attributes:
        folder: the folder of the config files.
        choices: option chosen per config group, such as `{"model": "cnn_gap"}`.
        overrides: the words of the command line, such as `optimizer.lr=0.1`.
    """

    folder: Path | None = None
    choices: Mapping[str, str | None] = field(default_factory=dict)
    overrides: Sequence[str] = ()

    def of(self, path: str) -> str:
        """The place that set the key at the dotted `path`, in words; empty when it cannot be known."""
        for word in self.overrides:
            key = key_of(word).replace("/", ".")
            if path == key or path.startswith(f"{key}."):
                if key in self.choices:
                    break  # the word chose a group's option: the file says more
                return f"on the command line ({word})"
        for file, keys in self._files(path):
            if self.folder and _holds(file, keys):
                return f"in {file.relative_to(self.folder.parent)}"
        return ""

    def _files(self, path: str) -> Iterator[tuple[Path, list[str]]]:
        if self.folder is None:
            return
        keys = path.split(".")
        for group in ("debug", "experiment"):
            if option := self.choices.get(group):
                yield self.folder / group / f"{option}.yaml", keys
        if option := self.choices.get(keys[0]):
            yield self.folder / keys[0] / f"{option}.yaml", keys[1:]
        yield self.folder / "train.yaml", keys


def _holds(file: Path, keys: Sequence[str]) -> bool:
    try:
        tree = read_yaml(file)
    except (OSError, OmegaConfBaseException):
        return False
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


@dataclass(frozen=True)
class RunConfig:
    """A config as it goes into a run.

    Attributes:
        tree: plain values, interpolations resolved, paths absolute.
        text: the same as YAML, with its interpolations, so that they follow a value that is changed on resume.
        origin: where the values were set.
        run: the run directory.
        resumes: whether the run goes on with what lies there.
    """

    tree: dict[str, Any]
    text: str
    origin: ConfigOrigin
    run: RunDirectory
    resumes: bool = False

    def save(self) -> None:
        """Write `config.yaml` and `overrides.yaml` into the run directory: enough to build the run again.

        The words stay those that the run was begun with.
        """
        if not self.resumes:
            words = {"overrides": list(self.origin.overrides), "choices": dict(self.origin.choices)}
            write_atomically(self.run.overrides, OmegaConf.to_yaml(OmegaConf.create(words)))
        write_atomically(self.run.config, self.text)

    def changed(self, values: Mapping[str, Any]) -> "RunConfig":
        """The same with other values, by their dotted keys."""
        config = OmegaConf.create(self.text)
        assert isinstance(config, DictConfig)
        for key, value in values.items():
            OmegaConf.update(config, key, value, force_add=True)
        return replace(self, tree=plain(config), text=OmegaConf.to_yaml(config))

    @classmethod
    def load(cls, run: RunDirectory) -> "RunConfig":
        """What `save` wrote.

        Raises:
            UserError: the file is damaged.
        """
        try:
            config = OmegaConf.load(run.config)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{run.config} is damaged ({reason}): put a whole copy of it there") from None
        assert isinstance(config, DictConfig)
        words = read_yaml(run.overrides) if run.overrides.exists() else {"choices": {}, "overrides": []}
        origin = ConfigOrigin(None, words["choices"], words["overrides"])
        return cls(plain(config), OmegaConf.to_yaml(config), origin, run, resumes=True)


def plain(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain values with every interpolation resolved.

    Raises:
        UserError: an interpolation names a key that is not there, or a mandatory value (`???`) is not set.
    """
    try:
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given: {error.full_key}=VALUE") from None
    except OmegaConfBaseException as error:
        raise UserError(f"The config cannot be resolved: {str(error).splitlines()[0]} (at {error.full_key})") from None
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def read_yaml(path: Path) -> Any:
    """The plain values that a YAML file holds."""
    return OmegaConf.to_container(OmegaConf.load(path))
