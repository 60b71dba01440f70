import hashlib
import json
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Namespace

import lightning as L
import numpy as np
import pytest
import torch
from datamodules import image_data
from torch import nn

from opsin.data.loader.batch_loader import Batch, batch_key
from opsin.data.source import ArrayImages, Source
from opsin.data.types import BadImage
from opsin.errors import UserError

# Lightning 2.6 causes this warning of torch 2.14 for every loader.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

CLASSES = ("cat", "dog", "owl")


def arrays(count, name="train", channels=1, start=0):
    """Return images of 4 x 5 pixels; all pixels of an image hold its number."""
    number = np.arange(start, start + count)
    pixels = np.repeat(number, 20 * channels).reshape(count, 4, 5, channels).astype(np.uint8)
    return ArrayImages(pixels, number % 3, name)


def source(channels=1, mean=(0.1,), std=(0.5,), **splits):
    splits = splits or {"train": arrays(120, channels=channels)}
    return Source("fakes", CLASSES, channels, (4, 5), mean, std, splits)


class BadAt(ArrayImages):
    """Images of which some are bad; records the positions read."""

    def __init__(self, images, bad):
        super().__init__(images.pixels[:, :3], images.targets, images.name)  # another size, so that a store is built
        object.__setattr__(self, "bad", bad)
        object.__setattr__(self, "reads", [])

    def read(self, index, fit=None):
        self.reads.append(index)
        if index in self.bad:
            raise BadImage("bad for the test")
        return super().read(index, fit)


def numbers(datamodule, split):
    return sorted(datamodule.subset(split).read(np.arange(len(datamodule.subset(split))))[:, 0, 0, 0].tolist())


def datamodule_of(tmp_path, source_=None, **options):
    return image_data(source() if source_ is None else source_, data_dir=str(tmp_path), **options)


@pytest.mark.parametrize(
    ("splits", "options", "key"),
    [
        ({"train": arrays(3)}, {}, "test_fraction=0.2"),
        ({"train": arrays(9)}, {"test_fraction": 0.99}, "val_fraction=0.1"),
        ({"train": arrays(3), "test": arrays(9, "test")}, {"val_fraction": 0.5}, "val_fraction=0.5"),
    ],
)
def test_too_few_images_to_split_name_the_fraction(splits, options, key, tmp_path):
    with pytest.raises(UserError, match=rf"datamodule\.{key}: too few images to split, .*3 classes has two \(3 images"):
        datamodule_of(tmp_path, source(**splits), **options).setup("fit")


def test_the_datamodule_works_without_a_trainer(tmp_path):
    datamodule = datamodule_of(tmp_path, batch_size=8)
    datamodule.setup("fit")
    batch = next(iter(datamodule.train_dataloader()))
    assert batch.images.shape == (8, 1, 4, 5)
    assert batch.key == batch_key(0, 0, 0, 0)
    assert batch.images[:, 0, 0, 0].remainder(3).tolist() == batch.targets.tolist()
    assert datamodule.finish(batch, augment=True).images.dtype == torch.float32


def test_a_source_without_splits_is_divided_into_three(tmp_path):
    datamodule = datamodule_of(tmp_path)
    datamodule.setup()
    found = {split: numbers(datamodule, split) for split in ("train", "val", "test")}
    assert {split: len(images) for split, images in found.items()} == {"train": 86, "val": 10, "test": 24}
    assert sorted(found["train"] + found["val"] + found["test"]) == list(range(120))
    facts = datamodule.facts()
    assert facts["origin"] == {"train": "given", "val": "carved", "test": "carved"}
    assert facts["counts"] == {"train": 86, "val": 10, "test": 24}
    assert facts["class_counts"]["test"] == [8, 8, 8]


def test_splits_of_the_source_are_kept(tmp_path):
    splits = {"train": arrays(90), "val": arrays(12, start=90), "test": arrays(18, start=102)}
    datamodule = datamodule_of(tmp_path, source(**splits))
    datamodule.setup()
    assert numbers(datamodule, "train") == list(range(90))
    assert numbers(datamodule, "val") == list(range(90, 102))
    assert numbers(datamodule, "test") == list(range(102, 120))
    assert set(datamodule.facts()["origin"].values()) == {"given"}


