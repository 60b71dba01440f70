"""The composed config: plain values, where each was set, and the run directory that goes with it."""

import contextlib
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from opsin.errors import UserError
from opsin.rundir import RunDirectory, find_runs, new_run_path, write_atomically

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
"""The folder of the config files."""

PATHS = ("data_dir", "datamodule.path", "model.weights", "model.teacher")
"""Keys that may hold a path: a run directory must mean the same from wherever it is read."""


@dataclass(frozen=True)
class Origin:
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
            key = word.lstrip("+~").split("=", 1)[0].split("@", 1)[0].replace("/", ".")
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
class Composed:
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
    origin: Origin
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

    @classmethod
    def load(cls, run: RunDirectory) -> "Composed":
        """What `save` wrote."""
        config = OmegaConf.load(run.config)
        assert isinstance(config, DictConfig)
        words = read_yaml(run.overrides) if run.overrides.exists() else {"choices": {}, "overrides": []}
        origin = Origin(None, words["choices"], words["overrides"])
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


def from_hydra(config: DictConfig) -> Composed:
    """What Hydra composed for the job that runs now; on resume, the run's own config with the new values in it.

    Raises:
        UserError: the config cannot be resolved, or there is no such run to resume.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    run = RunDirectory(Path(hydra.runtime.output_dir))
    words = list(hydra.overrides.task)
    if config.resume and run.config.exists():
        begun = len(Composed.load(run).origin.overrides)
        return from_saved(run, words[begun:] if config.resume != "auto" else [])
    if config.resume not in (None, "auto"):
        place = RunDirectory.of(config.resume).path  # raises where Hydra made a new directory because this is none
        raise UserError(f"resume={place} goes on in that very directory: leave out hydra.run.dir and --multirun")
    if run.config.exists() and not is_spawned():
        raise UserError(
            f"{run.path} holds a run already: go on with it by resume={run.path}, or name another directory"
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


def compose(words: Sequence[str], run: Path | None = None) -> Composed:
    """What `python train.py WORDS` would compose, for scripts, notebooks and tests.

    Args:
        words: overrides, such as `model=mlp` and `optimizer.lr=0.1`.
        run: the run directory; None makes up a new one (nothing is written).

    Raises:
        UserError: the words cannot be composed.
    """
    try:
        config = _compose(words)
    except Exception as error:  # Hydra's, OmegaConf's and the YAML parser's share no base class
        raise UserError(f"{error}\n{hint(words)}".rstrip()) from None
    node = config.hydra
    place = RunDirectory((run or new_run_path(config.output_dir)).absolute())
    with open_dict(config):
        del config["hydra"]
    return _composed(config, node, place)


def _compose(words: Sequence[str]) -> DictConfig:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("train", list(words), return_hydra_config=True)


def hint(words: Sequence[str]) -> str:
    """The nearest right word for each word of a command line that names no part, option or key; empty if all do."""
    groups = {
        folder.name: [file.stem for file in folder.glob("*.yaml")] for folder in CONFIGS.iterdir() if folder.is_dir()
    }
    pairs = [tuple(word.split("=", 1)) for word in words if "=" in word and word[0] not in "+~-"]
    lines, chosen = [], []
    for key, value in pairs:
        if key in groups:
            wrong = [option for option in value.split(",") if option not in groups[key]]
            lines += [_nearest(f"{key}=", option, groups[key]) for option in wrong]
            chosen += [f"{key}={value.split(',')[0]}"] if not wrong else []
    try:
        keys = _keys(OmegaConf.to_container(_compose(chosen)))
    except Exception:  # a config file of their own is broken: Hydra has said what is wrong with it
        return "\n".join(lines)
    known = [*keys, *groups, "hydra"]
    for key, _ in pairs:
        if key not in known and key.split(".")[0] != "hydra":
            lines.append(_nearest("", key, known))
    return "\n".join(lines)


def _nearest(prefix: str, word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"{prefix}{word} is not known" + (f": did you mean {prefix}{near[0]}?" if near else "")


def _keys(tree: Any, above: str = "") -> list[str]:
    """Every dotted key of a tree, sections and values."""
    found = []
    for key, value in tree.items():
        found += [f"{above}{key}", *(_keys(value, f"{above}{key}.") if isinstance(value, Mapping) else [])]
    return found


def _composed(config: DictConfig, hydra: Any, run: RunDirectory) -> Composed:
    choices = {key: value for key, value in hydra.runtime.choices.items() if not key.startswith("hydra/")}
    config.resume = None
    for key in PATHS:
        value = OmegaConf.select(config, key, throw_on_missing=False)
        if isinstance(value, str) and (key == "data_dir" or Path(value).expanduser().exists()):
            OmegaConf.update(config, key, str(Path(value).expanduser().resolve()))
    origin = Origin(CONFIGS, choices, list(hydra.overrides.task))
    return Composed(plain(config), OmegaConf.to_yaml(config), origin, run)


def is_spawned() -> bool:
    """Whether this process is a further one of a run on several devices; only the first writes."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return any(rank not in ("", "0") for rank in ranks)


