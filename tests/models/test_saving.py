import torch
from safetensors import safe_open

from opsin.models import load_weights, resnet18
from opsin.models.saving import save_backbone

SIZE = (32, 32)


def test_a_saved_backbone_loads_into_another_head(tmp_path):
    taught, pupil = resnet18(num_logits=3, image_size=SIZE), resnet18(num_logits=5, image_size=SIZE)
    state = {f"network.{key}": tensor for key, tensor in taught.state_dict().items()}
    torch.save({"state_dict": state | {"distillation.centre": torch.zeros(3)}}, tmp_path / "best.ckpt")
    count = save_backbone(tmp_path / "best.ckpt", tmp_path / "out" / "it.safetensors", {"seed": "1"})
    assert count == len(taught.stages.state_dict())
    with safe_open(tmp_path / "out" / "it.safetensors", "pt") as file:
        assert file.metadata() == {"seed": "1"}
        assert all(key.startswith("stages.") for key in file.keys())  # noqa: SIM118 - it is no dict
    loaded = load_weights(pupil, str(tmp_path / "out" / "it.safetensors"))
    assert not loaded.head
    for mine, its in zip(pupil.stages.parameters(), taught.stages.parameters(), strict=True):
        assert torch.equal(mine, its.half().float())
        assert mine.dtype == torch.float32


def test_full_precision_is_kept_where_asked(tmp_path):
    taught = resnet18(num_logits=3, image_size=SIZE)
    torch.save({f"network.{key}": tensor for key, tensor in taught.state_dict().items()}, tmp_path / "best.ckpt")
    save_backbone(tmp_path / "best.ckpt", tmp_path / "it.safetensors", {}, half=False)
    pupil = resnet18(num_logits=3, image_size=SIZE)
    load_weights(pupil, str(tmp_path / "it.safetensors"))
    assert torch.equal(pupil.stages["stem"].conv1.weight, taught.stages["stem"].conv1.weight)
