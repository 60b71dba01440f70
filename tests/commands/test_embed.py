"""Embeddings in files: of a run's own images, of a dataset, of a folder; and heads on them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from opsin.commands.embed import embed, main
from opsin.config import RunConfig
from opsin.errors import UserError
from opsin.inference.inputs import open_images
from opsin.inference.trained_model import TrainedModel, load_trained_model
from opsin.models import cnn_gap
from opsin.runs.directory import RunDirectory
from opsin.training import build
from opsin.training.feature_extraction import Extractor
from opsin.training.network_building import recorded_data
from opsin.training.plan import make_plan


@pytest.fixture
def run(digits_run: RunDirectory, tmp_path: Path) -> str:
    return str(shutil.copytree(digits_run.path, tmp_path / "run"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten gray images of each of two classes."""
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (tmp_path / "photos, mine" / name).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(low, low + 127, (20, 24), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos, mine" / name / f"{number}.png")
    return tmp_path / "photos, mine"


def read(folder: Path | str):
    with np.load(Path(folder) / "embeddings.npz") as content:
        return {name: content[name] for name in content.files}


def named(build_data, name: str):
    """Return a function that builds a data module whose dataset has another name."""

    def built(*arguments, **options):
        data = build_data(*arguments, **options)
        data.source = replace(data.source, name=name)
        return data

    return built


def test_the_images_of_a_run_keep_their_splits(run: str) -> None:
    lines = embed(run)
    assert lines[0] == "digits: 259 train, 144 val, 359 test; 64 features each"
    assert lines[1:] == [f"{run}/embeddings/embeddings.{kind}" for kind in ("npz", "parquet")]
    found = read(f"{run}/embeddings")
    plan, recorded = make_plan(RunConfig.load(RunDirectory(Path(run)))), recorded_data(RunDirectory(Path(run)))
    data = build.data(plan, image_format=recorded.image_format)
    assert found["embeddings"].dtype == np.float32
    assert found["classes"].tolist() == list("0123456789")
    network = load_trained_model(run).network.eval()
    for split in ("train", "val", "test"):
        part, of_split = data.subset(split), found["split"] == split
        pixels = torch.from_numpy(part.read(np.arange(len(part)))).permute(0, 3, 1, 2)
        with torch.no_grad():
            exact = network.embed(data.preprocess(pixels)).numpy()
        np.testing.assert_allclose(found["embeddings"][of_split], exact, rtol=2**-10, atol=1e-5)
        np.testing.assert_array_equal(found["targets"][of_split], part.targets)
        assert found["paths"][of_split].tolist() == [part.locate(i) for i in range(len(part))]


def test_table_and_arrays_agree(run: str) -> None:
    embed(run, split="val")
    arrays = read(f"{run}/embeddings")
    table = pyarrow.parquet.read_table(f"{run}/embeddings/embeddings.parquet")
    assert table.column_names == ["embedding", "target", "label", "path", "split"]
    assert table.num_rows == 144
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy(zero_copy_only=False)), arrays["embeddings"])
    assert table["label"].to_pylist() == arrays["classes"][arrays["targets"]].tolist()
    assert table["path"].to_pylist() == arrays["paths"].tolist()
    assert set(table["split"].to_pylist()) == {"val"}


