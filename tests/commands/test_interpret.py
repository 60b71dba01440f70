"""The command interpret: images of a run's own data and of files, with scores."""

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from opsin.commands.interpret import main
from opsin.commands.interpret.attributions import _predict
from opsin.commands.interpret.error_analysis import _table
from opsin.commands.interpret.features import _filter_name, filter_pictures
from opsin.commands.interpret.interpretation import interpret
from opsin.commands.interpret.model_and_images import open_model_and_images
from opsin.commands.interpret.suspect_labels import _sample
from opsin.commands.train import train
from opsin.config import compose
from opsin.errors import UserError
from opsin.inference.inputs import open_images
from opsin.inference.trained_model import load_trained_model
from opsin.interpretability.feature_visualization import Ascent
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import Predictions


@pytest.fixture
def run(digits_run: RunDirectory, tmp_path: Path) -> str:
    return str(shutil.copytree(digits_run.path, tmp_path / "run"))


@pytest.fixture
def predicted(run: str) -> str:
    """A run with predictions of val and test."""
    trained = load_trained_model(run)
    images = open_images(trained)
    for split in ("val", "test"):
        part = images.subset(split)
        rows = np.arange(len(part))
        with torch.no_grad():
            pixels = torch.from_numpy(part.read(rows)).permute(0, 3, 1, 2)
            logits = trained.network.eval()(trained.preprocess(pixels)).numpy()
        paths = tuple(part.locate(row) for row in range(len(part)))
        Predictions(split, images.classes, logits, part.targets, rows, paths, "digits").write(RunDirectory(Path(run)))
    return run


def pictures(lines: list[str]) -> set[str]:
    """Return the names of the written images; each can be decoded and is not blank."""
    names = set()
    for file in (Path(line) for line in lines if line.endswith(".png")):
        with Image.open(file) as picture:
            assert np.asarray(picture).std() > 1
        names.add(file.stem)
    return names


def table(lines: list[str], name: str) -> list[dict[str, str]]:
    """Return the rows of a written table."""
    (file,) = (Path(line) for line in lines if line.endswith(f"{name}.csv"))
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def names(run: str, split: str) -> list[str]:
    """Return the paths of the images of a split."""
    part = open_model_and_images(run).images.subset(split)
    return [part.locate(row) for row in range(len(part))]


def test_kernels_activations_and_filters(run: str) -> None:
    lines = list(interpret(run, what=["kernels", "activations", "filters"], count=4, ascent={"steps": 10}))
    stages = ("block1", "block2", "block3")
    assert pictures(lines) == {
        "kernels",
        "kernels_own_scale",
        *(f"{kind}_{stage}" for kind in ("activations", "filters") for stage in stages),
        *(f"activations_{stage}_one" for stage in stages),
    }
    assert lines[0] == "cnn_gap: 32 kernels 3x3 of block1.conv on 1 channel"
    assert Path(lines[1]) == Path(run).resolve() / "interpretation" / "kernels.png"
    assert "dead channels (zero everywhere on 144 images):" in lines
    assert any(re.match(r"  block1\.relu +\d+ of 32", line) for line in lines)
    assert any(re.match(r"block2: the activation of [0-4] of 4 filters more than doubled", line) for line in lines)


