"""A checkpoint that no command could load is refused before it replaces an earlier one."""

import datetime
import enum
from collections import Counter, OrderedDict, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from opsin.errors import UserError
from opsin.training.lightning_patches import AtomicCheckpointIO


class Color(enum.Enum):
    RED = 1


LOADED: list[Any] = [
    *(None, True, 3, 2.5, 1j, "text", b"bytes", torch.ones(2), nn.Parameter(torch.ones(2)), torch.Size([1, 2])),
    *(torch.bfloat16, torch.device("cpu"), [1, (2, {"a": {3}})], OrderedDict(a=1), Counter("aab"), {1: "a", (2, 3): 4}),
]
"""Values that `torch.load` reads with `weights_only=True`."""


@pytest.mark.parametrize("value", LOADED, ids=lambda value: type(value).__name__)
def test_tensors_and_plain_values_are_saved(value: Any, tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    AtomicCheckpointIO(tmp_path).save_checkpoint({"callbacks": {"Mine": {"kept": value}}}, file)
    found = torch.load(file, weights_only=True)["callbacks"]["Mine"]["kept"]
    assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (np.float64(0.5), r"Mine\.kept of the checkpoint is an object of type numpy\.float64"),
        (np.arange(3), r"Mine\.kept .* of type numpy\.ndarray"),
        ([0, {"best": np.int64(1)}], r"Mine\.kept\.1\.best .* of type numpy\.int64"),
        ({np.str_("a"): 1}, r"Mine\.kept\.a key .* of type numpy\.str_"),
        (Path("a"), r"Mine\.kept .* of type pathlib"),
        (defaultdict(list), "collections.defaultdict"),
        (datetime.date(2026, 1, 1), "datetime.date"),
        (Fraction(1, 2), "Fraction"),
        (Color.RED, r"test_checkpoint_values\.Color"),
        (lambda: 1, "function"),
    ],
)
def test_other_values_are_refused_with_their_place(value: Any, place: str, tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    file.write_text("earlier")
    with pytest.raises(UserError, match=rf"^callbacks\.{place}|^callbacks\.Mine\.kept .*{place}"):
        AtomicCheckpointIO(tmp_path).save_checkpoint({"callbacks": {"Mine": {"kept": value}}}, file)
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("last.ckpt", "earlier")]
