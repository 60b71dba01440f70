"""A trained model is found by its name, and its outputs equal those of its network."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datamodules import image_data
from numpy.typing import NDArray

from opsin.config import RunConfig, compose
from opsin.data import ImageDataModule
from opsin.data.datasets import ArrayImages, Source, digits
from opsin.errors import UserError
from opsin.inference.trained_model import TrainedModel, load_trained_model
from opsin.models.weights import UnreachableError
from opsin.runs.directory import RunDirectory
from opsin.training import build
from opsin.training.feature_extraction import Extractor
from opsin.training.plan import make_plan


@pytest.fixture
def trainer(tmp_path: Path):
    return build.evaluator(make_plan(compose(["trainer=cpu"])), RunDirectory(tmp_path))


@pytest.fixture
def copied(digits_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(digits_run.path, tmp_path / "copied")))


def made(network: TrainedModel, data: ImageDataModule, trainer, *, logits: bool = False) -> NDArray[np.float16]:
    part = data.subset("val")
    extractor = network.extractor(trainer, logits=logits)
    return network.outputs(part, extractor, data.features_dir).read(np.arange(len(part)), 0)


def assert_half_equal(half: NDArray[np.float16], exact: NDArray[np.float32]) -> None:
    assert half.shape == exact.shape
    np.testing.assert_allclose(half, exact, rtol=2**-10, atol=1e-5)


@pytest.mark.slow
def test_a_run_is_loaded_with_its_network_and_input_format(digits_run: RunDirectory, tmp_path: Path, trainer) -> None:
    found = load_trained_model(str(digits_run.path))
    recorded = digits_run.read_result().data
    assert found.classes == recorded.classes
    assert found.image_format == recorded.image_format
    data = image_data(digits(), data_dir=str(tmp_path))
    pixels = torch.from_numpy(data.subset("val").read(np.arange(len(data.subset("val"))))).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(getattr(recorded, key)).view(1, -1, 1, 1) for key in ("mean", "std"))
    network = found.network.eval()
    with torch.no_grad():
        images = (pixels / 255 - mean) / std
        embeddings, logits = network.embed(images), network(images)
    assert embeddings.shape[1] == 64
    assert_half_equal(made(found, data, trainer), embeddings.numpy())
    assert_half_equal(made(found, data, trainer, logits=True), torch.cat([embeddings, logits], dim=1).numpy())


@pytest.mark.slow
def test_runs_with_other_image_sizes_share_the_stored_features(
    digits_run: RunDirectory, tmp_path: Path, trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_trained_model(str(digits_run.path))
    first = made(found, image_data(digits(), data_dir=str(tmp_path)), trainer)
    seen: list[int] = []
    compute = Extractor.__call__

    def counted(self: Extractor, images: torch.Tensor) -> NDArray[np.float32]:
        seen.append(len(images))
        return compute(self, images)

    monkeypatch.setattr(Extractor, "__call__", counted)
    small = image_data(digits(), image_size=20, data_dir=str(tmp_path))
    again = made(found, small, trainer)
    np.testing.assert_array_equal(again, first)
    assert seen == [1]  # the shape is read from one image
    assert len([folder for folder in small.features_dir.iterdir() if folder.is_dir()]) == 1
    larger = load_trained_model(str(digits_run.path), 36)
    assert larger.size == (36, 36)
    assert not np.array_equal(made(larger, small, trainer), first)
    assert len(seen) > 2


@pytest.mark.slow
def test_images_are_decoded_at_the_image_size_of_the_trained_model(
    digits_run: RunDirectory, tmp_path: Path, trainer
) -> None:
    found = load_trained_model(str(digits_run.path))
    served_small = made(found, image_data(digits(), image_size=20, data_dir=str(tmp_path / "a")), trainer)
    served_alike = made(found, image_data(digits(), data_dir=str(tmp_path / "b")), trainer)
    np.testing.assert_array_equal(served_small, served_alike)


@pytest.mark.slow
def test_changed_weights_do_not_reuse_stored_features(copied: RunDirectory, tmp_path: Path, trainer) -> None:
    data = image_data(digits(), data_dir=str(tmp_path))
    before = made(load_trained_model(str(copied.path)), data, trainer)
    content = torch.load(copied.best, weights_only=True)
    content["state_dict"]["network.stages.block1.conv.bias"] += 0.5
    torch.save(content, copied.best)
    after = made(load_trained_model(str(copied.path)), data, trainer)
    assert not np.array_equal(before, after)
    assert len([folder for folder in data.features_dir.iterdir() if folder.is_dir()]) == 2


def test_a_gray_network_refuses_colors(digits_run: RunDirectory, tmp_path: Path, trainer) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 28, 28, 3), dtype=np.uint8)
    source = Source(
        "c", ("a", "b"), 3, (28, 28), (0.5,), (0.5,), {"train": ArrayImages(pixels, np.arange(40) % 2, "c")}
    )
    with pytest.raises(UserError, match="takes gray images, but the given images have 3 channels"):
        made(load_trained_model(str(digits_run.path)), image_data(source, data_dir=str(tmp_path)), trainer)


def test_a_head_that_does_not_fit_the_image_size_is_ignored(digits_run: RunDirectory, copied: RunDirectory) -> None:
    assert load_trained_model(str(digits_run.path), 40).classes  # averaged over the image
    tree = RunConfig.load(copied).text.replace("opsin.models.cnn_gap", "opsin.models.cnn_flatten")
    copied.config.write_text(tree)
    network = make_plan(RunConfig.load(copied)).model.build(num_logits=10, in_channels=1, image_size=(28, 28))
    torch.save({f"network.{key}": value for key, value in network.state_dict().items()}, copied.best)
    assert load_trained_model(str(copied.path)).classes == tuple("0123456789")
    assert load_trained_model(str(copied.path), 40).classes is None


@pytest.mark.parametrize("name", ["eficientnet_lite0", "efficientnet_lite00"])
def test_a_wrong_name_is_answered_with_the_nearest(name: str, in_tmp: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_trained_model(name, option="model.teacher=")
    message = str(caught.value)
    assert message.startswith(f"model.teacher={name} is neither a run directory")
    assert "did you mean model.teacher=efficientnet_lite0?" in message
    assert "resnet18" in message


@pytest.mark.parametrize("name", ["cnn_gap", "load_weights", "opsin"])
def test_a_name_without_a_trained_model_is_refused_with_valid_names(
    name: str, digits_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits_run.path.parents[1])
    with pytest.raises(UserError, match=r"is neither a run directory .*efficientnet_lite0") as caught:
        load_trained_model(name)
    assert str(Path("outputs", "latest")) in str(caught.value)
    with pytest.raises(UserError, match=r"is not a run directory: .*outputs/latest$"):
        load_trained_model("./nothing/there")


def test_a_run_without_checkpoints_is_refused_with_advice(copied: RunDirectory) -> None:
    copied.best.unlink()
    copied.last.unlink()
    with pytest.raises(UserError, match=r"finished its first epoch; resume it with: opsin train resume="):
        load_trained_model(str(copied.path))
    copied.result.unlink()
    with pytest.raises(UserError, match="ended before its data were ready"):
        load_trained_model(str(copied.path))


@pytest.mark.slow
def test_imagenet_weights_determine_the_input_format(tmp_path: Path, trainer) -> None:
    found = load_trained_model("efficientnet_lite0")
    assert (found.size, found.interpolation, found.classes) == ((224, 224), "bicubic", None)
    assert found.mean == pytest.approx((127 / 255,) * 3)
    small = load_trained_model("efficientnet_lite0", 32)
    data = image_data(digits(), train_fraction=0.1, data_dir=str(tmp_path))
    vectors = made(small, data, trainer)  # gray images are repeated
    assert vectors.shape == (len(data.subset("val")), 1280)
    assert vectors.std() > 0.01


def test_the_message_about_a_failed_download_of_a_teacher_names_model_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise UnreachableError("The ImageNet weights cannot be downloaded from somewhere (no route).")

    monkeypatch.setattr("opsin.models.weights.HubFile.fetch", unreachable)
    with pytest.raises(UserError) as caught:
        load_trained_model("resnet18", option="model.teacher=")
    assert "model.teacher=efficientnet_lite0" in str(caught.value)
    assert "model.weights" not in str(caught.value)
