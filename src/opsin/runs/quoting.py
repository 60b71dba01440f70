"""Quote values as Hydra overrides, and overrides as arguments of a shell.

Paths and names may contain spaces, quotes, brackets or accented letters, which have a meaning in Hydra's grammar
(https://hydra.cc/docs/advanced/override_grammar/basic). Opsin builds all overrides from values here, and all commands
that it prints or writes. This module does not need Hydra. `opsin.runs.escaping` escapes control characters.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

Value = str | PurePath | int | float | bool | None | Sequence["Value"] | Mapping[str, "Value"]
"""Values that a key can have."""

CLONE_VARIABLE = "OPSIN_CLONE"
"""Environment variable that the scripts of the repository set to its folder; processes that they start inherit it."""

_PLAIN = re.compile(r"[A-Za-z0-9_/.+%*@-]+")
"""Text that Hydra reads without quotes."""

_TYPED = re.compile(r"[+-]?(\d[\d_]*\.?|\d*\.\d[\d_]*|\d[\d_]*\.?[eE].*|\.\d.*|inf|nan)|true|false|null", re.IGNORECASE)
"""Text that Hydra reads as a number, a boolean or null."""


def override(key: str, value: Value) -> str:
    """Return the override that sets a key to exactly this value.

    Args:
        key: A dotted key, with `+` or `++` in front where the key is new.
        value: The value; a string or a path remains text, even `007`, `true` or `${x}`.
    """
    return f"{key}={quote(value)}"


def quote(value: Value) -> str:
    """Return a value as the right side of an override; Hydra and OmegaConf read the same value back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | PurePath):
        return quote_text(_escape_interpolations(str(value)))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quote(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(quote(item) for item in value) + "]"


def quote_text(text: str) -> str:
    """Return text in Hydra's double quotes where it needs them; `${...}` stays an interpolation."""
    if _PLAIN.fullmatch(text) and not _TYPED.fullmatch(text):
        return text
    # Inside quotes a backslash is literal, except in front of a quote.
    escaped = re.sub(r'(\\*)"', lambda found: found[1] * 2 + r"\"", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f'"{escaped}{escaped[len(escaped) - trailing :]}"'


def _escape_interpolations(text: str) -> str:
    """Return text that OmegaConf resolves to `text`."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)


def printed_command(arguments: Sequence[str | PurePath]) -> str:
    """Return a command as text for a message; a shell reads exactly these arguments.

    Args:
        arguments: `["torchrun", override("resume", path)]`; a path that is a whole argument needs no quoting.
    """
    return shlex.join(str(argument) for argument in arguments)


def opsin_command(name: str, *arguments: str | PurePath) -> str:
    """Return a command of Opsin as text for a message, in the form in which the user started Opsin.

    Args:
        name: Name of the command, such as `train` or `find-lr`.
        arguments: Its arguments.

    Returns:
        `opsin predict RUN`, or `python scripts/predict.py RUN` if a script of the repository was started.
    """
    return printed_command([*_started_form(name), *arguments])


def torchrun_command(options: str) -> str:
    """Return the command that starts the processes of a run with torchrun, in the form in which Opsin was started."""
    form = _started_form("train")
    return f"torchrun {options} {printed_command(form[1:] if form[0] == 'python' else ['-m', *form])}"


def resume_command(run: PurePath) -> str:
    """Return the command that resumes a run."""
    return opsin_command("train", override("resume", run))


def printed_override(key: str, value: Value) -> str:
    """Return an override as text for a message, quoted for Hydra and for a shell."""
    return shlex.quote(override(key, value))


def _started_form(name: str) -> list[str]:
    clone = os.environ.get(CLONE_VARIABLE)
    if clone is None:
        return ["opsin", name]
    script = Path(clone, "train.py" if name == "train" else f"scripts/{name.replace('-', '_')}.py")
    here = Path.cwd()
    return ["python", str(script.relative_to(here) if script.is_relative_to(here) else script)]
