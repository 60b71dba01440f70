"""The key of cached features changes with everything of a user's own modules that changes their outputs."""

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opsin.models import cnn_gap, resnet18, timm
from opsin.training.feature_extraction import (
    library_versions,
    own_attributes,
    own_files,
    own_sources,
    structure_digest,
    weights_digest,
)


class Base(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x) * 31

    def operation(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Scaled(Base):
    def __init__(self, factor: Any) -> None:
        super().__init__()
        self.factor = factor

    def operation(self, x: Tensor) -> Tensor:
        return x * self.factor


class Buffered(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor), persistent=False)


def relu() -> None: ...


def gelu() -> None: ...


def table(last: int) -> np.ndarray:
    values = np.zeros(5000)
    values[2500] = last
    return values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: 1, lambda: 2),
        (lambda: 1.0, lambda: 1.5),
        (lambda: "relu", lambda: "gelu"),
        (lambda: (1, (2.0, "a")), lambda: (1, (2.0, "b"))),
        (lambda: {"scale": [1, 2]}, lambda: {"scale": [1, 3]}),
        (lambda: types.SimpleNamespace(scale=1), lambda: types.SimpleNamespace(scale=2)),
        (lambda: torch.arange(5000), lambda: torch.arange(5000).where(torch.arange(5000) != 2500, -1)),
        (lambda: table(1), lambda: table(2)),
        (lambda: relu, lambda: gelu),
    ],
    ids=["int", "float", "text", "tuple", "dict", "object", "tensor", "array", "function"],
)
def test_attributes_of_own_modules_are_part_of_the_structure(one: Callable[[], Any], other: Callable[[], Any]) -> None:
    def digest(value: Any) -> str:
        return structure_digest({"stage": nn.Sequential(nn.Conv2d(1, 4, 3), Scaled(value))})

    assert digest(one()) == digest(one()) != digest(other())


def test_the_mode_is_not_part_of_the_structure() -> None:
    module = Scaled((1, object()))
    assert structure_digest({"stage": module.train()}) == structure_digest({"stage": module.eval()})
    assert structure_digest({"stage": module}) == structure_digest({"stage": Scaled((1, object()))})


def test_the_source_of_base_classes_is_part_of_the_structure() -> None:
    text = "".join(own_sources([nn.Sequential(Scaled(1))]))
    assert "* 31" in text
    assert "x * self.factor" in text


HELPERS = "import torch\n{imports}\ndef halved(x):\n    return x * {factor}\n"
OWN = """
from torch import nn
import helpers
LIMIT = {limit}
class Stage(nn.Module):
    def forward(self, x):
        return helpers.halved(x).clamp(max=LIMIT)
"""


def test_files_that_own_modules_use_are_part_of_the_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules import each other, as those of a package may."""
    monkeypatch.syspath_prepend(tmp_path)

    def digest(limit: float, factor: float) -> str:
        for name in ("stages_of_mine", "helpers"):
            sys.modules.pop(name, None)
        (tmp_path / "helpers.py").write_text(HELPERS.format(imports="import stages_of_mine", factor=factor))
        (tmp_path / "stages_of_mine.py").write_text(OWN.format(limit=limit))
        importlib.invalidate_caches()
        return structure_digest({"stage": importlib.import_module("stages_of_mine").Stage()})

    assert digest(1, 0.5) == digest(1, 0.5)
    assert len({digest(1, 0.5), digest(2, 0.5), digest(1, 0.25)}) == 3


def test_files_of_libraries_are_left_out() -> None:
    assert own_files(["torch.nn", "numpy", "opsin.models.network", "no.such.module", ""]) == []


def test_versions_of_libraries_are_facts_of_the_networks_that_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"1 of {name}")
    assert library_versions([cnn_gap(num_logits=2, in_channels=1, image_size=(28, 28))]) == {}
    assert library_versions([resnet18(num_logits=2, image_size=(32, 32))]) == {"torchvision": "1 of torchvision"}
    lite = timm(name="test_efficientnet", num_logits=2, image_size=(64, 64))
    assert library_versions(lite.stages.values()) == {"timm": "1 of timm"}


def test_buffers_that_are_not_saved_are_part_of_the_weights() -> None:
    assert weights_digest([Buffered(1.0)]) == weights_digest([Buffered(1.0)]) != weights_digest([Buffered(2.0)])


def test_networks_of_libraries_have_no_text_besides_their_layers() -> None:
    networks = (cnn_gap(num_logits=2, in_channels=1, image_size=(28, 28)), nn.MultiheadAttention(4, 2))
    assert own_attributes(networks) == own_sources(networks) == []
