"""Limit of references: a few lines such as `x0: ${x1}${x1}` could use up all time and memory.

The key of a reference may be computed (`${${name}}`, `${oc.select:...}`), so references are counted while OmegaConf
resolves them, and not before.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import Container, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from opsin.config.yaml_limits import MAX_VALUES

REFERENCE = 10
"""Number of values that each reference adds to those that it stands for: resolving it takes about 0.5 ms."""

TEXT = 1_000
"""Number of characters of a text that count as one value."""

_lock = threading.RLock()


@contextmanager
def limited_references() -> Iterator[None]:
    """Refuse, within a block, references that expand to more than `MAX_VALUES` values.

    Raises:
        InterpolationResolutionError: They expand to more. The error names the key.
    """
    size = 0

    def counted(self: Container, *arguments: Any, **keywords: Any) -> Any:
        nonlocal size
        if size <= MAX_VALUES:
            found = resolve(self, *arguments, **keywords)
            size += REFERENCE + _size(found)
            if size <= MAX_VALUES:
                return found
        raise InterpolationResolutionError(f"references expand to more than {MAX_VALUES:,} values")

    with _lock:
        resolve = Container.resolve_parse_tree
        Container.resolve_parse_tree = counted  # type: ignore[method-assign]
        try:
            yield
        finally:
            Container.resolve_parse_tree = resolve  # type: ignore[method-assign]


def _size(found: Any) -> int:
    """Return the number of values in the result of a reference; the references in it count when they are resolved."""
    if isinstance(found, Container):
        found = OmegaConf.to_container(found, resolve=False)
    if isinstance(found, dict | list):
        return 1 + sum(_size(item) for item in (found.values() if isinstance(found, dict) else found))
    return 1 + len(str(found)) // TEXT
