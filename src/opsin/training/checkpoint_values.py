"""Checkpoints hold tensors and plain values only, so that loading them runs no code; other values are refused."""

import io
import pickle
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from opsin.errors import UserError

PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, Tensor, nn.Parameter, torch.Size, torch.dtype})
"""Types of values that `torch.load` reads with `weights_only=True`; it reads no subclasses, such as `numpy.float64`."""


def check_values(checkpoint: Any) -> None:
    """Check that a checkpoint can be loaded with `weights_only=True`, before it replaces an earlier one.

    The state of a callback, an optimizer or a schedule of the user can hold any object. `torch.save` accepts it, but no
    command could read the checkpoint.

    Raises:
        UserError: Names the place and the type of the first value that cannot be loaded.
    """
    if found := _odd_value(checkpoint, ""):
        place, value = found
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise UserError(
            f"{place} of the checkpoint is an object of type {kind}, and checkpoints hold tensors and plain values "
            "only. Convert it in the method state_dict: an array with torch.from_numpy, a number of NumPy with float, "
            "a path with str"
        )


def _odd_value(value: Any, place: str) -> tuple[str, Any] | None:
    """Return the first value that cannot be loaded, with its place, such as `callbacks.Mine.best`; None without one."""
    kind = type(value)
    if kind in PLAIN:
        return None
    if kind in (dict, OrderedDict):
        parts = [(name, part) for key, item in value.items() for name, part in ((f"a key {key!r}", key), (key, item))]
    elif kind in (list, tuple, set):
        parts = list(enumerate(value))
    else:
        return None if _loads(value) else (place, value)
    below = (_odd_value(part, f"{place}.{name}".lstrip(".")) for name, part in parts)
    return next((found for found in below if found), None)


def _loads(value: Any) -> bool:
    content = io.BytesIO()
    try:
        torch.save(value, content)
        content.seek(0)
        torch.load(content, weights_only=True)
    except (pickle.PickleError, TypeError, AttributeError):  # the last two: an object that cannot be pickled
        return False
    return True