def test_a_second_call_computes_nothing(run: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    embed(run, [f"data_dir={tmp_path}"], split="test")
    before = read(f"{run}/embeddings")
    seen: list[int] = []
    compute = Extractor.__call__

    def counted(self: Extractor, images: torch.Tensor):
        seen.append(len(images))
        return compute(self, images)

    monkeypatch.setattr(Extractor, "__call__", counted)
    embed(run, [f"data_dir={tmp_path}"], split="test", formats=["npz"])
    assert seen == [1]  # the shape is read from one image
    np.testing.assert_array_equal(read(f"{run}/embeddings")["embeddings"], before["embeddings"])
    embed(run, [f"data_dir={tmp_path}"], split="test", formats=["npz"], image_size=20)
    assert len(seen) > 2
    assert not np.array_equal(read(f"{run}/embeddings")["embeddings"], before["embeddings"])


def test_a_folder_of_class_folders(run: str, photos: Path, tmp_path: Path) -> None:
    lines = embed(run, [str(photos), f"data_dir={tmp_path}"])
    assert lines[0] == "photos, mine: 14 train, 2 val, 4 test; 64 features each"
    found = read(f"{run}/embeddings/photos, mine")
    assert found["classes"].tolist() == ["dark", "light"]
    for path, target in zip(found["paths"], found["targets"], strict=True):
        assert Path(path).parent.name == found["classes"][target]
    assert len(set(found["paths"].tolist())) == 20


def test_a_folder_may_have_an_equals_sign_in_its_name(run: str, photos: Path, tmp_path: Path) -> None:
    place = photos.rename(tmp_path / "size=20")
    lines = embed(run, [str(place), f"data_dir={tmp_path}"], split="val", formats=["npz"])
    assert lines == ["size=20: 2 val; 64 features each", str(Path(run) / "embeddings" / "size=20" / "embeddings.npz")]


@pytest.mark.slow
def test_a_folder_without_classes_has_no_labels(run: str, photos: Path, tmp_path: Path) -> None:
    words = [str(photos / "dark"), f"data_dir={tmp_path}"]
    lines = embed(run, words, out=tmp_path / "out")
    assert lines[0] == "dark: 10 all; 64 features each"
    found = read(tmp_path / "out")
    assert found["classes"].tolist() == []
    assert set(found["targets"].tolist()) == {-1}
    assert found["paths"].tolist() == [str(photos / "dark" / f"{n}.png") for n in range(10)]
    table = pyarrow.parquet.read_table(tmp_path / "out" / "embeddings.parquet")
    assert table["label"].to_pylist() == [None] * 10
    labeled = embed(run, [str(photos), f"data_dir={tmp_path}"], out=tmp_path / "labeled")
    assert labeled
    other = read(tmp_path / "labeled")
    rows = [other["paths"].tolist().index(path) for path in found["paths"].tolist()]
    np.testing.assert_allclose(found["embeddings"], other["embeddings"][rows], rtol=2**-9, atol=1e-5)
    with pytest.raises(
        UserError, match="dark has no class folders, so it has neither labels nor splits; use --split all"
    ):
        embed(run, words, split="val")
    with pytest.raises(UserError, match="dark has no class folders, but --head knn needs labels"):
        embed(run, words, head="knn")


def test_another_dataset(run: str, tmp_path: Path) -> None:
    embed(run, ["datamodule=digits", "datamodule.train_fraction=0.1", f"data_dir={tmp_path}"], split="train")
    assert len(read(f"{run}/embeddings/digits")["embeddings"]) < 259


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 7},
        {"datamodule.split_seed": 3},
        {"datamodule.val_fraction": 0.3},
        {"datamodule.num_folds": 3, "datamodule.fold": 1},
    ],
)
def test_another_dataset_with_the_images_of_the_run_has_its_splits(run: str, tmp_path: Path, changes) -> None:
    RunConfig.load(RunDirectory(Path(run))).changed(changes).save()
    own = build.data(make_plan(RunConfig.load(RunDirectory(Path(run)))))
    found = open_images(load_trained_model(run), ["datamodule=digits", f"data_dir={tmp_path}"])
    for split in ("val", "test"):
        np.testing.assert_array_equal(found.subset(split).index, own.subset(split).index)
    assert set(own.subset("train").index) <= set(found.subset("train").index)


@pytest.mark.parametrize("word", ["seed=1", "datamodule.fold=1", "datamodule.val_fraction=0.3"])
def test_other_splits_of_the_images_of_the_run_are_refused(run: str, word: str, tmp_path: Path) -> None:
    words = ["datamodule=digits", "datamodule.num_folds=3", f"data_dir={tmp_path}"]
    with pytest.raises(UserError, match=f"{word}.* digits has the images of .*run.*Leave out"):
        open_images(load_trained_model(run), [word, *words])


def test_the_images_of_another_dataset_may_have_any_splits(run: str, photos: Path, tmp_path: Path) -> None:
    found = open_images(load_trained_model(run), [str(photos), "datamodule.val_fraction=0.5", f"data_dir={tmp_path}"])
    assert len(found.subset("val")) == 8


@pytest.fixture
def rgb_network_for_gray_images() -> TrainedModel:
    network = cnn_gap(num_logits=2, in_channels=3, image_size=(20, 24))
    third = (0.5, 0.5, 0.5)
    return TrainedModel("made", network, None, (20, 24), third, third, 3, "squash", "bilinear", source_channels=1)


