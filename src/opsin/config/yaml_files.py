"""Config files that cannot be read: not YAML, not UTF-8, or with a byte order mark. One message names file and line."""

import codecs
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from opsin.config.hydra_session import load
from opsin.config.search_path import ConfigSource
from opsin.errors import UserError


def refuse_broken_files(overrides: Sequence[str], source: ConfigSource | None = None) -> None:
    """Check that every config file which the overrides load is YAML; Hydra would end in a traceback.

    A broken file that is not loaded does no harm.

    Args:
        overrides: Overrides of the command line, also those of a multirun.
        source: Search path and primary config; None for those of Opsin.

    Raises:
        UserError: Names the file, the line and the fault.
    """
    source = source or ConfigSource()
    files = [path for folder in source.folders for path in sorted(folder.rglob("*.yaml"))]
    faults = {path: fault for path in files if (fault := _fault(path))}
    if not faults:
        return
    first = []
    for group, options in _chosen(overrides, source):
        for path in (folder / group / f"{option}.yaml" for folder in source.folders for option in options):
            if path in faults:
                raise UserError(faults[path])
        first.append(f"{group}={options[0]}")
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
    return f"{place}: not valid YAML, {reason or error}"


def _fault(path: Path) -> str | None:
    """Return why a file cannot be read, with its path; None if it can."""
    parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser reads all files in a few milliseconds
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
        deque(yaml.parse(text, parser), maxlen=0)
    except yaml.YAMLError as error:
        return in_words(error, str(path))
    except UnicodeDecodeError as error:
        return f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"
    except OSError:
        return None
    if content.startswith(codecs.BOM_UTF8):
        return f"{path}: begins with a byte order mark, which hides its first line; save it as UTF-8 without BOM"
    return None


def _chosen(overrides: Sequence[str], source: ConfigSource) -> Iterator[tuple[str, list[str]]]:
    """Yield the options that overrides choose in each group; several in a multirun."""
    for override in overrides:
        group, _, option = override.lstrip("+").partition("=")
        if option and any((folder / group).is_dir() for folder in source.folders):
            yield group, option.split(",")
