"""Keyword arguments become the overrides that a user would type."""

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


@pytest.mark.parametrize("value", [object(), torch.nn.Linear, b"bytes", {"lr": lambda: 1}, [{1}]])
def test_objects_are_refused(value: object) -> None:
    with pytest.raises(UserError, match="is not a value of the config"):
        keyword_overrides({"optimizer": value})
