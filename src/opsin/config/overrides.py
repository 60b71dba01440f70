"""Read overrides with Hydra's own grammar, and explain an override that the grammar refuses.

An override is `key=value`, `+key=value`, `++key=value` or `~key`. `opsin.runs.quoting` is the opposite: it builds
overrides from values.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from opsin.errors import UserError
from opsin.runs.home import expand_home
from opsin.runs.quoting import opsin_command, override, printed_command, quote_text

PATHS = ("data_dir", "datamodule.path", "model.weights", "model.teacher")
"""Keys that may hold a path; the saved config holds it as an absolute path."""

TEXTS = (*PATHS, "output_dir", "resume", "hydra.run.dir", "hydra.sweep.dir", "sweep.name", "sweep.storage")
"""Keys whose value is text, even if it reads as a number."""

NAMED = ("callbacks.", "logger.")
"""Start of the keys of sections that have a name each; those that are null are switched off."""

MAX_LENGTH, MAX_DEPTH = 10_000, 50
"""Maximum number of characters in an override, and of brackets within brackets."""

_FLAGS_WITH_VALUE = {
    *("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p"),
    *("--cfg", "-c", "--info", "-i", "--experimental-rerun"),
}
"""Flags of Hydra that take the next argument as their value."""


def is_override(argument: str) -> bool:
    """Return whether an argument is an override; otherwise it is a flag or a plain word."""
    return ("=" in argument[1:] and not argument.startswith("-")) or argument.startswith("~")


def is_word(argument: str) -> bool:
    """Return whether an argument is a folder or a plain word; a folder with `=` in its name needs a slash."""
    is_path = "/" in argument or "\\" in argument
    folder = expand_home(argument)
    return not is_override(argument) or (is_path and os.path.isdir(folder))  # noqa: PTH112 - long text fails in Path


def key_of(text: str) -> str:
    """Return the dotted key of an override: `optimizer.lr` for `++optimizer.lr=0.1`."""
    return text.lstrip("+~").split("=", 1)[0].split("@", 1)[0]


def find_value(overrides: Iterable[str], key: str) -> str | None:
    """Return the value that overrides give to a key, without its quotes; the last one counts.

    Returns:
        None if no override sets the key, or if it is set to null.
    """
    found = None
    for text in overrides:
        if is_override(text) and not text.startswith("~") and key_of(text) == key:
            value = parse_override(text).value()
            found = None if value is None else str(value)
    return found


def parse_override(text: str, parser: Any = None) -> Any:
    """Return Hydra's `Override` for one override.

    Args:
        text: The override.
        parser: An `OverridesParser`; None makes one, which cannot resolve `glob(...)`.

    Raises:
        UserError: Hydra's grammar refuses the override; the message shows the quoted form.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if len(text) > MAX_LENGTH or _depth(text) > MAX_DEPTH:
        raise UserError(
            f"{text[:40]}... has {len(text):,} characters in {_depth(text):,} levels of brackets; an override has at "
            f"most {MAX_LENGTH:,} in {MAX_DEPTH}: write the value in a config file"
        )
    try:
        parsed = (parser or OverridesParser.create()).parse_overrides([text])[0]
        repr(parsed.value())  # Python neither reads nor writes integers of thousands of digits
    except HydraException:
        raise UserError(_refusal(text)) from None
    except ValueError as error:
        raise UserError(f"{text[:40]}... cannot be read: {str(error).partition(';')[0]}") from None
    return parsed