def test_split_seed_decides_the_split_and_seed_the_order(tmp_path):
    def splits(**seeds):
        datamodule = datamodule_of(tmp_path, **seeds)
        order = [batch.positions.tolist() for batch in datamodule.train_dataloader()]
        return [numbers(datamodule, split) for split in ("train", "val", "test")], order

    (one, order), (same, other_order) = splits(seed=1, split_seed=5), splits(seed=2, split_seed=5)
    assert one == same
    assert order != other_order
    assert splits(seed=5)[0] == one != splits(seed=6)[0]


@pytest.mark.parametrize("with_val", [False, True])
@pytest.mark.parametrize("with_test", [False, True])
def test_folds_cover_train_and_val_but_not_test(tmp_path, with_val, with_test):
    splits = {"train": arrays(90)}
    splits |= {"val": arrays(15, start=90)} if with_val else {}
    splits |= {"test": arrays(12, start=150)} if with_test else {}
    held_out, tests = Counter(), []
    for fold in range(5):
        datamodule = datamodule_of(tmp_path, source(**splits), num_folds=5, fold=fold)
        train, val = numbers(datamodule, "train"), numbers(datamodule, "val")
        tests.append(numbers(datamodule, "test"))
        everything = {*range(105 if with_val else 90), *(range(150, 162) if with_test else ())}
        assert not set(train) & set(val)
        assert set(train) | set(val) | set(tests[0]) == everything
        subset = datamodule.subset("val")
        assert np.ptp(np.bincount(subset.targets)) <= 1
        assert (
            subset.read(np.array([3, 0]))[:, 0, 0, 0].tolist() == [int(subset.locate(p).split()[-1]) for p in (3, 0)]
            or with_val
        )
        held_out.update(val)
    assert set(held_out.values()) == {1}
    assert all(test == tests[0] for test in tests)


def test_a_subset_of_two_splits_locates_each_image(tmp_path):
    datamodule = datamodule_of(tmp_path, source(train=arrays(90), val=arrays(15, "val", start=90)), num_folds=3)
    subset = datamodule.subset("val")
    pixels = subset.read(np.arange(len(subset)))[:, 0, 0, 0]
    for position, number in enumerate(pixels.tolist()):
        expected = f"train, image {number}" if number < 90 else f"val, image {number - 90}"
        assert subset.locate(position) == expected


def test_train_fraction_changes_train_only(tmp_path):
    whole, some = datamodule_of(tmp_path), datamodule_of(tmp_path, train_fraction=0.25)
    assert len(numbers(some, "train")) == 21  # of 86, stratified
    assert set(numbers(some, "train")) < set(numbers(whole, "train"))
    for split in ("val", "test"):
        assert numbers(some, split) == numbers(whole, split)


def test_only_the_test_stage_reads_test_images(tmp_path):
    def fresh():
        return {
            name: BadAt(arrays(30, name, start=start), set()) for start, name in enumerate(("train", "val", "test"))
        }

    splits = fresh()
    datamodule = datamodule_of(tmp_path, source(**splits))
    datamodule.setup("fit")
    assert datamodule.facts()["counts"]["test"] == 30
    assert (len(splits["train"].reads), len(splits["val"].reads), len(splits["test"].reads)) == (30, 30, 0)
    splits = fresh()
    datamodule = datamodule_of(tmp_path / "other", source(**splits))
    datamodule.setup("test")
    assert (len(splits["train"].reads), len(splits["val"].reads), len(splits["test"].reads)) == (0, 0, 30)


def test_prepare_data_decodes_everything_once(tmp_path):
    splits = {"train": BadAt(arrays(30), set()), "test": BadAt(arrays(30, start=30), set())}
    for _ in range(2):
        datamodule = datamodule_of(tmp_path, source(**splits))
        datamodule.prepare_data()
        datamodule.setup()
    assert [len(images.reads) for images in splits.values()] == [30, 30]


def test_bad_images_are_counted_and_a_class_without_images_is_named(tmp_path):
    images = BadAt(arrays(60), {0, 1, 30})
    facts = datamodule_of(tmp_path, source(train=images)).facts()
    assert facts["bad_images"] == 3
    assert sum(facts["counts"].values()) == 57
    (report,) = facts["bad_image_reports"]
    assert "train, image 30" in Path(report).read_text()
    with pytest.raises(UserError, match="3 of 60 images cannot be decoded"):
        datamodule_of(tmp_path, source(train=images), on_bad_image="raise").setup("fit")
    owls = BadAt(arrays(60), set(range(2, 60, 3)))
    owls.__dict__["fingerprint"] = "owls"
    with pytest.raises(UserError, match=r"'fakes' has no train image of class 'owl'.*bad_images.csv"):
        datamodule_of(tmp_path, source(train=owls)).setup("fit")


