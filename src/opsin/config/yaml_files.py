"""Config files that cannot be read (not YAML, not UTF-8, with a byte order mark), and their lists `defaults`."""

import codecs
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml
from omegaconf.errors import OmegaConfBaseException

from opsin.config.hydra_session import load
from opsin.config.run_config import read_yaml
from opsin.config.search_path import ConfigSource
from opsin.config.yaml_limits import ExcessiveYAML, check_yaml
from opsin.errors import UserError


def refuse_broken_files(overrides: Sequence[str], source: ConfigSource | None = None) -> None:
    """Check that every config file which the overrides load is YAML; Hydra would end in a traceback.

    A broken file that is not loaded does no harm, unless it is nested too deeply or expands to too many values.

    Args:
        overrides: Overrides of the command line, also those of a multirun.
        source: Search path and primary config; None for those of Opsin.

    Raises:
        UserError: Names the file, the line and the fault.
    """
    source = source or ConfigSource()
    files = [path for folder in source.folders for path in sorted(folder.rglob("*.yaml"))]
    faults = {path: fault for path in files if (fault := _fault(path))}
    for fault in faults.values():
        if isinstance(fault, _Excessive):  # to find out whether it is loaded would take too long
            raise UserError(fault)
    if not faults:
        return
    first = []
    for group, options, together in _chosen(overrides, source):
        for path in (folder / group / f"{option}.yaml" for folder in source.folders for option in options):
            if path in faults:
                raise UserError(faults[path])
        first.append(f"{group}=[{','.join(options)}]" if together else f"{group}={options[0]}")
    try:  # files that those load
        load(first, source)
    except yaml.YAMLError as error:
        raise UserError(in_words(error)) from None
    except UnicodeDecodeError:  # it does not name the file
        raise UserError("; ".join(fault for fault in faults.values() if "UTF-8" in fault)) from None
    except Exception:  # any other fault is reported by the composition
        return


def in_words(error: yaml.YAMLError, file: str = "") -> str:
    """Return the file, the line and the reason of a YAML error.

    Args:
        error: The error of the parser.
        file: The file; empty: the one that the error names.
    """
    mark, reason = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f"{file or mark.name}, line {mark.line + 1}" if mark else file or "a config file"
    if reason == "found unhashable key":  # PyYAML names the fault by its cause in Python
        reason = "a key is a list or a section"
    return f"{place}: not valid YAML, {reason or error}"


class _Excessive(str):
    """The fault of a file that takes too much time or memory to load."""


def _fault(path: Path) -> str | None:
    """Return why a file cannot be read, with its path; None if it can."""
    try:
        state = path.stat()
        return _fault_of(path, state.st_size, state.st_mtime_ns) if S_ISREG(state.st_mode) else None
    except OSError:
        return None


@functools.lru_cache(maxsize=4096)
def _fault_of(path: Path, *state: int) -> str | None:  # noqa: ARG001 - a file with another state is read again
    try:
        content = path.read_bytes()
        check_yaml(content.decode("utf-8"))
    except ExcessiveYAML as error:
        return _Excessive(in_words(error, str(path)))
    except yaml.YAMLError as error:
        return in_words(error, str(path))
    except UnicodeDecodeError as error:
        return f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"
    if content.startswith(codecs.BOM_UTF8):
        return f"{path}: begins with a byte order mark, which hides its first line; save it as UTF-8 without BOM"
    return None


def choosing_file(group: str, option: str, overrides: Sequence[str], source: ConfigSource) -> str:
    """Return the file, such as `experiment/mine`, whose list `defaults` chooses an option; "" if none is found.

    Hydra names the file whose choice is replaced, which is mostly the primary config.

    Args:
        group: The config group.
        option: The option.
        overrides: Overrides of the command line.
        source: Search path and primary config.
    """
    for file, key, value in _choices([source.config_name, *_chosen_files(overrides, source)], source):
        if _group_of(key) == group and option in (value if isinstance(value, list) else [value]):
            return file
    return ""


def refuse_own_group(overrides: Sequence[str], source: ConfigSource) -> None:
    """Check that no loaded option overrides the choice of its own group in its list `defaults`; Hydra ignores it.

    Args:
        overrides: Overrides of the command line.
        source: Search path and primary config.

    Raises:
        UserError: Names the file and the way to build on another option.
    """
    for file, key, option in _choices(_chosen_files(overrides, source), source):
        group = file.rpartition("/")[0]
        if key.startswith("override ") and _group_of(key) == group:
            raise UserError(
                f"In '{file}': `- {key}: {option}` has no effect, because the option of {group} is already chosen. To "
                f"build on {option}, write the line `- {option}` in the list `defaults`"
            )


def _choices(files: Sequence[str], source: ConfigSource) -> Iterator[tuple[str, str, Any]]:
    """Yield the file, the key and the option of each choice in the lists `defaults` of files and those they include."""
    left, seen = [*files], set()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for entry in _defaults(name, source):
            if isinstance(entry, str):  # a file that this one includes
                left.append(entry.lstrip("/") if "/" in entry else f"{name.rpartition('/')[0]}/{entry}".lstrip("/"))
            elif isinstance(entry, dict):
                yield from ((name, str(key), option) for key, option in entry.items())


def _chosen_files(overrides: Sequence[str], source: ConfigSource) -> list[str]:
    return [f"{group}/{name}" for group, names, _ in _chosen(overrides, source) for name in names]


def _defaults(name: str, source: ConfigSource) -> list[Any]:
    """Return the list `defaults` of a config file; empty without a list, or if the file cannot be read."""
    try:
        file = next((file for folder in source.folders if (file := folder / f"{name}.yaml").is_file()), None)
        tree = read_yaml(file) if file else None
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):
        return []
    found = tree.get("defaults") if isinstance(tree, dict) else None
    return found if isinstance(found, list) else []


def _group_of(key: str) -> str:
    """Return the group in a key of a list `defaults`, such as `override /model@net`."""
    return key.removeprefix("override ").strip().lstrip("/").partition("@")[0]


def _chosen(overrides: Sequence[str], source: ConfigSource) -> Iterator[tuple[str, list[str], bool]]:
    """Yield the options that overrides choose in each group, and whether they are a list for one run."""
    for override in overrides:
        group, _, option = override.lstrip("+").partition("=")
        if option and any((folder / group).is_dir() for folder in source.folders):
            names = [name.strip(" \"'") for name in option.strip("[]").split(",")]
            yield group, names, option.startswith("[")
