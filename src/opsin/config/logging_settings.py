"""The logging settings of Hydra, `hydra.job_logging`, reduced to what needs no code: console and log file.

Python's logging calls any callable that its settings name, and writes to any file. A config is data, so only
two classes of handlers, two streams, and log files in the run directory are accepted.
"""

import codecs
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from opsin.errors import UserError
from opsin.runs.home import expand_home
from opsin.runs.quoting import opsin_command

_HANDLER = ("class", "formatter", "level", "stream", "filename", "mode", "encoding", "delay", "errors")
_CLASSES = ("logging.StreamHandler", "logging.FileHandler")
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_LOGGER = ("level", "handlers", "propagate")

_KEYS: Mapping[str, tuple[str, ...]] = {
    "formatters": ("format", "datefmt"),
    "handlers": _HANDLER,
    "loggers": _LOGGER,
}
"""Accepted keys of each named entry of a section."""

_PLAIN = ("version", "disable_existing_loggers", "root")


def checked_logging(settings: DictConfig) -> DictConfig:
    """Return `hydra.job_logging` of a run.

    Args:
        settings: Hydra's settings of the run, with `hydra.runtime.output_dir`, under `hydra`.

    Raises:
        UserError: A setting names a callable, another class, or a file outside the run directory, or has a wrong value,
            such as a format that no line fits.
    """
    if OmegaConf.is_missing(settings.hydra, "job_logging"):
        raise UserError("~hydra/job_logging leaves no settings: write hydra/job_logging=disabled for no log")
    described: DictConfig = settings.hydra.job_logging
    values = OmegaConf.to_container(described, resolve=True) if described is not None else {}
    assert isinstance(values, dict)
    run = Path(expand_home(settings.hydra.runtime.output_dir))
    for problem in _problems(values, run):
        raise UserError(
            f"hydra.job_logging.{problem}; accepted are handlers of the classes {' and '.join(_CLASSES)}, formats as "
            "text, and files in the run directory whose names end in .log"
        )
    with named_mistakes():
        _check_formats(values.get("formatters") or {})
    return described


def checked_verbose(settings: DictConfig) -> Any:
    """Return `hydra.verbose` of a run: a boolean, or the names of the loggers that write their debug messages.

    Args:
        settings: Hydra's settings of the run under `hydra`.

    Raises:
        UserError: It is something else.
    """
    verbose = settings.hydra.verbose
    names = list(verbose) if OmegaConf.is_list(verbose) else [verbose]
    if not isinstance(verbose, bool) and not all(isinstance(name, str) for name in names):
        raise UserError(
            f"hydra.verbose={verbose} is not accepted: write true, false, or names of loggers, such as [PIL]"
        )
    return verbose


@contextmanager
def named_mistakes() -> Iterator[None]:
    """Raise the errors of Python's logging about its settings as one message.

    Raises:
        UserError: The settings have a wrong value, such as an unknown level.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        cause = error.__cause__
        reason = f"{error}: {cause}" if isinstance(cause, ValueError | TypeError) else str(error)
        shown = opsin_command("train", "--cfg", "hydra", "--package", "hydra.job_logging")
        raise UserError(
            f"hydra.job_logging: {reason}. Levels are DEBUG, INFO, WARNING, ERROR and CRITICAL; {shown} prints the "
            "formats and the names of handlers and formatters"
        ) from None


def _check_formats(formatters: Mapping[str, Mapping[str, str | None]]) -> None:
    """Format one line with each formatter: by default, `logging` prints a traceback for each line that does not fit.

    Raises:
        ValueError: A format is invalid or does not fit. The message names its formatter.
    """
    for name, entry in formatters.items():
        record = logging.LogRecord(__name__, logging.INFO, __file__, 1, "a line", None, None)
        try:
            logging.Formatter(entry.get("format"), entry.get("datefmt")).format(record)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"formatter '{name}': {error} (format {entry.get('format')!r})") from None


def _problems(values: Mapping[Any, Any], run: Path) -> Iterator[str]:
    """Yield the keys that are not accepted, with the reason."""
    if values and "root" not in values:
        yield "root is missing (null stands for no log)"
    for section, entries in values.items():
        if section not in (*_KEYS, *_PLAIN):
            yield f"{section} is not accepted"
        named = {"root": entries or {}} if section == "root" else {}
        if section in _KEYS and isinstance(entries, Mapping):
            named = {f"{section}.{name}": entry for name, entry in entries.items()}
        elif section in _KEYS:
            yield f"{section}={entries} is not a section"
        for place, entry in named.items():
            if isinstance(entry, Mapping):
                yield from _of_entry(section, place, entry, run)
            else:
                yield f"{place}={entry} is not a section"
    yield from (f"{key}={text} is not accepted" for key, text in _references(values) if text not in _STREAMS)


def _of_entry(section: str, place: str, entry: Mapping[Any, Any], run: Path) -> Iterator[str]:
    accepted = _KEYS.get(section, _LOGGER)
    yield from (f"{place}.{key} is not accepted" for key in entry if key not in accepted)
    if section == "formatters":
        yield from (
            f"{place}.{key}={entry[key]} is not text" for key in entry if not isinstance(entry[key], str | None)
        )
    if section == "handlers":
        yield from _of_handler(place, entry, run)


def _of_handler(place: str, handler: Mapping[str, Any], run: Path) -> Iterator[str]:
    if handler.get("class") not in _CLASSES:
        yield f"{place}.class={handler.get('class')} is not accepted"
    if handler.get("stream", _STREAMS[0]) not in _STREAMS:
        yield f"{place}.stream={handler['stream']} is not accepted"
    if handler.get("mode", "a") not in ("a", "w"):
        yield f"{place}.mode={handler['mode']} is not accepted"
    for key, look_up in (("encoding", "".encode), ("errors", codecs.lookup_error)):
        if handler.get(key) is not None and not _finds(look_up, handler[key]):
            yield f"{place}.{key}={handler[key]} is not known"
    file = handler.get("filename")
    if file is not None:
        path = Path(str(file)).absolute()
        if path.suffix != ".log" or not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(run)):
            yield f"{place}.filename={file} is not a log file in the run directory"
        elif os.path.lexists(path) and not path.is_file():  # a pipe would wait for a reader
            yield f"{place}.filename={file} is not a regular file (delete it)"


def _finds(look_up: Callable[[str], object], name: Any) -> bool:
    """Return whether a look-up in the tables of Python's codecs finds a name."""
    try:
        look_up(name)
    except (LookupError, TypeError, ValueError):
        return False
    return True


def _references(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts anywhere inside a value that Python's logging would resolve to objects."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _references(item, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from _references(item, place)
    elif isinstance(value, str) and value.startswith(("ext://", "cfg://")):
        yield place, value
