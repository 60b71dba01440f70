"""Nested sections as one level of dotted keys."""

from collections.abc import Mapping
from typing import Any

Scalar = bool | int | float | str


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return the values of nested sections by dotted key, without those that are None."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        elif value is not None:
            found[f"{above}{key}"] = value
    return found


def flat_scalars(tree: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the values of nested sections as `flat` does, with lists and other objects as text."""
    return {key: value if isinstance(value, Scalar) else str(value) for key, value in flat(tree).items()}