def check_overrides(arguments: Sequence[str], options: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the arguments of a command line for Hydra, or refuse those on which Hydra would fail with a traceback.

    A path that reads as a number (`datamodule.path=1e3`) comes back in quotes. So does a path that reads as `true` or
    `null`, if a file of that name exists.

    Args:
        arguments: Overrides and flags.
        options: Names of the options in each config group; empty for a run, which has chosen them.

    Raises:
        UserError: An override is the path of a folder, cannot be parsed, lists values in a single run, or sets a group
            to something that is not an option.
    """
    multirun = any(argument in ("-m", "--multirun") or "hydra.mode=" in argument for argument in arguments)
    checked, is_value = [], False
    for argument in arguments:
        if not is_value and not argument.startswith("-"):
            argument = _check(argument, options, multirun)
        is_value = argument in _FLAGS_WITH_VALUE
        checked.append(argument)
    return checked


def task_overrides(hydra: Any) -> list[str]:
    """Return the overrides of a job as typed; OmegaConf resolves `${...}` in them when they are read one by one.

    Args:
        hydra: The `hydra` node of a composed config.
    """
    found = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(found, list)
    return [str(text) for text in found]


def _check(argument: str, options: Mapping[str, Sequence[str]], multirun: bool) -> str:
    if is_word(argument) and Path(expand_home(argument)).is_dir():
        group = ["datamodule=image_folder"] if options else []
        shown = printed_command([*group, override("datamodule.path", argument)])
        raise UserError(f"{argument} is a folder, and the command takes overrides: write {shown}")
    parsed = parse_override(argument)
    key = key_of(argument)
    if argument.startswith("~"):
        return argument
    if parsed.is_sweep_override():
        if not multirun:
            raise UserError(_several_values(argument))
        return argument
    value = parsed.value()
    is_empty = value is None if parsed.is_add() else value == {}
    if is_empty and key.startswith(NAMED) and key.count(".") == 1:
        raise UserError(f"{argument} changes nothing: leave it out, or write {key}=null to remove {key}")
    if key in options and (not value or not isinstance(value, str | list)):
        names = ", ".join(options[key]) if len(options[key]) < 10 else f"a file in configs/{key} without .yaml"
        raise UserError(f"{argument}: {key} takes the name of an option ({names}); leave {key} out for the default")
    return _as_text(argument) if key in TEXTS and not isinstance(value, str | list | dict) else argument


def _as_text(argument: str) -> str:
    """Return the override with its value quoted as text, if it reads as a number or names an existing file."""
    prefix, _, typed = argument.partition("=")
    is_word = typed.lower() in ("true", "false", "null", "")
    return argument if is_word and not (typed and Path(typed).exists()) else override(prefix, typed)


def _several_values(argument: str) -> str:
    key, _, value = argument.partition("=")
    parts = [
        f"{argument} gives several values, and a single run takes one. For one run per value add -m to the command "
        f"{opsin_command('train')}"
    ]
    if re.fullmatch(r"[^()]*", value):  # a plain list and not range(...) or choice(...)
        text, listed = shlex.quote(f"{key}={quote_text(value)}"), shlex.quote(f"{key}=[{value}]")
        parts.append(f"for one text with a comma, quote it: {text}; for a list write {listed}")
    return "; ".join(parts)


def _refusal(text: str) -> str:
    """Return the message for an override that Hydra's grammar refuses."""
    key, equals, value = text.partition("=")
    if not equals:
        return f"{text} is not an override: write KEY=VALUE, such as model=cnn_gap or optimizer.lr=0.1"
    if not re.fullmatch(r"[+~]*[\w$./@:-]+", key):
        return f"{text}: {key!r} is not a key; a key is a dotted name, such as optimizer.lr"
    quoted = shlex.quote(f"{key}={quote_text(value.strip())}")
    advice = f"as text it needs quotes, one pair for Hydra and one for the shell: {quoted}"
    if _has_open_brackets(value):
        advice += "; anything else needs its closing bracket"
    return f"{text} cannot be read: {advice}"


def _depth(text: str) -> int:
    """Return the maximum depth of nested brackets."""
    depths = accumulate((char in "([{") - (char in ")]}") for char in text)
    return max(depths, default=0)


def _has_open_brackets(value: str) -> bool:
    return any(value.count(left) != value.count(right) for left, right in ("()", "[]", "{}"))
