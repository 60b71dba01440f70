"""Files of a run, of weights, of a dataset and of shards that hold a pickle or a script: no code from them runs."""

import contextlib
import hashlib
import io
import itertools
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_runs import made_run
from PIL import Image

from opsin.api.loaded_model import load
from opsin.commands import dispatch
from opsin.commands.export import SUFFIXES, main
from opsin.config import compose, from_saved
from opsin.data.cache.image_store import DecodedStore
from opsin.data.datasets import hugging_face
from opsin.data.decode import decode_image
from opsin.data.file_contents import _read
from opsin.data.shards.index import ShardedSplit, read_table
from opsin.data.shards.storage import LocalStorage
from opsin.data.source import ArrayImages
from opsin.data.types import BadImage
from opsin.errors import UserError
from opsin.inference.opened_run import open_run
from opsin.models.weights import read_state_dict
from opsin.runs.directory import RunDirectory
from opsin.runs.per_class import read_scores
from opsin.runs.predictions import read_predictions
from opsin.training.resume_check import check_resume

RAN = "code ran"


class Evil:
    """An object whose pickle makes a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (RAN,)


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Evil()], object), allow_pickle=True)
    return file.getvalue()


def arrays(*names: str) -> bytes:
    """Return the bytes of an `.npz` file with hostile arrays."""
    file = io.BytesIO()
    np.savez(file, **{name: np.array([Evil()], object) for name in names})
    return file.getvalue()


def weights(folder: Path, run: RunDirectory) -> None:
    for suffix in (".pt", ".pth", ".ckpt", ".bin"):
        (folder / f"evil{suffix}").write_bytes(saved({"state_dict": {"a": torch.ones(1)}, "extra": Evil()}))
        with pytest.raises(UserError, match="not loaded, because they can run code"):
            read_state_dict(folder / f"evil{suffix}")


def best_checkpoint(folder: Path, run: RunDirectory) -> None:
    run.best.write_bytes(saved({**torch.load(run.best, weights_only=True), "extra": Evil()}))
    with pytest.raises(UserError):
        _ = open_run(run).network


def last_checkpoint(folder: Path, run: RunDirectory) -> None:
    run.last.unlink()
    run.last.write_bytes(saved({**torch.load(run.best, weights_only=True), "extra": Evil()}))
    point, lines = check_resume(from_saved(run, ["trainer.max_epochs=2"]))
    assert point is not None
    assert point.file == run.best
    assert any("last.ckpt" in line for line in lines)


def predictions(folder: Path, run: RunDirectory) -> None:
    names = ("classes", "logits", "targets", "positions", "paths", "images")
    for content in (arrays(*names), array(), pickle.dumps(Evil())):
        (run.path / "predictions" / "val.npz").write_bytes(content)
        with pytest.raises(UserError):
            read_predictions(run, "val")


def scores(folder: Path, run: RunDirectory) -> None:
    for content in (arrays("confusion", "classes"), array(), pickle.dumps(Evil())):
        (run.path / "per_class" / "val.npz").write_bytes(content)
        with pytest.raises(UserError):
            read_scores(run, "val")


def image(folder: Path, run: RunDirectory) -> None:
    with pytest.raises(BadImage):
        decode_image(array(), 5)


def store(folder: Path, run: RunDirectory) -> None:
    images = ArrayImages(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, np.int64), "one")
    for name, hostile in itertools.product(("pixels", "targets", "kept"), (array(), pickle.dumps(Evil()))):
        for file, content in (("pixels", images.pixels), ("targets", images.targets), ("kept", images.targets)):
            np.save(folder / f"{file}.npy", content)
        (folder / f"{name}.npy").write_bytes(hostile)
        with pytest.raises(ValueError, match=r"[Oo]bject|pickle"):
            DecodedStore(images, "key", folder)


def digests(folder: Path, run: RunDirectory) -> None:
    (folder / "digests.npy").write_bytes(array())
    assert len(_read(folder / "digests.npy")) == 0


def shards(folder: Path, run: RunDirectory) -> None:
    (folder / "train").mkdir()
    for content in (arrays("targets", "source_rows", "shard_rows"), array(), pickle.dumps(Evil())):
        (folder / "train" / "images.npz").write_bytes(content)
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        with pytest.raises(UserError, match="is damaged"):
            read_table(LocalStorage(folder), "train", ShardedSplit("own", "", digest, ()))


def dataset_script(folder: Path, run: RunDirectory) -> None:
    place = folder / "photos"
    place.mkdir()
    (place / "photos.py").write_text(f"import os\nos.mkdir({str(folder / RAN)!r})\n")
    with pytest.raises(UserError):
        hugging_face(str(place))


def pickled_dataset(folder: Path, run: RunDirectory) -> None:
    place = folder / "photos"
    place.mkdir()
    for name in ("train.pkl", "train.pickle", "train.pt"):
        (place / name).write_bytes(saved(Evil()))
    with pytest.raises(UserError):
        hugging_face(str(place))


def arrow_type(folder: Path, run: RunDirectory) -> None:
    """Versions of Arrow before 14.0.1 unpickled the type of a column: CVE-2023-47248."""
    kept = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Evil())}
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    image_field = pa.field("image", pa.binary(), metadata=kept)
    table = pa.table([[png.getvalue()], ["cat"]], schema=pa.schema([image_field, pa.field("label", pa.string())]))
    place = folder / "photos"
    place.mkdir()
    pq.write_table(table, place / "train.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(UserError):
            hugging_face(str(place))


CASES = (
    *(weights, best_checkpoint, last_checkpoint, predictions, scores, image, store, digests, shards),
    *(dataset_script, pickled_dataset, arrow_type),
)


@pytest.mark.parametrize("case", CASES)
def test_no_code_of_a_file_runs(
    case: Callable[[Path, RunDirectory], None],
    digits_run: RunDirectory,
    in_tmp: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HOME", str(in_tmp / "hub"))
    run = RunDirectory(in_tmp / "run")
    if case in (best_checkpoint, last_checkpoint, predictions, scores):
        shutil.copytree(digits_run.path, run.path)
    (in_tmp / "work").mkdir()
    case(in_tmp / "work", run)
    assert not list(in_tmp.rglob(RAN))


def test_the_hostile_object_runs_if_it_is_loaded_without_protection(in_tmp: Path) -> None:
    torch.load(io.BytesIO(saved(Evil())), weights_only=False)
    assert (in_tmp / RAN).is_dir()


def test_a_lock_that_is_a_link_changes_no_other_file(in_tmp: Path) -> None:
    (in_tmp / "run").mkdir()
    (in_tmp / "victim").write_text("mine")
    (in_tmp / "run" / ".lock").symlink_to(in_tmp / "victim")
    with pytest.raises(UserError, match="is a link"), RunDirectory(in_tmp / "run").locked(True, timeout=0.1):
        pass
    assert (in_tmp / "victim").read_text() == "mine"


def linked(run: Path, folder: str) -> Path:
    """Make a folder of a run, existing or not, a link to `victim`, and return this folder."""
    link, victim = run / folder, run.parent / "victim"
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.exists():
        link.rename(victim)
    victim.mkdir(exist_ok=True)
    (victim / "val.npz").write_text("mine")
    link.symlink_to(victim, target_is_directory=True)
    return victim


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["evaluate"], "own/pictures"),
        (["report", "--page-only"], "predictions"),
        (["export", "--format", "safetensors"], "export"),
        (["embed"], "embeddings"),
        (["interpret", "--what", "kernels"], "checkpoints"),
    ],
)
def test_a_command_that_writes_refuses_a_folder_that_is_a_link_out_of_the_run(
    words: list[str], folder: str, digits_run: RunDirectory, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = in_tmp / "run"
    shutil.copytree(digits_run.path, run)
    victim = linked(run, folder)
    before = sorted(file for file in in_tmp.rglob("*"))
    assert dispatch.main([words[0], str(run), *words[1:]]) == 1
    message = f"{run / folder} is a link out of the run, to {victim}: delete the link"
    printed = capsys.readouterr().err
    assert message in printed
    assert f"`cp -rL {run} COPY` or set --out to a folder elsewhere" in printed
    assert sorted(file for file in in_tmp.rglob("*")) == before


def test_training_and_resumes_refuse_a_folder_that_is_a_link_out_of_the_run(
    digits_run: RunDirectory, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, new = in_tmp / "run", in_tmp / "big" / "new"
    shutil.copytree(digits_run.path, run)
    linked(run, "checkpoints")
    linked(new, "csv/logs")
    before = sorted(file for file in in_tmp.rglob("*"))
    for place in (f"resume={run}", f"hydra.run.dir={new}"):
        assert dispatch.main(["train", place, "trainer.max_epochs=1"]) == 1
        printed = capsys.readouterr().err
        assert " is a link out of the run, to " in printed
        assert "--out" not in printed
    assert sorted(file for file in in_tmp.rglob("*")) == before


def test_a_run_with_a_linked_folder_can_be_read(
    digits_run: RunDirectory, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, image = in_tmp / "run", in_tmp / "out", in_tmp / "one.png"
    shutil.copytree(digits_run.path, run)
    linked(run, "checkpoints")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(image)
    before = sorted(run.rglob("*"))
    elsewhere = (["report", "--page-only"], ["export", "--format", "safetensors"])
    for words in (["predict", str(image)], *elsewhere):
        place = out / "model.safetensors" if words[0] == "export" else out
        option = ["--out", str(place)] if words in elsewhere else []
        assert dispatch.main([words[0], str(run), *words[1:], *option]) == 0, capsys.readouterr().err
    assert compose([f"resume={run}"]).resumes
    assert load(run).classes
    assert open_run(RunDirectory.of(run)).config.tree["seed"] is not None
    assert sorted(run.rglob("*")) == before


def test_other_links_of_a_run_are_accepted(in_tmp: Path) -> None:
    run = made_run(in_tmp / "store" / "run")
    config = in_tmp / "blob"
    run.config.replace(config)
    run.config.symlink_to(config)  # as in a snapshot of the Hugging Face cache
    (run.path / "wandb" / "run-1").mkdir(parents=True)
    (run.path / "wandb" / "latest-run").symlink_to("run-1", target_is_directory=True)
    (run.path / "wandb" / "circle").symlink_to("circle")
    (run.path / "none").symlink_to(in_tmp / "none")
    (in_tmp / "latest").symlink_to(run.path, target_is_directory=True)
    assert RunDirectory.of("latest").path == run.path
    assert from_saved(RunDirectory(in_tmp / "latest")).tree["seed"] == 0


@pytest.mark.parametrize("kind", ["safetensors", "state_dict"])
def test_exported_weights_and_checkpoints_hold_tensors_only(kind: str, digits_run: RunDirectory, in_tmp: Path) -> None:
    """Exported weights and checkpoints load without any object."""
    out = in_tmp / f"weights{SUFFIXES[kind]}"
    assert main([str(digits_run.path), "--format", kind, "--out", str(out)]) == 0
    content = out.read_bytes()
    if kind == "safetensors":
        length = int.from_bytes(content[:8], "little")
        assert json.loads(content[8 : 8 + length])
    else:
        torch.load(out, weights_only=True)
    for file in digits_run.path.rglob("*.ckpt"):
        torch.load(file, weights_only=True)
