"""The sections of the config of a run."""

from collections.abc import Mapping
from typing import Any

SECTIONS_OF_MANY = ("callbacks", "logger")
"""Sections of the config that hold named sections, each of which may be null."""

SECTIONS = (
    *("datamodule", "model", "loss", "distillation", "augmentation", "optimizer", "scheduler", "trainer", "monitor"),
    *("feature_cache", *SECTIONS_OF_MANY),
)
"""Sections of the config of a run."""


def missing_section(tree: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return the dotted key and the value of the first section without keys; None if all sections hold keys.

    Args:
        tree: A config. References and absent sections are accepted, and null for sections of many and those in them.
    """
    for key in SECTIONS:
        value = tree.get(key, {})
        inner = value if key in SECTIONS_OF_MANY and isinstance(value, Mapping) else {}
        if not _holds_keys(value) and not (value is None and key in SECTIONS_OF_MANY):
            return key, value
        for name, section in inner.items():
            if section is not None and not _holds_keys(section):
                return f"{key}.{name}", section
    return None


def _holds_keys(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, str) and "${" in value)
