import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.mistakes import evaluation_callbacks, small_mnist
from benchmarks.mistakes.plain_logits import strided_cnn_plain_logits
from opsin.data import DataOptions, ImageDataModule
from opsin.data.augmentation import Augmentation
from opsin.data.datasets import ArrayImages, Source


@pytest.fixture
def mnist(monkeypatch):
    def images(count, start, name):
        pixels = np.arange(start, start + count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
        return ArrayImages(pixels, np.arange(count) % 10, name)

    splits = {"train": images(150, 0, "train"), "test": images(50, 200, "test")}
    source = Source("mnist", tuple("0123456789"), 1, (8, 8), (0.1,), (0.3,), splits)
    monkeypatch.setattr(small_mnist, "mnist", lambda *arguments: source)
    return source


def chosen(source, split):
    return set(source.splits[split].pixels[:, 0, 0, 0].tolist())


def test_only_the_validation_images_change_with_the_mistake(mnist):
    found = {
        name: small_mnist.small_mnist(train_images=40, val_images=20, test_images=30, validate_on=name)
        for name in ("held_out", "train", "test")
    }
    correct = found["held_out"]
    assert [len(correct.splits[split]) for split in ("train", "val", "test")] == [40, 20, 30]
    assert not chosen(correct, "val") & (chosen(correct, "train") | chosen(correct, "test"))
    assert np.bincount(correct.splits["train"].targets).tolist() == [4] * 10
    for source in found.values():
        assert chosen(source, "train") == chosen(correct, "train")
        assert chosen(source, "test") == chosen(correct, "test")
    assert chosen(found["train"], "val") == chosen(correct, "train")
    assert chosen(found["test"], "val") == chosen(correct, "test")


class Trainer:
    current_epoch = 0


def test_evaluation_images_are_augmented_and_normalized_again(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 1), dtype=np.uint8)
    images = ArrayImages(pixels, np.arange(12) % 2, "tiny")
    splits = {"train": images, "val": images, "test": images}
    source = Source("tiny", ("a", "b"), 1, (8, 8), (0.4,), (0.2,), splits)
    data = ImageDataModule(source, DataOptions(data_dir=str(tmp_path)), augmentation=Augmentation(horizontal_flip=1.0))
    data.setup()
    batch = data.finish(next(iter(data.val_dataloader())), augment=False)
    before, trainer = batch.images.clone(), Trainer()
    trainer.datamodule = data
    evaluation_callbacks.AugmentedEvaluation().on_test_batch_start(trainer, None, batch, 0)
    assert torch.allclose(batch.images, before.flip(3), atol=1e-5)
    evaluation_callbacks.AugmentedEvaluation().on_validation_batch_start(trainer, None, batch, 0, 0)
    assert torch.allclose(batch.images, before, atol=1e-5)


def test_the_network_is_in_train_mode_in_evaluation():
    callback, module = evaluation_callbacks.EvaluationInTrainMode(), nn.Dropout().eval()
    callback.on_test_start(Trainer(), module)
    assert module.training
    module.eval()
    callback.on_validation_start(Trainer(), module)
    assert module.training


def test_the_strided_network_without_batchnorm_on_its_logits():
    network = strided_cnn_plain_logits(num_logits=10, in_channels=1, image_size=(28, 28)).train()
    logits = network(torch.randn(8, 1, 28, 28))
    assert logits.shape == (8, 10)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.head.modules()) == 0
    assert logits.mean(dim=0).abs().max() > 1e-3  # BatchNorm would center each logit
