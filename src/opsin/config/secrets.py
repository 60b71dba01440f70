"""Secrets in a config: always a reference to an environment variable, `${oc.env:WANDB_API_KEY}`, never a value.

The composed tree holds the reference, and so does every output: config.yaml, result.json, the log, the
report, TensorBoard, the journal of a sweep. `reveal` returns the value when an object is built with it.
"""

import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from opsin.config.overrides import key_of, parse_override
from opsin.errors import UserError
from opsin.runs.secret_values import URL_PASSWORD, register_secret

WORDS = frozenset(
    {"secret", "password", "passwd", "passphrase", "credential", "credentials"}
    | {"apikey", "accesskey", "secretkey", "privatekey"}
)
"""Words that mark a secret in the name of a key or of an environment variable."""

VARIABLE_WORDS = WORDS | {"token", "key", "pass", "auth", "pwd"}
"""Words that mark a secret in the name of an environment variable. `token` marks the name of a key as its last word:
`hf_token`, but not `token_dim`."""

KINDS_OF_KEYS = frozenset(
    {"api", "access", "secret", "private", "account", "auth", "encryption", "signing", "ssh", "service"}
)
"""Words before `key` that mark the name of a key as secret: `api_key`, but not `sort_key`."""

COUNTS = frozenset({"num", "max", "min", "n"})
"""First words of a key that mark it as a count, not a secret: `num_tokens`."""

_NUMBER = r"[+-]?(\d{1,3}(\.\d{0,6})?|\.\d{1,6})(e[+-]?\d{1,2})?"
HARMLESS = re.compile(rf"(|\?\?\?|null|true|false|{_NUMBER})(,\s*(null|true|false|{_NUMBER}))*", re.IGNORECASE)
"""Values that are no secrets: nothing, a switch, or a number of few digits; with commas, those of a sweep."""

REFERENCE = re.compile(r"\$\{oc\.env:\s*([A-Za-z_]\w*)\s*(,\s*null\s*)?\}")
"""A reference to an environment variable; with `,null` the variable may be missing."""

DEFAULT = re.compile(r"\$\{oc\.env:\s*([A-Za-z_]\w*)\s*,\s*([^}]*?)\s*\}")
"""A reference with a default value, which would be a literal."""

ASSIGNMENT = re.compile(r"""(?:^|[\s;,\["'])([A-Za-z_]\w*)=["']?(?!["'$\s]|$)""")
"""An assignment in a line of shell with a literal value: `export HF_TOKEN=abc`, but not `export HF_TOKEN=$HF_TOKEN`."""

INNER_KEY = re.compile(r"([\w.]+)[\"']?\s*:")
"""A key inside the value of an override, such as `api_key` in `{api_key: abc}`."""

ADDRESSES = ("sweep.storage", "callbacks.pruning.storage")
"""Keys whose value may be the address of a database with a password. Those of loggers may be addresses, too."""


def is_secret_variable(name: str) -> bool:
    """Return whether the name of an environment variable marks a secret, such as `HF_TOKEN` or `PGPASSWORD`."""
    words = _words(name)
    return name != "PWD" and (not VARIABLE_WORDS.isdisjoint(words) or words[-1].endswith(tuple(WORDS)))


def holds_secret(name: str) -> bool:
    """Return whether an environment variable is a secret by its name, or is now an address with a password."""
    return is_secret_variable(name) or URL_PASSWORD.search(os.environ.get(name, "")) is not None


def may_hold_secret(key: str) -> bool:
    """Return whether a reference to a secret is accepted in a dotted key.

    Loggers and databases may have a password inside an address. The user chooses them.
    """
    return key.startswith("logger.") or key in ADDRESSES or is_secret_key(key)


def is_secret_key(key: str) -> bool:
    """Return whether a dotted key names a secret, such as `logger.wandb.api_key` or `credentials.user`.

    The keys below `hydra.job.env_set` are names of environment variables.
    """
    above, _, name = re.sub(r"\[\d+\]", "", key).rpartition(".")
    if above == "hydra.job.env_set":
        return is_secret_variable(name)
    words = _words(name)
    if words[0] in COUNTS:
        return False
    if not WORDS.isdisjoint(words) or above.rpartition(".")[2] in ("credentials", "secrets") or words[-1] == "token":
        return True
    return "key" in words[1:] and words[words.index("key") - 1] in KINDS_OF_KEYS


def secret_reference(name: str, optional: bool = False) -> str:
    """Return the reference to an environment variable."""
    return f"${{oc.env:{name}{',null' if optional else ''}}}"


def refuse_literal_secrets(tree: Any) -> None:
    """Refuse secrets that are written into a config or typed as overrides.

    Args:
        tree: Plain values, resolved or not.

    Raises:
        UserError: A value is a secret. The message names the keys, without their values, and the form to use.
    """
    keys = [key for key, value in _leaves(tree) if _is_literal_secret(key, value)]
    if keys:
        name = re.sub(r"\W+", "_", keys[0].rpartition(".")[2]).upper()
        raise UserError(
            f"{', '.join(keys)}: a secret must not be written into a config or a command, because both are saved with "
            f"the run. Set an environment variable and refer to it: '{keys[0]}={secret_reference(name)}'"
        )