def test_a_given_split_without_a_class_is_used_with_one_warning_per_class(tmp_path, caplog):
    few = ArrayImages(np.zeros((4, 4, 5, 1), np.uint8), np.array([2, 2, 2, 2]), "few")
    datamodule = datamodule_of(tmp_path, source(train=arrays(60), val=few, test=few))
    datamodule.setup("fit")
    datamodule.setup("test")
    assert datamodule.facts()["class_counts"]["val"] == [0, 0, 4]
    warned = [record.message.split(":")[0] for record in caplog.records if record.levelname == "WARNING"]
    assert warned == [
        f"fakes has no {split} image of class '{name}'" for split in ("val", "test") for name in CLASSES[:2]
    ]


def test_invalid_options_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"fold=3 does not exist: datamodule\.num_folds=3"):
        datamodule_of(tmp_path, num_folds=3, fold=3)
    for fold in (1, 4):
        with pytest.raises(UserError, match=rf"fold={fold} has no effect .*datamodule\.num_folds={fold + 1} or more"):
            datamodule_of(tmp_path, fold=fold)
    with pytest.raises(UserError, match="images of 'fakes' have 3 channels, but the network takes 1"):
        datamodule_of(tmp_path, source(channels=3), channels=1)
    with pytest.raises(UserError, match=r"mean=\[0.1, 0.2\]"):
        datamodule_of(tmp_path, mean=(0.1, 0.2))


def test_mean_and_std_come_from_options_source_or_measurement(tmp_path):
    assert datamodule_of(tmp_path).facts()["mean"] == [0.1]
    assert datamodule_of(tmp_path, mean=0.3, channels=3).facts()["mean"] == [0.3] * 3
    unknown = source(mean=None, std=None)
    datamodule = datamodule_of(tmp_path, unknown)
    facts = datamodule.facts()
    train = np.array(numbers(datamodule, "train")) / 255
    assert facts["mean"] == pytest.approx([train.mean()])
    assert facts["std"] == pytest.approx([train.std()])
    other = datamodule_of(tmp_path, unknown)
    other.setup("test")
    assert list(other.preprocess.mean) == facts["mean"]


def test_facts_are_plain_values_and_the_fingerprint_detects_changes(tmp_path):
    base = datamodule_of(tmp_path).facts()
    assert json.loads(json.dumps(base)) == base
    assert base["classes"] == list(CLASSES)
    assert base["image_size"] == [4, 5]
    again = datamodule_of(tmp_path / "elsewhere", batch_size=3, seed=0)
    again.setup("test")
    assert again.facts()["fingerprint"] == base["fingerprint"]
    pixels = source().splits["train"].pixels.copy()
    pixels[0, 0, 0, 0] += 1
    changed = source(train=ArrayImages(pixels, arrays(120).targets, "train"))
    renamed = replace(source(), classes=("cat", "dog", "bee"))
    others = [{"split_seed": 1}, {"val_fraction": 0.2}, {"train_fraction": 0.5}, {"num_folds": 3}, {"image_size": 9}]
    found = [datamodule_of(tmp_path, **options).facts()["fingerprint"] for options in others]
    found += [datamodule_of(tmp_path, kind).facts()["fingerprint"] for kind in (changed, renamed)]
    assert len({base["fingerprint"], *found}) == 8


def test_image_size_and_evaluation_batch_size(tmp_path):
    datamodule = datamodule_of(tmp_path, image_size=8)
    assert next(iter(datamodule.val_dataloader())).images.shape[2:] == (8, 8)
    assert datamodule_of(tmp_path, image_size=28).eval_batch_size == 256
    assert datamodule_of(tmp_path, image_size=224, batch_size=8).eval_batch_size == 41
    assert datamodule_of(tmp_path, image_size=(224, 224), batch_size=64).eval_batch_size == 64
    assert datamodule_of(tmp_path, eval_batch_size=7).val_dataloader().batch_size == 7