def test_small_activations_that_more_than_double_are_counted(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures_ = np.full((4, 8, 8, 1), 9, np.uint8)
    made = Ascent((0, 1, 2, 3), pictures_, start=(0.01, 0.02, 0.0, 0.3), end=(0.021, 0.03, 0.4, 0.7))
    monkeypatch.setattr("opsin.commands.interpret.features.ascend", lambda *_, **__: made)
    (output,) = filter_pictures(open_model_and_images(run), "block1", 4, channels=[0, 1, 2, 3])
    assert output.lines == ("block1: the activation of 3 of 4 filters more than doubled; 0 stayed at zero",)


@pytest.mark.slow
def test_maps_have_scores_and_a_sanity_check(run: str) -> None:
    lines = list(interpret(run, what=["gradcam", "cam"], count=3))
    assert pictures(lines) == {"gradcam", "gradcam_channels", "cam"}
    scores = [line for line in lines if " better than random maps: deletion 0." in line]
    assert len(scores) == 2
    assert all(line.startswith("The maps of ") and "mean of 3" in line for line in scores)
    assert sum(line.startswith("randomized weights: ") for line in lines) == 2


@pytest.mark.slow
def test_integrated_gradients_and_occlusion(run: str) -> None:
    lines = list(interpret(run, what=["integrated_gradients", "occlusion"], count=2))
    assert pictures(lines) == {"integrated_gradients", "occlusion"}


def test_validation_images_are_of_each_class_in_turn(run: str) -> None:
    source = open_model_and_images(run)
    batch = source.selected_images(20)
    assert batch.targets is not None
    assert batch.targets.tolist() == [*range(10)] * 2
    assert len(set(batch.names)) == 20
    part = source.images.subset("val")
    names = [part.locate(row) for row in range(len(part))]
    np.testing.assert_array_equal(batch.pixels[3], part.read(np.array([names.index(batch.names[3])]))[0])


def test_files_are_preprocessed_as_in_training(run: str, tmp_path: Path) -> None:
    folder = tmp_path / "my <photos>"
    folder.mkdir()
    Image.fromarray(np.full((40, 60), 200, np.uint8)).save(folder / "a & b.png")
    lines = list(interpret(run, what=["activations"], images=[str(folder)], stage="block1.conv", out=tmp_path / "out"))
    assert pictures(lines) == {"activations_block1.conv", "activations_block1.conv_one"}
    batch = open_model_and_images(run, images=[str(folder / "a & b.png")]).selected_images(8)
    assert batch.pixels.shape == (1, *load_trained_model(run).size, 1)
    assert (batch.pixels == 200).all()
    assert batch.targets is None


def test_folders_with_subfolders_and_patterns_name_images(run: str, tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    for name in ("cats/a.png", "cats/b.png", "dogs/old/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(folder / name)
    for given, names in ((folder, ("a.png", "b.png", "c.png")), (folder / "cats" / "*.png", ("a.png", "b.png"))):
        assert open_model_and_images(run, images=[str(given)]).selected_images(8).names == names


def test_count_limits_the_given_images(run: str, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(5):
        Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(photos / f"{i}.png")
    options = {"what": ["activations"], "images": [str(photos)], "stage": "block1", "out": tmp_path / "out"}
    lines = list(interpret(run, count=3, **options))
    assert lines[0] == "--images: the first 3 of 5 images are used; --count 5 uses all of them"
    assert any("zero everywhere on 3 images" in line for line in lines)
    assert not any("--count" in line for line in interpret(run, count=5, **options))


def test_only_logits_have_the_names_of_classes(run: str) -> None:
    source = open_model_and_images(run)
    assert _filter_name(source, "head.fc", 3, 10) == "3"
    for classes, width, expected in (
        (("cat", "dog"), 1, ("dog",)),
        (("cat", "dog"), 2, ("cat", "dog")),
        (("a", "b", "c"), 3, ("a", "b", "c")),
    ):
        named = replace(source, trained_model=replace(source.trained_model, classes=classes))
        assert tuple(_filter_name(named, "head.fc", channel, width) for channel in range(width)) == expected
        assert _filter_name(named, "head.pool", 20, 64) == "20"
        assert _filter_name(named, "block3", 1, 64) == "1"


def test_captions_have_the_probabilities_of_predict(run: str) -> None:
    source = open_model_and_images(run)
    images = source.input(source.selected_images(4).pixels)
    found = []
    for temperature in (1.0, 3.0):
        model = replace(source.trained_model, temperature=temperature)
        found.append(_predict(model, images))
        with torch.no_grad():
            logits = model.network.eval()(images) / temperature
        torch.testing.assert_close(found[-1].probabilities, logits.softmax(1).amax(1))
    assert torch.equal(found[0].classes, found[1].classes)


def test_images_in_tensorboard(run: str) -> None:
    lines = list(interpret(run, what=["kernels"], tensorboard=True))
    assert lines[-1].startswith("also in TensorBoard, in the tab IMAGES")
    events = EventAccumulator(str(Path(run) / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["interpret/kernels", "interpret/kernels_own_scale"]


@pytest.mark.slow
def test_errors_of_a_run(predicted: str) -> None:
    lines = list(interpret(predicted, what=["errors"], count=3))
    assert {"errors_misclassified", "errors_confused", "errors_reliability"} <= pictures(lines)
    wrong = int(re.fullmatch(r"val: (\d+) of 144 misclassified", lines[0])[1])  # type: ignore[index]
    source = open_model_and_images(predicted)
    part = source.images.subset("val")
    with torch.no_grad():
        predicted_classes = (
            source.trained_model.network.eval()(source.input(part.read(np.arange(144)))).argmax(1).numpy()
        )
    assert wrong == int((predicted_classes != part.targets).sum())
    assert [line.split()[0] for line in lines[2:12]] == list("0123456789")
    assert any(line.startswith("calibration on test: expected calibration error") for line in lines)
    assert any(line.startswith("near-duplicates across splits") for line in lines)
    rows = table(lines, "errors_misclassified")
    assert len(rows) == wrong
    assert all(row["label"] != row["predicted"] for row in rows)
    assert {row["image"] for row in rows} <= set(names(predicted, "val"))
    confidences = [float(row["predicted_probability"]) for row in rows]
    assert confidences == sorted(confidences, reverse=True)


@pytest.fixture(scope="module")
def mislabeled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, set[str]]:
    """A run trained on digits of which one in twenty has a wrong label, and the names of the mislabeled images."""
    folder = tmp_path_factory.mktemp("mislabeled")
    digits, generator = load_digits(), np.random.default_rng(0)
    wrong = set(generator.choice(1000, 50, replace=False).tolist())
    for i, (image, label) in enumerate(zip(digits.images[:1000], digits.target[:1000], strict=True)):
        place = folder / "images" / str((label + generator.integers(1, 10)) % 10 if i in wrong else label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(place / f"{i}.png")
    run = folder / "outputs" / "run"
    words = ["datamodule=image_folder", f"datamodule.path={folder / 'images'}", "datamodule.channels=1"]
    quiet = ["trainer=cpu", "callbacks.progress.bar=false", "logger=none", "report=false"]
    places = [f"data_dir={folder / 'data'}", f"output_dir={folder / 'outputs'}"]
    run.mkdir(parents=True)
    train(compose([*words, "datamodule.image_size=24", "trainer.max_epochs=12", *quiet, *places], run))
    return str(run), {f"{i}.png" for i in wrong}


@pytest.mark.slow
def test_wrong_labels_of_training_images_are_found(mislabeled: tuple[str, set[str]]) -> None:
    run, planted = mislabeled
    lines = list(interpret(run, what=["errors"], count=4))
    assert "errors_labels_train" in pictures(lines)
    rows = table(lines, "errors_labels_train")
    here = {Path(name).name for name in names(run, "train")} & planted
    found = np.array([Path(row["image"]).name in here for row in rows])
    assert found.mean() > 0.75  # precision; measured 0.87 of 31, and 1.00 of 29 after 30 epochs
    assert found.sum() > 0.6 * len(here)  # recall; measured 0.73 of 37
    assert found[: len(here) // 2].mean() > 0.9  # the most suspicious labels come first
    suggested = [row["suggested"] == str(load_digits().target[int(Path(row["image"]).stem)]) for row in rows]
    assert np.mean(np.array(suggested)[found]) > 0.9
    assert any(
        re.fullmatch(r"train: 720 of 720 images, predicted by .* agree with their label \(\d+ s\)", line)
        for line in lines
    )
    assert any(line.startswith("A suspicious label is not necessarily wrong") and "memorized" in line for line in lines)


@pytest.mark.parametrize(("most", "count"), [(2, 2), (5_000, 3)])
def test_labels_of_too_few_training_images_are_not_checked(most: int, count: int) -> None:
    train = MagicMock(targets=np.array([0, 1, 1]))
    train.__len__.return_value = 3
    with pytest.raises(UserError, match=f"^{count} of 3 images do not contain two classes with 5 images each"):
        _sample(train, most)


@pytest.mark.slow
def test_the_number_of_checked_training_labels_is_bounded(predicted: str) -> None:
    def lines_for(most: int) -> list[str]:
        return list(interpret(predicted, what=["errors"], count=2, errors={"train_images": most}))

    assert any(re.match(r"train: (9\d|10\d) of 259 images", line) for line in lines_for(100))
    assert not any("train:" in line for line in lines_for(0))
    few = [line for line in lines_for(30) if line.startswith("train:")]
    assert few == ["train: labels were not checked: 30 of 259 images do not contain two classes with 5 images each"]
    with pytest.raises(UserError, match="--train-images must be at least 0, got -1"):
        lines_for(-1)


@pytest.mark.slow
def test_a_duplicate_across_splits_is_found(predicted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from opsin.data.subset import Subset

    source = open_model_and_images(predicted)
    first = source.images.subset("train").read(np.array([0]))
    length, read = len(source.images.subset("val")), Subset.read

    def with_a_duplicate(part: Subset, positions: np.ndarray) -> np.ndarray:
        pixels = read(part, positions)
        if len(part) == length:
            pixels[positions == 7] = first
        return pixels

    monkeypatch.setattr(Subset, "read", with_a_duplicate)
    lines = list(interpret(predicted, what=["errors"], count=2))
    assert "errors_duplicates" in pictures(lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": ["kernel"]}, "--what must be one of kernels, activations.*, got kernel: did you mean kernels"),
        ({"what": ["activations"], "count": 0}, "--count must be at least 1, got 0"),
        ({"what": ["kernels"], "stage": "block1"}, "--stage block1 cannot be used with --what kernels"),
        ({"what": ["gradcam"], "stage": "blok1"}, "no stage 'blok1'"),
        ({"what": ["filters"], "ascent": {"steps": 0}}, "steps >= 1"),
        ({"what": ["kernels"], "out": Path(__file__)}, "is a file, not a folder; set --out to a path"),
        ({"what": ["filters"], "stage": "blok1"}, "no stage or layer 'blok1'"),
        ({"what": ["activations"], "images": ["nowhere.png"]}, "no file or folder matches nowhere.png"),
        ({"what": ["errors"], "images": [__file__]}, "do not give other images"),
        ({"what": ["errors"], "checkpoint": "last"}, "--checkpoint last: --what errors reads the saved predictions"),
    ],
)
def test_invalid_arguments_are_errors(run: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(interpret(run, **options))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--what gradcam --split test", "--split test cannot be used with --what gradcam, only with errors"),
        ("--what kernels cam --split val", "--split val cannot be used with --what kernels cam, only with errors"),
        ("--what filters --train-images 0", "--train-images 0 cannot be used with --what filters, only with errors"),
        ("--what errors --steps 3", "--steps 3 cannot be used with --what errors, only with filters"),
        ("--what activations --size 32", "--size 32 cannot be used with --what activations, only with filters"),
        ("--what kernels --seed 0", "--seed 0 cannot be used with --what kernels, only with filters"),
        ("--what cam --channels 1 2", "--channels 1 2 cannot be used with --what cam, only with filters"),
        ("--what cam --upscalings 0", "--upscalings 0 cannot be used with --what cam, only with filters"),
        ("--what kernels --count 8", "--count 8 cannot be used with --what kernels, only with activations, filters,"),
        (
            "--what filters --images a b",
            "--images a b cannot be used with --what filters, only with activations, gradcam",
        ),
        ("--what filters kernels --count 3 --channels 1", "--count 3 has no effect with --channels, which selects"),
        ("photos --what kernels", "photos cannot be used with --what kernels, only with activations, gradcam"),
        ("photos --what cam --images a", "photos cannot be used with --images a, which replaces the images"),
        ("--what cam --stage x", "--stage x cannot be used with --what cam, only with activations, filters, gradcam"),
        ("--what gradcam errors --stage x", "--stage x cannot be used with --what errors, only with activations"),
    ],
)
def test_an_option_of_another_kind_is_refused_before_the_network_is_loaded(
    words: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["no_such_run", *words.split()]) == 1
    assert capsys.readouterr().err.startswith(message)


def test_options_of_several_kinds_are_used_together(run: str) -> None:
    options = {"what": ["kernels", "filters"], "stage": None, "count": 2, "ascent": {"steps": 1, "seed": 3}}
    assert {"kernels", "filters_block1"} <= pictures(list(interpret(run, **options)))


def test_a_broken_file_is_named_in_one_line(run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert main([run, "--what", "activations", "--images", str(tmp_path / "broken.png")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("--images ")
    assert "broken.png" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(("name", "content"), [("config.yaml", "a: ["), ("result.json", '{"status": ')])
def test_a_damaged_run_is_named(run: str, name: str, content: str) -> None:
    (Path(run) / name).write_text(content)
    with pytest.raises(
        UserError, match=rf"{name} is damaged \(.*\): replace it with an intact copy, or train the run again$"
    ):
        list(interpret(run, what=["kernels"]))


@pytest.mark.slow
def test_imagenet_classes_have_names() -> None:
    source = open_model_and_images("efficientnet_lite0")
    assert len(source.trained_model.classes or ()) == 1000
    assert source.label(0) == "tench"
    with pytest.raises(UserError, match="has no images"):
        source.selected_images(1)


@pytest.mark.slow
def test_filters_of_the_head_and_of_a_stage_named_head(run: str, tmp_path: Path) -> None:
    brief = {"steps": 1, "upscalings": 0}
    lines = list(interpret(run, what=["filters"], stage="head.fc", count=10, ascent=brief))
    assert pictures(lines) == {"filters_head.fc"}
    ascent = {**brief, "size": 32, "channels": [1279]}  # more channels than there are classes
    lines = list(interpret("efficientnet_lite0", what=["filters"], stage="head_conv", out=tmp_path, ascent=ascent))
    assert pictures(lines) == {"filters_head_conv"}


def test_a_class_that_is_never_predicted_has_a_dash_for_precision() -> None:
    logits = np.array([[2.0, 0.0], [1.0, 0.0]], np.float32)
    never = Predictions("val", ("cat", "dog"), logits, np.array([0, 1]), np.arange(2), ("a", "b"), "x")
    lines = _table(never)
    assert re.search(r"\) +- +0\.000$", lines[2])
    assert not any("nan" in line for line in lines)
