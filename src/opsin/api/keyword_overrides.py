"""Keyword arguments of Python as overrides of the config."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opsin.config.suggestions import config_options
from opsin.errors import UserError
from opsin.runs.quoting import Value, override


def keyword_overrides(sections: Mapping[str, Any]) -> list[str]:
    """Return the overrides that keyword arguments stand for.

    `datamodule={"batch_size": 64}` gives `datamodule.batch_size=64`, and `seed=3` gives `seed=3`.

    Args:
        sections: A mapping of keys to values for a section of the config, or a value for a key.

    Raises:
        UserError: A value has a type that YAML does not have, or a mapping for a section is empty.
    """
    return list(_overrides(sections))


def _overrides(sections: Mapping[str, Any]) -> Iterator[str]:
    for name, given in sections.items():
        if not isinstance(given, Mapping):
            yield override(name, _plain(given, name))
            continue
        if not given:
            has_none = "none" in config_options().get(name, ())
            way_out = f"{name}='none'" if has_none else f"{name}={{'KEY': None}} to remove a key of this section"
            raise UserError(f"{name}={{}} changes nothing: leave it out, or use {way_out}")
        for key, value in given.items():
            yield override(f"{name}.{key}", _plain(value, f"{name}.{key}"))


def _plain(value: Any, key: str) -> Value:
    """Return a value as plain Python: arrays of NumPy and tensors become numbers and lists."""
    if hasattr(value, "tolist") and not isinstance(value, type):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(item, key) for item in value]
    kind = getattr(value, "__name__", type(value).__name__)
    raise UserError(f"{key}: a config cannot hold a value of type {kind}: give a number, text, a list or a mapping")