@pytest.mark.parametrize(
    ("processes", "options", "expected"),
    [
        (2, {"image_size": 96}, 226),
        (2, {"image_size": 112}, 166),
        (2, {"image_size": 160}, 80),
        (2, {"image_size": 224, "batch_size": 32}, 40),
        (3, {"image_size": 64}, 255),
        (8, {"image_size": 700, "batch_size": 2}, 8),
        (4, {"image_size": 8, "batch_size": 301}, 300),
    ],
)
def test_the_default_evaluation_batch_is_shared_equally(tmp_path, processes, options, expected):
    datamodule = datamodule_of(tmp_path, **options)
    datamodule.trainer = Namespace(world_size=processes)
    assert datamodule.eval_batch_size == expected


@pytest.mark.parametrize(("processes", "size", "advice"), [(2, 227, 226), (3, 256, 255), (4, 3, 4)])
@pytest.mark.parametrize("key", ["batch_size", "eval_batch_size"])
def test_a_batch_that_the_processes_cannot_share_is_refused_by_its_key(tmp_path, processes, size, advice, key):
    def loader(size):
        datamodule = datamodule_of(tmp_path, **{key: size})
        datamodule.setup("fit")
        limits = {"limit_train_batches": 1.0, "limit_val_batches": 1.0}
        datamodule.trainer = Namespace(
            world_size=processes, global_rank=0, training=False, is_global_zero=True, **limits
        )
        return datamodule.val_dataloader() if key == "eval_batch_size" else datamodule.train_dataloader()

    with pytest.raises(UserError, match=rf"batch of {size} .* set datamodule\.{key}={advice}, or use other devices"):
        loader(size)
    assert loader(advice).batch_size == advice


class Brighten(nn.Module):
    """Adds one and records its arguments."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, images, targets, key):
        self.calls.append((float(images.min()), float(images.max()), key))
        return images + 1, nn.functional.one_hot(targets, 3).float()


def test_augmentation_runs_between_scaling_and_normalization(tmp_path):
    augmentation = Brighten()
    datamodule = datamodule_of(tmp_path, augmentation=augmentation, batch_size=16, mean=0.1, std=0.5)
    batch = next(iter(datamodule.train_dataloader()))
    done = datamodule.finish(batch, augment=True)
    assert torch.allclose(done.images, (batch.images / 255 + 1 - 0.1) / 0.5, atol=1e-6)
    assert done.targets.shape == (16, 3)
    assert augmentation.calls[0][1] <= 1
    assert augmentation.calls[0][2] == batch.key
    plain = datamodule.finish(batch, augment=False)
    assert torch.equal(plain.images, datamodule.preprocess(batch.images))
    assert plain.targets is batch.targets
    assert len(augmentation.calls) == 1


class Classifier(L.LightningModule):
    """Records its batches; has one linear layer to train."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 3)
        self.seen = {"train": [], "val": [], "test": []}

    def record(self, split, batch):
        assert isinstance(batch, Batch)
        assert batch.images.dtype == torch.float32
        digest = hashlib.sha1(batch.images.numpy().tobytes()).hexdigest()
        self.seen[split].append((self.current_epoch, tuple(batch.positions.tolist()), batch.key, digest))
        return nn.functional.cross_entropy(self.layer(batch.images.flatten(1)), batch.targets)

    def training_step(self, batch, batch_idx):
        return self.record("train", batch)

    def validation_step(self, batch, batch_idx):
        self.record("val", batch)

    def test_step(self, batch, batch_idx):
        self.record("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(tmp_path, **options):
    options = {"max_epochs": 3, "num_sanity_val_steps": 2} | options
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **options,
    )


class Killed(Exception):  # noqa: N818
    pass


class KillAt(L.Callback):
    """Saves a checkpoint in a hook and raises an error there, as if the process was killed."""

    def __init__(self, hook, count, file):
        self.left = count

        def save_and_raise(trainer, *args):
            if trainer.sanity_checking:
                return
            self.left -= 1
            if self.left == 0:
                trainer.save_checkpoint(file)
                raise Killed

        setattr(self, hook, save_and_raise)


def fit(tmp_path, resume=None, datamodule=None, **options):
    network = Classifier()
    run = trainer(tmp_path, **options)
    with suppress(Killed):
        run.fit(
            network, datamodule or datamodule_of(tmp_path, batch_size=20, augmentation=Brighten()), ckpt_path=resume
        )
    return network.seen


