"""A composed config: plain values, the place where each was set, and the run directory."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from opsin.config.hydra_keys import harmless_variables
from opsin.config.overrides import key_of
from opsin.config.path_values import resolve_paths
from opsin.config.reference_limits import limited_references
from opsin.config.resolvers import register_resolvers, resolve_process_values
from opsin.config.search_path import PACKAGE, ConfigSource
from opsin.config.sections import missing_section
from opsin.config.yaml_limits import check_yaml
from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.regular_file import read_text
from opsin.runs.result import WAY_OUT


@dataclass(frozen=True)
class ConfigOrigin:
    """The places where the values of a config were set, if known; for messages and the record of a run.

    Attributes:
        source: Search path and primary config of the composition.
        choices: Option chosen per config group, such as `{"model": "cnn_gap"}`; several are written as they are typed.
        overrides: Overrides of the command line, such as `optimizer.lr=0.1`.
        folders: Folders whose files are read to find where a value was set. Empty for a saved config: the search path
            that a run recorded is shown and compared, and no file is read because of it.
        variables: Harmless environment variables of `hydra.job.env_set`, which a resume sets again.
    """

    source: ConfigSource = field(default_factory=ConfigSource)
    choices: Mapping[str, str | None] = field(default_factory=dict)
    overrides: Sequence[str] = ()
    folders: Sequence[Path] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def of(self, path: str) -> str:
        """Return the place that set the key at the dotted `path`; empty if unknown."""
        override = self.typed(path)
        return f"on the command line ({override})" if override else self._place(self._files(path))

    def typed(self, path: str) -> str:
        """Return the override that set the key at the dotted `path`, but not one that chose an option; else ""."""
        keys = [(text, key_of(text).replace("/", ".")) for text in reversed(self.overrides)]  # the last one counts
        setting = (text for text, key in keys if key not in self.choices and f"{path}.".startswith(f"{key}."))
        return next(setting, "")

    def of_section(self, path: str) -> str:
        """Return the file that holds a section; empty if unknown.

        The option of the section precedes experiments, because these change single keys.
        """
        group = path.partition(".")[0]
        return self._place(sorted(self._files(path), key=lambda found: not found[0].startswith(f"{group}/")))

    def typed_choice(self, section: str) -> str:
        """Return the override that chose the option of a section, such as `optimizer=sgd`; else ""."""
        typed = (text for text in reversed(self.overrides) if key_of(text) == section and section in self.choices)
        return next((text for text in typed if not text.startswith("~")), "")

    def set_by_experiment(self, section: str) -> set[str]:
        """Return the keys that experiments set in a section, whatever option the command line chooses for it."""
        files = (file for file, _ in self._files(section) if file.startswith("experiment/"))
        return {key for file in files for key in self._section_of(file, section)}

    def _section_of(self, file: str, section: str) -> Mapping[str, Any]:
        folder = self._folder_of(file)
        tree = _values(folder / file) if folder else None
        found = tree.get(section) if isinstance(tree, dict) else None
        return found if isinstance(found, dict) else {}

    def undefined(self, names: Iterable[str]) -> set[str]:
        """Return the names that no config file gives to a key with a value other than null, at any depth.

        The files of a saved config and of a package on the search path are not read: then no name is returned.
        """
        if not self.folders or any(entry.startswith(PACKAGE) for entry in self.source.search_path):
            return set()
        left, files = set(names), (file for folder in self.folders for file in folder.rglob("*.yaml"))
        while left and (file := next(files, None)):
            left -= _names_with_value(file, left)
        return left

    def _place(self, files: Iterable[tuple[str, list[str]]]) -> str:
        for file, keys in files:
            folder = self._folder_of(file)
            if folder and _holds(folder / file, keys):
                return f"in {folder.name}/{file}"
        return ""

    def _folder_of(self, file: str) -> Path | None:
        return next((folder for folder in self.folders if (folder / file).is_file()), None)

    def _files(self, path: str) -> Iterator[tuple[str, list[str]]]:
        """Yield the files that may set a key, the last one composed first, and the keys within each."""
        keys = path.split(".")
        for group in ("debug", "experiment", keys[0]):
            for option in reversed((self.choices.get(group) or "").strip("[]").split(",")):
                if option:
                    yield f"{group}/{option}.yaml", keys[1:] if group == keys[0] else keys
        yield f"{self.source.config_name}.yaml", keys


def _names_with_value(file: Path, names: Iterable[str]) -> set[str]:
    """Return which keys have a value other than null in a file, at any depth; none if the file is damaged."""
    try:
        text = file.read_text(encoding="utf-8")
        tree = read_yaml(file) if any(name in text for name in names) else None
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):
        return set()
    return {name for name in names if _has_value(tree, name)}


def _has_value(tree: Any, name: str) -> bool:
    if not isinstance(tree, dict):
        return False
    return tree.get(name) is not None or any(_has_value(inner, name) for inner in tree.values())


def _values(file: Path) -> Any:
    """Return the plain values of a config file; None if it cannot be read."""
    try:
        return read_yaml(file)
    except (OSError, OmegaConfBaseException):
        return None


def _holds(file: Path, keys: Sequence[str]) -> bool:
    tree = _values(file)
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


@dataclass(frozen=True)
class RunConfig:
    """The config of one run.

    Attributes:
        tree: Plain values: interpolations resolved, paths absolute, secrets as references (`opsin.config.secrets`).
        text: The same as YAML. References between keys stay interpolations, so that they follow a value that is
            changed on resume; all that depends on the process or the time is resolved.
        origin: The places where the values were set.
        run: The run directory.
        resumes: Whether the run continues from the files in the directory.
        settings: Hydra's settings of this process, under `hydra`; None for a config that was only read.
    """

    tree: dict[str, Any]
    text: str
    origin: ConfigOrigin
    run: RunDirectory
    resumes: bool = False
    settings: DictConfig | None = field(default=None, compare=False, repr=False)

    def save(self) -> None:
        """Write `config.yaml` and `overrides.yaml` into the run directory: enough to build the run again.

        The recorded overrides and search path stay those that the run was started with.
        """
        if not self.resumes:
            record: dict[str, Any] = {
                "overrides": list(self.origin.overrides),
                "choices": dict(self.origin.choices),
                "search_path": list(self.origin.source.search_path),
                "config_name": self.origin.source.config_name,
            }
            if self.origin.source.project:
                record["project"] = self.origin.source.project
            if self.origin.variables:
                record["variables"] = dict(self.origin.variables)
            write_atomically(self.run.overrides, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
        write_atomically(self.run.config, self.text)

    def changed(self, values: Mapping[str, Any]) -> "RunConfig":
        """Return the config with other values for some dotted keys.

        Raises:
            UserError: A value refers to something that does not exist, or a section holds no keys.
        """
        config = OmegaConf.create(self.text)
        assert isinstance(config, DictConfig)
        try:
            for key, value in values.items():
                OmegaConf.update(config, key, value, force_add=True)
            resolve_process_values(config)
            resolve_paths(config)
        except OmegaConfBaseException as error:  # a section is no section
            raise unresolvable(error) from None
        tree = plain(config)
        if found := missing_section(tree):
            raise UserError(f"{found[0]} is {found[1]!r:.40} instead of a section")
        return replace(self, tree=tree, text=yaml_text(config))

    def with_text(self, text: str) -> "RunConfig":
        """Return the same run with another config, given as the text that `save` writes.

        Args:
            text: Text of a checkpoint, which may be damaged.

        Raises:
            UserError: It is damaged.
        """
        config = OmegaConf.create(_keys(text, "the config in a checkpoint", WAY_OUT))
        return replace(self, tree=plain(config), text=text)

    @classmethod
    def load(cls, run: RunDirectory) -> "RunConfig":
        """Return the config that `save` wrote.

        Raises:
            UserError: A file is damaged.
        """
        tree = _read_keys(run.config, WAY_OUT)
        try:
            config = OmegaConf.create(tree)
            values = _resolved(config)
            _check_sections(run.config, values)
            return cls(values, yaml_text(config), read_origin(run), run, resumes=True)
        except OmegaConfBaseException as error:
            raise _damaged(run.config, _with_key(error)) from None
        except RecursionError as error:
            raise _damaged(run.config, str(error)) from None


def read_origin(run: RunDirectory) -> ConfigOrigin:
    """Return the overrides and options that `overrides.yaml` records; empty if there is no such file.

    Raises:
        UserError: The file is damaged.
    """
    way_out = "replace it with an intact copy, or delete it"
    record = _read_keys(run.overrides, way_out) if run.overrides.exists() else {}
    kinds: dict[str, type] = {
        "overrides": list,
        "choices": dict,
        "search_path": list,
        "config_name": str,
        "variables": dict,
    }
    for key, kind in kinds.items():
        if not isinstance(record.get(key, kind()), kind):
            raise UserError(f"{run.overrides} is damaged ({key} is not a {kind.__name__}): {way_out}")
    overrides = [str(override) for override in record.get("overrides", [])]
    variables = harmless_variables(record.get("variables", {}))
    return ConfigOrigin(ConfigSource.recorded(record), record.get("choices", {}), overrides, variables=variables)


def _read_keys(path: Path, way_out: str) -> dict[str, Any]:
    try:
        text = read_text(path, way_out)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {way_out}") from None
    return _keys(text, str(path), way_out)


def _keys(text: str, place: str, way_out: str) -> dict[str, Any]:
    """Return the keys of a saved config.

    Args:
        text: The config as YAML.
        place: The file or object that holds it, for the message.
        way_out: Advice for a damaged config, the end of the message.

    Raises:
        UserError: The text is damaged.
    """
    try:
        check_yaml(text)
        root = next(islice(yaml.parse(text, yaml.SafeLoader), 2, None), None)
        # OmegaConf turns a text into a key, and raises an OSError for a number.
        has_keys = isinstance(root, yaml.MappingStartEvent)
        tree = OmegaConf.to_container(OmegaConf.load(io.StringIO(text))) if has_keys else None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{place} is damaged ({' '.join(str(error).split())}): {way_out}") from None
    if not isinstance(tree, dict) or not tree:
        raise UserError(f"{place} is damaged (it holds no keys): {way_out}")
    return {str(key): value for key, value in tree.items()}


def _check_sections(file: Path, tree: dict[str, Any]) -> None:
    """Check the kinds of values on which others rely before the whole config is checked.

    Raises:
        UserError: A section holds no keys, or the seed is no integer.
    """
    if found := missing_section(tree):
        raise _damaged(file, f"{found[0]} is {found[1]!r:.40} instead of a section")
    if not isinstance(tree.get("seed", 0), int):
        raise _damaged(file, f"seed is {tree['seed']!r:.40} instead of an integer")


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged ({reason}): {WAY_OUT}")


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a composed config as plain values with every interpolation resolved; secrets stay references.

    Raises:
        UserError: An interpolation names a missing key or variable, or expands to too many values, or a mandatory value
            (`???`) is not set.
    """
    try:
        return _resolved(config)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given: {error.full_key}=VALUE") from None
    except OmegaConfBaseException as error:
        raise unresolvable(error) from None


def _resolved(config: DictConfig) -> dict[str, Any]:
    register_resolvers()
    with limited_references():
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def yaml_text(config: DictConfig) -> str:
    """Return a config as YAML, with its interpolations.

    Raises:
        UserError: An integer has more digits than Python writes.
    """
    try:
        return OmegaConf.to_yaml(config)
    except ValueError as error:
        raise UserError(f"The config cannot be saved: {str(error).partition(';')[0]}") from None


def unresolvable(error: OmegaConfBaseException) -> UserError:
    """Return the message for an interpolation that cannot be resolved."""
    return UserError(f"The config cannot be resolved: {_with_key(error)}")


def _with_key(error: OmegaConfBaseException) -> str:
    place = f" (at {error.full_key})" if error.full_key else ""
    return f"{str(error).splitlines()[0]}{place}"


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file.

    Raises:
        yaml.YAMLError: The syntax is wrong, or the file expands to too many values.
        ValueError: It is not UTF-8.
    """
    text = path.read_text(encoding="utf-8")
    check_yaml(text)
    return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
