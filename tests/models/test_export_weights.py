import pytest
import torch
from safetensors import safe_open

from opsin.models import convnext_tiny, load_weights, resnet18
from opsin.models.export_weights import save_backbone

SIZE = (32, 32)


def test_a_saved_backbone_loads_into_another_head(tmp_path):
    taught, pupil = resnet18(num_logits=3, image_size=SIZE), resnet18(num_logits=5, image_size=SIZE)
    count = save_backbone(taught, tmp_path / "out" / "it.safetensors", {"seed": "1"})
    assert count == len(taught.stages.state_dict())
    with safe_open(tmp_path / "out" / "it.safetensors", "pt") as file:
        assert file.metadata() == {"seed": "1"}
        assert all(key.startswith("stages.") for key in file.keys())  # noqa: SIM118 - it is no dict
    loaded = load_weights(pupil, str(tmp_path / "out" / "it.safetensors"))
    assert not loaded.head
    for mine, its in zip(pupil.stages.parameters(), taught.stages.parameters(), strict=True):
        assert torch.equal(mine, its.half().float())
        assert mine.dtype == torch.float32


def test_a_failed_export_keeps_the_old_file(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    (tmp_path / "it.safetensors").write_text("old")
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_backbone(resnet18(num_logits=3, image_size=SIZE), tmp_path / "it.safetensors", {})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("it.safetensors", "old")]


def test_full_precision_is_optional(tmp_path):
    taught = resnet18(num_logits=3, image_size=SIZE)
    save_backbone(taught, tmp_path / "it.safetensors", {}, half=False)
    pupil = resnet18(num_logits=3, image_size=SIZE)
    load_weights(pupil, str(tmp_path / "it.safetensors"))
    assert torch.equal(pupil.stages["stem"].conv1.weight, taught.stages["stem"].conv1.weight)


def test_the_neck_is_exported_and_values_beyond_half_precision_stay_float32(tmp_path):
    taught, pupil = (convnext_tiny(num_logits=logits, image_size=SIZE) for logits in (3, 5))
    with torch.no_grad():
        taught.head.norm.weight.fill_(1e5)
    save_backbone(taught, tmp_path / "it.safetensors", {})
    load_weights(pupil, str(tmp_path / "it.safetensors"))
    assert torch.equal(pupil.head.norm.weight, taught.head.norm.weight)