@pytest.mark.parametrize("words", [["FOLDER"], ["FOLDER/a"], ["datamodule=image_folder", "datamodule.path=FOLDER"]])
def test_the_input_is_that_of_a_prediction(
    rgb_network_for_gray_images: TrainedModel, words: list[str], in_tmp: Path
) -> None:
    for name in ("a", "b"):
        (in_tmp / "colors" / name).mkdir(parents=True)
        for number in range(5):
            pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(in_tmp / "colors" / name / f"{number}.png")
    given = [word.replace("FOLDER", str(in_tmp / "colors")) for word in words]
    images = open_images(rgb_network_for_gray_images, [*given, "trainer=cpu"])
    part = images.subset("train" if images.classes else "all")
    expected = [rgb_network_for_gray_images.read(Path(part.locate(i))) for i in range(len(part))]
    np.testing.assert_array_equal(part.read(np.arange(len(part))), expected)
    with pytest.raises(UserError, match=r"datamodule\.channels=3: made determines the format"):
        open_images(rgb_network_for_gray_images, [*given, "datamodule.channels=3"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../../up", "/absolute", "..", ".", "", "owner/photos", "a\\b", "a\0b", "a\nb"])
def test_the_name_of_a_dataset_is_one_folder_in_the_run(run: str, name: str, monkeypatch, tmp_path: Path) -> None:
    name = name.replace("/absolute", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(build, "data", named(build.data, name))
    images = open_images(load_trained_model(run), ["datamodule=digits", f"data_dir={tmp_path}"])
    assert images.name == name
    assert images.out.parent == Path(run) / "embeddings"
    assert images.out.name not in ("", ".", "..")
    assert images.out.resolve().parent == (Path(run) / "embeddings").resolve()


@pytest.mark.parametrize("head", ["logistic_regression", "knn"])
def test_a_head_is_fitted_on_train_selected_on_val_and_tested_on_test(run: str, head) -> None:
    lines = embed(run, head=head, split="val")
    record = json.loads(Path(run, "embeddings", "head.json").read_text())
    assert record["head"] == head
    assert record["counts"] == {"train": 259, "val": 144, "test": 359}
    assert record["metrics"]["val/acc"] == max(record["tried"].values()) > 0.7
    assert 0.7 < record["metrics"]["test/acc"] < 1
    assert re.fullmatch(r"[0-9a-f]{32}", record["weights_digest"])
    assert f"test accuracy {record['metrics']['test/acc']:.2%}" in lines[-1]
    assert set(read(f"{run}/embeddings")["split"].tolist()) == {"val"}
    assert Path(run, "embeddings", "head.npz").exists() == (head == "logistic_regression")
    if head == "logistic_regression":
        embed(run, split="test")
        test = read(f"{run}/embeddings")
        with np.load(Path(run, "embeddings", "head.npz")) as written:
            logits = test["embeddings"] @ written["coefficients"].T + written["intercept"]
            assert written["classes"].tolist() == record["classes"]
        assert np.mean(logits.argmax(axis=1) == test["targets"]) == pytest.approx(record["metrics"]["test/acc"])


@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        ("efficientnet_lite", (), r"neither a run directory.*did you mean efficientnet_lite0\?"),
        ("RUN", ("nowhere",), "The folder .*nowhere does not exist"),
        ("RUN", ("a", "b"), "a and b: give one folder of images"),
        ("RUN", ("datamodule=digits", "datamodule.image_size=32"), "--image-size"),
        ("RUN", ("datamodule=digit",), "did you mean datamodule=digits"),
        ("RUN", ("model=mlp",), "cannot be changed"),
    ],
)
def test_invalid_arguments_are_errors(run: str, name: str, words: tuple[str, ...], reason: str, in_tmp: Path) -> None:
    with pytest.raises(UserError, match=reason):
        embed(run if name == "RUN" else name, words)
    assert not Path(run, "embeddings").exists()


def test_the_size_of_an_image_is_at_least_one_pixel(run: str) -> None:
    with pytest.raises(UserError, match="--image-size must be at least 1, got 0"):
        embed(run, image_size=0)


def test_the_command_line(run: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([run, "--split", "val", f"data_dir={in_tmp}", "--format", "npz"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"digits: 144 val; 64 features each\n{run}/embeddings/embeddings.npz\n"
    assert printed.err == ""
    assert main(["resnet81"]) == 1
    assert "did you mean resnet18?" in capsys.readouterr().err


@pytest.mark.slow
def test_imagenet_features_of_a_dataset(in_tmp: Path) -> None:
    words = ["datamodule=digits", "datamodule.train_fraction=0.5", "trainer=cpu"]
    with pytest.raises(UserError, match="has no images"):
        embed("efficientnet_lite0")
    lines = embed("efficientnet_lite0", words, image_size=48, head="logistic_regression")
    record = json.loads(Path("outputs/embeddings/efficientnet_lite0/digits/head.json").read_text())
    assert record["image_size"] == [48, 48]
    assert "1280 features each" in lines[0]
    assert record["metrics"]["test/acc"] > 0.85
