"""Keyword arguments become the overrides that a user would type."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from opsin.api.keyword_overrides import keyword_overrides
from opsin.config import compose
from opsin.errors import UserError


def test_sections_and_values_become_overrides() -> None:
    sections = {
        "model": "mlp",
        "seed": np.int64(3),
        "datamodule": {"batch_size": 64, "mean": np.array([0.5]), "path": None},
        "optimizer": {"lr": np.float32(0.5)},
        "data_dir": Path("a b"),
        "callbacks": {"progress": {"bar": False}},
        "trainer": {"max_epochs": torch.tensor(2)},
    }
    assert keyword_overrides(sections) == [
        "model=mlp",
        "seed=3",
        "datamodule.batch_size=64",
        "datamodule.mean=[0.5]",
        "datamodule.path=null",
        "optimizer.lr=0.5",
        'data_dir="a b"',
        "callbacks.progress={bar:false}",
        "trainer.max_epochs=2",
    ]


def test_values_are_unchanged_in_the_config(tmp_path: Path) -> None:
    phases = [{"epoch": 1, "trainable": ["block3"], "lr_factor": 0.1}]
    sections = {"model": {"phases": phases}, "callbacks": {"progress": {"bar": False}}, "output_dir": tmp_path / "a, b"}
    tree = compose(keyword_overrides(sections)).tree
    assert tree["model"]["phases"] == phases
    assert tree["callbacks"]["progress"]["bar"] is False
    assert len(tree["callbacks"]) > 1
    assert tree["output_dir"] == str(tmp_path / "a, b")


def test_any_kind_of_path_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    [entry] = os.scandir(tmp_path)
    [of_bytes] = os.scandir(os.fsencode(tmp_path))
    for path in (entry, of_bytes):
        assert keyword_overrides({"data_dir": path, "datamodule": {"path": path}}) == [
            f'data_dir="{tmp_path / "a b"}"',
            f'datamodule.path="{tmp_path / "a b"}"',
        ]


@pytest.mark.parametrize(
    ("section", "way_out"),
    [("logger", "logger='none'"), ("augmentation", "augmentation='none'"), ("callbacks", "callbacks={'KEY': None}")],
)
def test_an_empty_section_is_refused_with_the_way_out(section: str, way_out: str) -> None:
    with pytest.raises(UserError) as error:
        keyword_overrides({"seed": 3, section: {}})
    assert str(error.value).startswith(f"{section}={{}} changes nothing: leave it out, or use {way_out}")


@pytest.mark.parametrize(
    "value", [object(), torch.nn.Linear, np.float16, torch.Tensor, b"bytes", {"lr": lambda: 1}, [{1}]]
)
def test_objects_are_refused(value: object) -> None:
    with pytest.raises(UserError, match="a config cannot hold a value of type"):
        keyword_overrides({"optimizer": value})