def test_a_fit_reads_every_image_each_epoch_and_augments_training_only(tmp_path):
    augmentation = Brighten()
    datamodule = datamodule_of(tmp_path, batch_size=20, augmentation=augmentation)
    seen = fit(tmp_path, datamodule=datamodule)
    for epoch in range(3):
        batches = [positions for at, positions, _, _ in seen["train"] if at == epoch]
        assert [len(batch) for batch in batches] == [20, 20, 20, 20, 6]
        assert sorted(sum(batches, ())) == list(range(86))
        assert [key for at, _, key, _ in seen["train"] if at == epoch] == [batch_key(0, epoch, k, 0) for k in range(5)]
    assert [key for *_, key in augmentation.calls] == [key for _, _, key, _ in seen["train"]]
    (val,) = datamodule.val_dataloader()
    expected = hashlib.sha1(datamodule.preprocess(val.images).numpy().tobytes()).hexdigest()
    assert len(seen["val"]) == 4  # a sanity check and three epochs
    assert {digest for *_, digest in seen["val"]} == {expected}
    batch = next(iter(datamodule.train_dataloader()))  # the trainer has finished
    assert len(batch.positions) == 20


@pytest.mark.parametrize("count", [1, 3, 4, 5, 6, 9, 10, 12, 15])
def test_a_run_killed_between_batches_resumes_with_the_remaining_batches(tmp_path, count):
    whole, file = fit(tmp_path)["train"], tmp_path / "killed.ckpt"
    first = fit(tmp_path, callbacks=KillAt("on_train_batch_end", count, file))["train"]
    assert first == whole[:count]
    assert fit(tmp_path, resume=file)["train"] == whole[count:]


def test_a_run_killed_within_a_step_repeats_that_step(tmp_path):
    whole, file = fit(tmp_path)["train"], tmp_path / "killed.ckpt"
    first = fit(tmp_path, callbacks=KillAt("on_before_backward", 8, file))["train"]
    assert first == whole[:8]
    assert fit(tmp_path, resume=file)["train"] == whole[7:]


@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_epoch_end"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_killed_after_an_epoch_resumes_with_the_next_epoch(tmp_path, hook, epoch):
    whole, file = fit(tmp_path)["train"], tmp_path / "killed.ckpt"
    fit(tmp_path, callbacks=KillAt(hook, epoch, file))
    assert fit(tmp_path, resume=file)["train"] == whole[5 * epoch :]


def test_validation_within_an_epoch_keeps_the_position(tmp_path):
    options = {"val_check_interval": 2}
    whole, file = fit(tmp_path, **options)["train"], tmp_path / "killed.ckpt"
    fit(tmp_path, callbacks=KillAt("on_validation_end", 3, file), **options)
    assert fit(tmp_path, resume=file, **options)["train"] == whole[7:]


def test_limits_and_accumulation_keep_the_position(tmp_path):
    options = {"limit_train_batches": 3, "accumulate_grad_batches": 2}
    whole, file = fit(tmp_path, **options)["train"], tmp_path / "killed.ckpt"
    assert len(whole) == 9
    fit(tmp_path, callbacks=KillAt("on_train_batch_end", 5, file), **options)
    assert fit(tmp_path, resume=file, **options)["train"] == whole[5:]


def test_the_fixed_sampler_repeats_one_batch(tmp_path):
    datamodule = datamodule_of(tmp_path, batch_size=20, sampler="fixed")
    seen = fit(tmp_path, datamodule=datamodule, overfit_batches=1)["train"]
    assert len(seen) == 3
    assert len({positions for _, positions, _, _ in seen}) == 1


def test_the_test_loop_reads_every_test_image_once(tmp_path):
    network, augmentation = Classifier(), Brighten()
    datamodule = datamodule_of(tmp_path, augmentation=augmentation, eval_batch_size=7)
    trainer(tmp_path).test(network, datamodule, verbose=False)
    assert sum((positions for _, positions, _, _ in network.seen["test"]), ()) == tuple(range(24))
    assert not augmentation.calls


