"""Hide environment variables from code that reads them."""

import contextlib
import os
import re
from collections.abc import Iterator


@contextlib.contextmanager
def hidden_variables(pattern: str) -> Iterator[None]:
    """Remove the environment variables whose names begin with a match of a regular expression within a block."""
    found = {name: value for name, value in os.environ.items() if re.match(pattern, name)}
    for name in found:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(found)