def refuse_typed_secrets(arguments: Sequence[str]) -> None:
    """Refuse arguments that hold a secret, before a message can repeat them.

    Args:
        arguments: Overrides, flags and words of a command line; only `KEY=VALUE` and `--KEY VALUE` can hold a secret.

    Raises:
        UserError: An argument holds a secret. The message names its key.
    """
    typed: dict[str, Any] = {}
    for argument, follows in pairwise([*arguments, "-"]):
        name, equals, value = argument.partition("=")
        key = key_of(name.lstrip("-"))
        if equals:
            typed |= {**dict(_leaves(_inner(argument), key)), key: value}
        elif name.startswith("-") and "=" not in follows and not follows.startswith("-"):
            typed[key] = follows
    refuse_literal_secrets(typed)
    refuse_launcher_secrets({key.partition(".")[2]: typed[key] for key in typed if key.split(".")[0] == "launcher"})


def _inner(override: str) -> Any:
    """Return the values inside an override such as `logger.x={url: abc}`; all are its text if it cannot be read."""
    text = override.partition("=")[2]
    keys = INNER_KEY.findall(text) if "{" in text else ()
    try:
        return parse_override(override.lstrip("-")).value() if keys else {}
    except UserError:
        return dict.fromkeys(keys, text)


def refuse_missing_secrets(tree: Any) -> None:
    """Refuse references to secrets that are not set in the environment.

    Raises:
        UserError: A secret is not set. The message names all of them, with their keys.
    """
    missing = {
        name: key
        for key, value in _leaves(tree)
        if isinstance(value, str)
        for name, optional in REFERENCE.findall(value)
        if not optional and name not in os.environ
    }
    if missing:
        named = ", ".join(f"{name} (for {key})" for name, key in missing.items())
        raise UserError(f"Not set in the environment: {named}. Set it first: export {next(iter(missing))}=...")


def refuse_misplaced_secrets(tree: Mapping[str, Any]) -> None:
    """Refuse a reference to a secret in a value that is no secret, such as `output_dir` or the address of a bucket.

    A config of somebody else could otherwise send any secret of this machine to a server.

    Raises:
        UserError: A value refers to a secret. The message names the key.
    """
    for key, value in _leaves(tree):
        if may_hold_secret(key) or not isinstance(value, str) or not (match := REFERENCE.search(value)):
            continue
        if is_secret_variable(match[1]):
            raise UserError(
                f"{key}={value}: the name of this variable marks a secret, and {key} cannot hold a secret. Rename the "
                "variable if it is not a secret"
            )
        raise UserError(
            f"{key}={value}: this variable is an address with a password, and {key} cannot hold a secret. Leave the "
            "password out"
        )


def refuse_launcher_secrets(launcher: Any) -> None:
    """Refuse a secret in the settings of a launcher, which writes them into the script of a job.

    Raises:
        UserError: A setting refers to a secret. The message names the key and the way to give a secret to a job.
    """
    for key, value in _leaves(launcher, "launcher"):
        if not isinstance(value, str):
            continue
        literal = any(is_secret_variable(name) for name in ASSIGNMENT.findall(value))
        if literal or REFERENCE.search(value):
            raise UserError(
                f"{key}: a secret must not be written into the settings of a launcher, because they are saved in the "
                "script of each job. Set the environment variable before the sweep starts: its jobs get it, and a line "
                "of launcher.setup may read it as $NAME"
            )


def secret_variables(tree: Any) -> frozenset[str]:
    """Return the names of the environment variables of all secrets that a config refers to, resolved or not."""
    return frozenset(
        name
        for key, value in _leaves(tree)
        if isinstance(value, str)
        for name, _ in REFERENCE.findall(value)
        if holds_secret(name) or is_secret_key(key)
    )


def reveal(value: Any) -> Any:
    """Return plain values with every reference to a secret replaced by the secret.

    Use it only for the arguments of an object that is built now, and never write the result. The values are masked from
    now on in messages and logs.

    Raises:
        UserError: The environment variable is not set.
    """
    if isinstance(value, str):
        match = REFERENCE.fullmatch(value)
        return _value(match) if match else REFERENCE.sub(lambda match: _value(match) or "", value)
    if isinstance(value, Mapping):
        return {key: reveal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [reveal(item) for item in value]
    return value


def _value(match: re.Match[str]) -> str | None:
    name, optional = match.groups()
    if name not in os.environ and not optional:
        raise UserError(f"{name} is not set in the environment: export {name}=...")
    secret = os.environ.get(name)
    if secret is not None:
        reference = secret_reference(name, bool(optional))
        register_secret(secret, reference)
        for password in URL_PASSWORD.findall(secret):  # a library can show it without the rest of the address
            register_secret(urllib.parse.unquote(password), reference)
    return secret


def _words(name: str) -> Sequence[str]:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").split("_")


def _is_literal_secret(key: str, value: Any) -> bool:
    if isinstance(value, str) and URL_PASSWORD.search(value):
        return True
    for name, default in DEFAULT.findall(value) if isinstance(value, str) else ():
        if default not in ("null", "") and (is_secret_variable(name) or is_secret_key(key)):
            return True
    if not is_secret_key(key) or not isinstance(value, str | int | float):
        return False
    return not HARMLESS.fullmatch(str(value)) and "${" not in str(value)


def _leaves(tree: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{above}.{key}".lstrip("."))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{above}[{index}]")
    else:
        yield above, tree