def test_limited_batches_of_val_and_test_are_a_stratified_sample_and_this_is_logged(tmp_path, caplog):
    targets = np.repeat([0, 1, 2], 30)  # in the order of the classes, as a folder has them
    pixels = np.zeros((90, 4, 5, 1), np.uint8)
    splits = {split: ArrayImages(pixels, targets, split) for split in ("train", "val", "test")}
    for limit, images in ((2, 12), (0.5, 42)):
        network = Classifier()
        datamodule = datamodule_of(tmp_path, source(**splits), eval_batch_size=6)
        limits = {"limit_val_batches": limit, "limit_test_batches": limit}
        trainer(tmp_path, **limits).validate(network, datamodule, verbose=False)
        trainer(tmp_path, **limits).test(network, datamodule, verbose=False)
        for split in ("val", "test"):
            seen = sum((positions for _, positions, _, _ in network.seen[split]), ())
            assert np.bincount(targets[list(seen)]).tolist() == [images // 3] * 3
            key = f"trainer.limit_{split}_batches={limit}"
            assert (
                f"{split} metrics are measured on a stratified sample of {images} of 90 images ({key})" in caplog.text
            )


def test_images_that_fit_neither_the_disk_nor_the_memory_are_refused_before_one_is_read(tmp_path, monkeypatch):
    images = BadAt(arrays(30), bad=())
    monkeypatch.setattr("opsin.data.cache.files.shutil.disk_usage", lambda _: Namespace(free=2**30))
    with pytest.raises(UserError, match=r"need 1,271 MB, and .* has 1,024 MB free: .* lower datamodule.image_size"):
        datamodule_of(tmp_path, source(train=images), image_size=20_000 // 3, eval_batch_size=1, batch_size=1).setup()
    part = {"train": BadAt(arrays(15), ()), "test": BadAt(arrays(15), ())}  # each of them alone would fit
    with pytest.raises(UserError, match=r"need 1,271 MB"):
        datamodule_of(tmp_path, source(**part), image_size=20_000 // 3, batch_size=1).setup("fit")
    monkeypatch.setattr("opsin.data.available_memory.available_memory", lambda: 1e9)
    with pytest.raises(UserError, match=r"A batch of 64 images of 1x2000x2000 needs 1 GB of memory, and 1.0 GB are"):
        datamodule_of(tmp_path, source(train=images), image_size=2000).setup()
    assert not images.reads


def test_classes_with_few_images_are_named_once(tmp_path, caplog):
    def split(*counts):
        targets = np.repeat([0, 1, 2], counts)
        return ArrayImages(np.zeros((len(targets), 4, 5, 1), np.uint8), targets, "made")

    data = datamodule_of(tmp_path, source(train=split(9, 9, 2), val=split(3, 2, 9), test=split(9, 0, 1)))
    data.setup()
    data.setup()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "fakes has only 2 val images of class 'dog'",
        "fakes has only 2 train images of class 'owl'",
        "fakes has no test image of class 'dog'",
        "fakes has only 1 test image of class 'owl'",
    ]


@pytest.mark.parametrize(("bad", "damaged"), [((0,), {"cat"}), ((0, 5), {"cat", "dog"}), ((), set())])
def test_a_class_with_few_images_is_said_to_have_lost_some_only_if_it_has(tmp_path, caplog, bad, damaged):
    images = ArrayImages(np.zeros((9, 4, 5, 1), np.uint8), np.repeat([0, 1, 2], 3), "made")
    data = datamodule_of(tmp_path, source(train=BadAt(images, bad), val=arrays(30), test=arrays(30)))
    data.setup()
    lines = [record.getMessage() for record in caplog.records if " train image" in record.getMessage()]
    assert {line.split("'")[1] for line in lines if "cannot be decoded" in line} == damaged
    assert len(lines) >= len(damaged)


def test_batches_of_other_types_are_unchanged(tmp_path):
    datamodule = datamodule_of(tmp_path)
    example = torch.zeros(1, 1, 4, 5)
    assert torch.equal(datamodule.transfer_batch_to_device(example, torch.device("cpu"), 0), example)
    assert datamodule.on_after_batch_transfer(example, 0) is example


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_uint8_batches_are_moved_to_the_gpu(tmp_path):
    datamodule = datamodule_of(tmp_path, channels=3)
    batch = next(iter(datamodule.train_dataloader()))
    moved = datamodule.transfer_batch_to_device(batch, torch.device("cuda", 0), 0)
    assert moved.images.dtype == torch.uint8
    assert moved.images.is_cuda
    assert not moved.positions.is_cuda
    done = datamodule.finish(moved, augment=False).images
    assert done.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(done.cpu(), datamodule.preprocess(batch.images), atol=1e-6)


def test_batch_size_auto_is_the_base_batch_size_until_it_is_set(tmp_path):
    datamodule = datamodule_of(tmp_path, batch_size="auto", base_batch_size=6)
    assert datamodule.train_dataloader().batch_size == 6
    datamodule.batch_size = 300
    assert (datamodule.train_dataloader().batch_size, datamodule.eval_batch_size) == (300, 300)
