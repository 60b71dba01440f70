"""Values that depend on the process or the time: resolved once, before a config is saved.

`${oc.env:TASK}`, `${now:%Y}`, `${hydra:job.name}` and `~/photos` mean something else in another shell, so the saved
config holds their values. References between keys (`${optimizer.lr}`) stay, so that they follow a change on resume.
References to secrets (`${oc.env:WANDB_API_KEY}`) stay too: their values are in no file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.grammar_parser import parse
from omegaconf.resolvers import oc

from opsin.config.secrets import holds_secret, is_secret_key, may_hold_secret, secret_reference
from opsin.runs.home import expand_home

_UNSET = object()

OF_KEYS = frozenset({"oc.select", "oc.dict.keys", "oc.dict.values", "oc.create", "oc.decode", "oc.deprecated"})
"""Resolvers whose result depends on their arguments and on other keys alone."""


def register_resolvers() -> None:
    """Let `${oc.env:NAME}` return a reference, and no value, where the variable or the key is a secret."""
    OmegaConf.register_new_resolver("oc.env", _environment, replace=True)


@contextmanager
def restored_resolvers() -> Iterator[None]:
    """Restore OmegaConf's own `oc.env` after a block: the caller may use OmegaConf too."""
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _environment(name: str, default: Any = _UNSET, *, _node_: Any = None) -> Any:
    key = str(_node_._get_full_key(None)) if _node_ is not None else ""
    if holds_secret(name) or is_secret_key(key):
        return secret_reference(name, default is None)
    if name in os.environ:
        return os.environ[name]
    if default is _UNSET:
        if may_hold_secret(key):  # in the shell that started the run it may be an address with a password
            return secret_reference(name)
        raise KeyError(f"the environment variable {name} is not set")
    return default


def resolve_process_values(config: DictConfig) -> None:
    """Replace every part of a config that depends on the process or the time with its value.

    Args:
        config: Composed and without `hydra`; `${hydra:...}` is resolved from Hydra's current settings.

    Raises:
        OmegaConfBaseException: An interpolation cannot be resolved.
    """
    register_resolvers()
    with open_dict(config):
        _resolve_container(config)


def _resolve_container(container: Any) -> None:
    raw = OmegaConf.to_container(container, resolve=False)
    items = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for key, value in items:
        if isinstance(value, dict | list):
            _resolve_container(container[key])
        elif isinstance(value, str):
            if value.startswith("~/"):
                container[key] = value = expand_home(value)
            if "${" in value:
                _resolve_text(container, key, value)


def _resolve_text(container: Any, key: Any, text: str) -> None:
    """Resolve those interpolations of a value that depend on the process; keep the others as they are written."""
    done, pieces = 0, []
    for start, stop in _process_interpolations(text):
        container[key] = text[start:stop]
        value = container[key]
        if isinstance(value, str):
            if "${oc.env:" in value:  # a secret stays a reference
                continue
            value = value.replace("${", "\\${")
        if (start, stop) == (0, len(text)):
            container[key] = value
            return
        pieces += [text[done:start], str(value)]
        done = stop
    container[key] = "".join([*pieces, text[done:]])


def _process_interpolations(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each outermost `${...}` that depends on more than other keys."""
    yield from _search(parse(text))


def _search(node: Any) -> Iterator[tuple[int, int]]:
    for child in node.getChildren() if node.getChildCount() else ():
        if type(child).__name__ == "InterpolationContext":
            if _depends_on_process(child):
                yield child.start.start, child.stop.stop + 1
        elif hasattr(child, "getChildren"):
            yield from _search(child)


def _depends_on_process(node: Any) -> bool:
    kind = type(node).__name__
    if kind == "ResolverNameContext":
        return node.getText() not in OF_KEYS
    if kind == "InterpolationNodeContext" and node.getText().startswith("${hydra."):
        return True
    children = node.getChildren() if node.getChildCount() else ()
    return any(_depends_on_process(child) for child in children)
