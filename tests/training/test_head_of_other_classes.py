"""A new run takes the head of another run only if both have the same classes."""

from pathlib import Path

import pytest
import torch

from opsin.config import compose
from opsin.models.load_weights import HEAD_LOADED
from opsin.training import build
from opsin.training.plan import make_plan


@pytest.mark.parametrize(("first", "is_loaded"), [("0", True), ("zero", False)])
def test_the_classes_of_the_data_decide_about_the_head(tmp_path: Path, first: str, is_loaded: bool) -> None:
    """The classes of the digits are 0 to 9."""
    words = ["model=mlp", "datamodule.train_fraction=0.1", f"data_dir={tmp_path}"]
    plan = make_plan(compose(words))
    data = build.data(plan)
    data.setup("fit")
    source, _ = build.network(plan, data, 10)
    state = {f"network.{key}": tensor for key, tensor in source.state_dict().items()}
    record = {"data": {"classes": [first, *map(str, range(1, 10))]}}
    torch.save({"state_dict": state, "opsin": record}, tmp_path / "best.ckpt")
    plan = make_plan(compose([*words, f"model.weights={tmp_path / 'best.ckpt'}"]))
    _, loaded = build.network(plan, data, 10)
    assert loaded is not None
    assert (loaded.head, loaded.other_classes) == (is_loaded, not is_loaded)
    _, repeated = build.network(plan, data, 10, any_classes=True)
    assert repeated is not None
    assert str(repeated).endswith(HEAD_LOADED)