def from_saved(run: RunDirectory, words: Sequence[str] = ()) -> Composed:
    """A run's own config to go on with, changed by some words such as `trainer.max_epochs=40`.

    Raises:
        UserError: a word chooses another part (`model=mlp`), which would be another run.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    saved = Composed.load(run)
    words = [word for word in words if not word.startswith("resume=")]
    _refuse_parts(saved, words)
    config = OmegaConf.create(saved.text)
    assert isinstance(config, DictConfig)
    for override in OverridesParser.create().parse_overrides(list(words)):
        OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
    origin = Origin(None, saved.origin.choices, [*saved.origin.overrides, *words])
    return Composed(plain(config), OmegaConf.to_yaml(config), origin, saved.run, resumes=True)


def expand_resume(words: Sequence[str]) -> list[str]:
    """A command line with `resume=RUN` in it, behind the words that RUN was begun with.

    So Hydra composes the parts of that run, and not the default ones, and knows their keys.

    Raises:
        UserError: a word chooses another part.
    """
    place = next((word.removeprefix("resume=") for word in words if word.startswith("resume=")), "auto")
    run = RunDirectory(Path(place).expanduser())
    if place in ("auto", "null") or not run.config.exists() or is_spawned():
        return list(words)
    saved = Composed.load(run)
    _refuse_parts(saved, words)
    return [*saved.origin.overrides, *words]


def _refuse_parts(saved: Composed, words: Sequence[str]) -> None:
    for word in words:
        if word.lstrip("+~").split("=", 1)[0] in saved.origin.choices or word.startswith("~"):
            raise UserError(
                f"{word} does not go with resume: {saved.run.path} goes on with the parts that it was begun with, and "
                "only values such as trainer.max_epochs=20 can be changed. Start a new run instead."
            )


def register_resolvers() -> None:
    """Teach OmegaConf `${run_dir:...}`, which names the directory of a run (used by `hydra.run.dir`)."""
    OmegaConf.register_new_resolver("run_dir", _run_dir, use_cache=True, replace=True)


def _run_dir(outputs: str, resume: str | None, words: Sequence[str], *names: str) -> str:
    """A fresh directory, or the one to go on in.

    `resume=auto` goes on with the newest run of the very same command that has not finished.
    """
    if resume == "auto":
        words = [word for word in words if word != "resume=auto"]
        for run in find_runs(Path(outputs)):
            same = run.overrides.exists() and words == [
                word for word in Composed.load(run).origin.overrides if word != "resume=auto"
            ]
            if same and run.read_result().get("status") != "finished":
                return str(run.path.absolute())
    elif resume and RunDirectory(Path(resume).expanduser()).config.exists():
        return str(Path(resume).expanduser().resolve())
    return str(new_run_path(outputs, *names))
