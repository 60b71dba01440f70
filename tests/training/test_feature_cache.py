"""The feature cache in whole runs, on the bundled digits."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datamodules import image_data
from sharded import source

from opsin.commands.evaluate import evaluate
from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.data import Augmentation, DataOptions, ImageDataModule
from opsin.data.source import ArrayImages, Source
from opsin.errors import Interrupted, UserError
from opsin.models import Network, cnn_flatten, cnn_gap, resnet18
from opsin.runs.directory import RunDirectory
from opsin.training.feature_cache import FeatureCache, cacheable_step
from opsin.training.lightning_trainer import make_trainer
from opsin.training.trainer import TrainerOptions

QUICK = (
    "datamodule.train_fraction=0.1",  # 130 images
    "datamodule.batch_size=32",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "callbacks.progress.bar=false",
    "optimizer=sgd",
    "optimizer.lr=0.01",
    "datamodule.mean=0.3",
    "datamodule.std=0.4",
)
FROZEN = ("model=cnn_gap", "model.trainable=head", *QUICK)
PARTIAL = ("model=cnn_gap", "model.trainable=[block3]", *QUICK)
VIEWS = ("augmentation=digits", "feature_cache.views=3")


@pytest.fixture
def start(tmp_path: Path):
    def start(*words: str, name: str = "run", data_dir: str = "data") -> RunDirectory:
        run = tmp_path / "outputs" / name
        run.mkdir(parents=True)
        train(compose([f"data_dir={tmp_path / data_dir}", f"output_dir={tmp_path / 'outputs'}", *words], run))
        return RunDirectory(run)

    return start


def network(run: RunDirectory) -> dict[str, torch.Tensor]:
    state = torch.load(run.last, weights_only=True)["state_dict"]
    return {key: value for key, value in state.items() if key.startswith("network.")}


def cache_setting(run: RunDirectory) -> str:
    words = run.read_result().settings.feature_cache
    assert isinstance(words, str)
    return words


@pytest.mark.parametrize(("words", "step"), [(FROZEN, "head.flatten"), (PARTIAL, "block2")])
@pytest.mark.slow
def test_cached_and_uncached_training_give_similar_weights_and_metrics(start, words, step) -> None:
    cached, whole = start(*words, name="a"), start(*words, "feature_cache=off", name="b")
    assert cache_setting(cached).startswith(f"{step} of 273 images, ")
    assert cache_setting(whole) == "off: feature_cache=off"
    mine, its = network(cached), network(whole)
    assert mine.keys() == its.keys()  # the checkpoint is the whole network
    for key, tensor in mine.items():
        difference = (tensor.float() - its[key].float()).norm() / (its[key].float().norm() + 1e-6)
        assert difference < 1e-3, f"{key}: {difference}"
    for name, value in cached.read_result().metrics.items():
        assert value == pytest.approx(whole.read_result().metrics[name], abs=0.02), name


@pytest.mark.slow
def test_evaluation_of_test_images_uses_the_whole_network(start) -> None:
    run = start(*FROZEN)
    metrics = run.read_result().metrics
    again = evaluate(run).metrics
    assert again == {name: value for name, value in metrics.items() if name.startswith("test/")}
    validated = evaluate(run, "val").metrics  # from pixels, where the run had stored features
    assert validated["val/loss"] == pytest.approx(metrics["val/loss"], abs=2e-3)


@pytest.mark.parametrize("words", [FROZEN, (*FROZEN, *VIEWS)])
@pytest.mark.slow
def test_the_same_seed_gives_the_same_result_whatever_was_cached_before(start, words) -> None:
    fresh = start(*words, name="fresh", data_dir="one")
    start(*words, "datamodule.train_fraction=0.05", name="less", data_dir="two")
    extended, found = start(*words, name="extended", data_dir="two"), start(*words, name="found", data_dir="two")
    for run in (extended, found):
        for key, tensor in network(run).items():
            assert torch.equal(tensor, network(fresh)[key]), key


def stores(tmp_path: Path) -> dict[str, int]:
    """Number of rows of each feature store."""
    return {str(file): np.count_nonzero(np.load(file)) for file in tmp_path.glob("data/.opsin/features/*/done.npy")}


@pytest.mark.slow
def test_stored_features_are_reused_unless_a_change_affects_them(start, tmp_path) -> None:
    start(*FROZEN, name="first")
    first = stores(tmp_path)
    assert list(first.values()) == [273]  # train and val are carved from one store
    start(*FROZEN, "optimizer.lr=0.1", "datamodule.batch_size=16", name="second")
    start(*FROZEN, "datamodule.train_fraction=0.05", name="fewer")
    assert stores(tmp_path) == first
    seeded = start(*FROZEN, "seed=1", name="weights")  # random weights depend on the seed
    assert len(stores(tmp_path)) == 2
    start(*FROZEN, "seed=1", f"model.weights={seeded.path}", name="transferred")
    assert len(stores(tmp_path)) == 2  # the same weights, loaded from the run
    start(*FROZEN, "datamodule.mean=0.35", name="mean")
    start(*FROZEN, "datamodule.image_size=24", name="size")
    start(*PARTIAL, name="step")
    assert len(stores(tmp_path)) == 5


@pytest.mark.slow
def test_features_of_a_changed_image_are_computed_again(start, tmp_path) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    words = (
        *FROZEN,
        "datamodule=image_folder",
        f"datamodule.path={tmp_path / 'photos'}",
        "datamodule.train_fraction=1",
    )
    words = (*words, "datamodule.image_size=32")
    start(*words, name="first")
    before = stores(tmp_path)
    Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "photos" / "cat" / "3.png")
    start(*words, name="second")
    after = stores(tmp_path)
    assert len(before) == 1
    assert len(after) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("model=cnn_gap", *QUICK), "block1 is the first stage, and it trains"),
        ((*FROZEN, "augmentation=digits"), "stored views save time from 16 epochs on; feature_cache.views=8 would"),
        ((*PARTIAL, "augmentation=digits"), "stages train on them; feature_cache.views=8 would"),
        ((*FROZEN, "augmentation=mixup_cutmix", "feature_cache.views=2"), "mixes images"),
        ((*FROZEN, "trainer.precision=bf16-true"), "trainer.precision=bf16-true"),
        ((*FROZEN, "trainer.limit_train_batches=1"), "uses only some of the images"),
    ],
)
@pytest.mark.slow
def test_the_feature_cache_is_skipped_with_a_reason(start, words, reason) -> None:
    run = start(*words, "trainer.max_epochs=1")
    assert cache_setting(run).startswith("off: ")
    assert reason in cache_setting(run)


@pytest.mark.parametrize("settings", [{}, {"rotation": 5.0}])
def test_views_of_a_subclass_of_the_augmentation_are_not_cached(tmp_path, settings) -> None:
    class Darker(Augmentation):
        """Its settings do not determine its views."""

    data = image_data(source(60), data_dir=str(tmp_path), augmentation=Darker(**settings))
    trainer: Any = SimpleNamespace(precision="32-true", limit_train_batches=1.0, max_epochs=99)
    model = cnn_gap(num_logits=3, in_channels=3, image_size=(32, 32))
    for views in ("auto", 3):
        reason = FeatureCache(views=views).apply(data, model, list(model.stages), trainer)
        assert reason == "off: Darker is not an augmentation of Opsin, so its parameters are unknown"


@pytest.mark.slow
def test_features_much_larger_than_their_images_are_not_cached(start, monkeypatch) -> None:
    monkeypatch.setattr("opsin.training.feature_cache.ROOMY", 0)
    run = start("model=cnn_gap", "model.trainable=[block2,block3]", *QUICK, "trainer.max_epochs=1")
    assert cache_setting(run) == "off: block1 of these images takes 0.0 GB, 14 times their pixels"


@pytest.mark.slow
def test_a_resumed_run_computes_its_features_with_its_own_weights(start, monkeypatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    other = start("model=cnn_gap", *QUICK, "trainer.max_epochs=1", name="other")
    words = (*FROZEN, f"model.weights={other.path}")
    whole = start(*words, name="whole")
    with pytest.raises(Interrupted):
        start(*words, "+callbacks.stop={_target_: interruptions.StopAt, step: 7}", name="cut")
    torch.save({"state_dict": {}}, other.best)  # the weights of the first start no longer exist
    cut = RunDirectory(whole.path.with_name("cut"))
    train(from_saved(cut, ["callbacks.stop=null"]))
    assert cut.read_result().metrics == whole.read_result().metrics
    assert cut.read_result().weights == whole.read_result().weights


@pytest.mark.slow
def test_settings_that_affect_features_are_refused_on_resume(start) -> None:
    run = start(*FROZEN, "trainer.max_epochs=1")
    for word in ("model.trainable=all", "model.weights=none", "datamodule.image_size=20"):
        with pytest.raises(UserError, match=f"{word} cannot be changed"):
            from_saved(run, [word])


@pytest.mark.slow
def test_the_feature_cache_is_skipped_if_the_disk_is_too_small(start, monkeypatch) -> None:
    def full(*_):
        raise UserError("Cached features need room")

    monkeypatch.setattr("opsin.data.cache.feature_store.check_space", full)
    assert cache_setting(start(*FROZEN, "trainer.max_epochs=1")) == "off: Cached features need room"


@pytest.mark.slow
def test_views_augment_training_images_only(start, tmp_path) -> None:
    run = start(*FROZEN, *VIEWS)
    assert cache_setting(run) == "head.flatten of 273 images, 0.1 MB, 3 augmented views for training"
    assert sorted(stores(tmp_path).values()) == [129, 129, 129, 144]
    metrics = run.read_result().metrics
    assert evaluate(run, "val").metrics["val/loss"] == pytest.approx(metrics["val/loss"], abs=2e-3)


@pytest.mark.parametrize("stores", [1, 2])
def test_no_two_batches_of_views_have_the_same_random_numbers(tmp_path, monkeypatch, stores) -> None:
    splits = {}
    for split in ("train", "val")[:stores]:  # with folds, train has images of both
        pixels = np.random.default_rng(len(splits)).integers(0, 256, (200, 28, 28, 1), np.uint8)
        splits[split] = ArrayImages(pixels, np.arange(200) % 2, split)
    made = Source("made", ("a", "b"), 1, (28, 28), (0.5,), (0.5,), splits)
    options = DataOptions(data_dir=str(tmp_path), num_folds=4)
    data = ImageDataModule(made, options, augmentation=Augmentation(rotation=10))
    data.setup("fit")
    assert len(data.subset("train").stores) == stores
    keys, draw = [], Augmentation.draw
    monkeypatch.setattr(Augmentation, "draw", lambda *drawn: keys.append(drawn[-1]) or draw(*drawn))
    model = cnn_gap(num_logits=1, in_channels=1, image_size=(28, 28))
    trainer = make_trainer(TrainerOptions(accelerator="cpu", precision="32"), callbacks=[], loggers=[], folder=tmp_path)
    served = FeatureCache(views=2).apply(data, model, list(model.stages), trainer)
    assert "2 augmented views" in served
    for epoch in range(2):
        data._fetcher.features["train"].read(np.arange(3), epoch)
    assert len(set(keys[1:])) == len(keys[1:]) == (8 if stores == 1 else 18)  # the first only determines the shape


@pytest.mark.slow
@pytest.mark.parametrize("change", ["resized_crop_ratio=[0.5,2]", "interpolation=nearest", "fill=border"])
def test_every_setting_of_the_augmentation_has_features_of_its_own(start, tmp_path, change) -> None:
    words = (*FROZEN, "feature_cache.views=1", "+augmentation.resized_crop_scale=[0.3,1]", "+augmentation.rotation=20")
    start(*words, name="first")
    start(*words, f"+augmentation.{change}", name="second")
    assert sorted(stores(tmp_path).values()) == [129, 129, 144]  # train twice, val once without augmentation


@pytest.mark.slow
def test_a_run_with_augmentation_stores_only_the_views_that_it_reads(start, tmp_path) -> None:
    run = start(*FROZEN, "augmentation=digits", "trainer.max_epochs=16", "trainer.max_steps=8")  # two epochs
    assert cache_setting(run).endswith(", 8 augmented views for training")
    assert sorted(stores(tmp_path).values()) == [129, 129, 144]


@pytest.mark.parametrize("words", [FROZEN, (*FROZEN, *VIEWS)])
@pytest.mark.slow
def test_a_resumed_run_is_bit_identical(start, words, monkeypatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    whole = start(*words, name="whole")
    with pytest.raises(Interrupted):
        start(*words, "+callbacks.stop={_target_: interruptions.StopAt, step: 7}", name="cut")
    cut = RunDirectory(whole.path.with_name("cut"))
    train(from_saved(cut, ["callbacks.stop=null"]))
    assert cut.read_result().metrics == whole.read_result().metrics
    for key, tensor in network(cut).items():
        assert torch.equal(tensor, network(whole)[key]), key


SIZE = {"image_size": (32, 32)}


@pytest.mark.parametrize(
    ("build", "never", "step"),
    [
        (lambda: resnet18(num_logits=2, **SIZE), [], None),
        (lambda: resnet18(num_logits=2, **SIZE), ["layer1"], None),  # the stage before it trains
        (lambda: resnet18(num_logits=2, **SIZE), ["stem", "layer1", "layer3"], "layer1"),
        (lambda: resnet18(num_logits=2, **SIZE), ["stem", "layer1", "layer2", "layer3", "layer4"], "head.flatten"),
        (lambda: cnn_gap(num_logits=2, in_channels=1, **SIZE), ["block1", "block2", "block3"], "head.flatten"),
        (lambda: cnn_flatten(num_logits=2, in_channels=1, **SIZE), ["block1", "block2", "block3"], "head.flatten"),
    ],
)
def test_the_cacheable_step_is_the_last_before_the_first_stage_that_trains(build, never, step) -> None:
    network: Network = build()
    assert cacheable_step(network, never) == step


def test_steps_after_cached_features_give_the_same_logits() -> None:
    network = resnet18(num_logits=3, **SIZE).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        for step in list(network.steps())[:-1]:
            features = network.forward_features(images, step)
            assert torch.equal(network(features, after=step), network(images)), step
        assert network.embed(images).shape == (4, 512)
        assert torch.equal(network.head.fc(network.embed(images)), network(images))
