"""`opsin export`: files checked on images of the run, run without Opsin, and refused if they differ."""

import json
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from lock_file import locked
from PIL import Image
from safetensors import safe_open

from opsin.commands.export import main
from opsin.commands.train import train
from opsin.config import compose
from opsin.inference import open_predictor
from opsin.models import load_weights
from opsin.runs.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photo_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of one epoch on color photographs of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(60):
        place = folder / "photos" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        shape = (*rng.integers(20, 70, 2).tolist(), 3)
        pixels = rng.integers(0, 120, shape, dtype=np.uint8) + np.uint8(100 * (number % 2))
        Image.fromarray(pixels).save(place / f"{number}.png")
    words = ["datamodule=image_folder", f"datamodule.path={folder / 'photos'}", "datamodule.image_size=32"]
    words += ["model=cnn_batchnorm", "trainer=cpu", "trainer.max_epochs=1", "logger=none", "report=false"]
    run = RunDirectory(folder / "run")
    run.path.mkdir()
    places = [f"data_dir={folder / 'data'}", f"output_dir={folder}", "callbacks.progress.bar=false"]
    train(compose([*words, *places, "datamodule.resize=crop"], run.path))
    return run


def example() -> str:
    """Return the example of docs/export.md that runs an ONNX file."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    (found,) = [block for block in blocks if "onnxruntime" in block]
    assert len(found.splitlines()) <= 11
    return found


@pytest.mark.slow
def test_an_onnx_file_gives_the_probabilities_of_predict(photo_run: RunDirectory, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new folder" / "model.onnx"
    assert main([str(photo_run.path), "--format", "onnx", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"model.onnx: [\d.]+ MB, (\d+) of \1 validation images have the class that PyTorch predicts", said)
    session = onnxruntime.InferenceSession(str(out))
    file = photo_run.path.parent / "photos" / "dog" / "1.png"
    predictor = open_predictor(photo_run.path, ["trainer.accelerator=cpu", "trainer.precision=32"])
    expected = next(iter(predictor.predict([file]))).probabilities
    (found,) = session.run(["probabilities"], {"images": np.asarray(Image.open(file))[None]})
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == ["cat", "dog"]
    assert json.loads(facts["temperature"]) == photo_run.read_result().temperature
    done = subprocess.run(
        [sys.executable, "-c", example(), str(out), str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{('cat', 'dog')[expected.argmax()]} {expected.max():.4f}\n"


@pytest.mark.slow
def test_torch_export_writes_into_the_run_by_default(photo_run: RunDirectory, capsys) -> None:
    assert main([str(photo_run.path), "--format", "torch_export"]) == 0
    file = photo_run.path / "export" / "model.pt2"
    assert "have the class that PyTorch predicts" in capsys.readouterr().out
    images = torch.zeros(3, 40, 50, 3, dtype=torch.uint8)
    assert torch.export.load(file).module()(images).sum(1).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.slow
def test_a_file_that_differs_from_pytorch_is_not_written(
    photo_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def rounded(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(images, self.size, mode="nearest")

    monkeypatch.setattr("opsin.data.tensor_resize.TensorResize.forward", rounded)
    assert main([str(photo_run.path), "--format", "torch_export", "--out", str(tmp_path / "model.pt2")]) == 1
    assert "is not written, because the exported model differs from PyTorch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_weights_have_facts_in_their_header(digits_run: RunDirectory, tmp_path: Path, capsys) -> None:
    out = tmp_path / "digits.safetensors"
    assert main([str(digits_run.path), "--format", "safetensors", "--out", str(out)]) == 0
    assert "model.weights=" in capsys.readouterr().out
    with safe_open(out, "pt") as file:
        facts = file.metadata()
    result = digits_run.read_result()
    assert json.loads(facts["classes"]) == list("0123456789")
    assert json.loads(facts["mean"]) == list(result.data.mean)
    assert json.loads(facts["temperature"]) == result.temperature
    network = open_predictor(digits_run.path).trained.network
    expected = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    assert load_weights(network, str(out)).head
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in expected.items())


REFUSED = {
    ("--format", "onnx", "--out", "model.pt"): "must end in .onnx",
    ("--format", "onnx", "--half"): "--half is for --format safetensors and state_dict",
    ("--format", "state_dict", "seed=1"): "takes no overrides",
}


@pytest.mark.parametrize("words", REFUSED)
def test_wrong_options_are_refused(words: tuple[str, ...], digits_run: RunDirectory, in_tmp: Path, capsys) -> None:
    assert main([str(digits_run.path), *words]) == 1
    assert REFUSED[words] in capsys.readouterr().err
    assert not list(in_tmp.iterdir())


def test_a_missing_package_is_named_before_the_run_is_read(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["absent", "--format", "onnx"]) == 1
    assert "pip install 'opsin[export]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_example_needs_onnxruntime_numpy_and_pillow_alone(photo_run: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    assert main([str(photo_run.path), "--format", "onnx", "--out", str(out)]) == 0
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pins = [f"{name}=={locked()[name][0].version}" for name in ("onnxruntime", "numpy", "pillow")]
    install = [python, "-m", "pip", "install", "-q", *pins]
    subprocess.run(install, check=True, capture_output=True)
    missing = (
        "import importlib.util as u; print([n for n in ('torch', 'torchvision', 'opsin', 'onnx') if u.find_spec(n)])"
    )
    clean = {"cwd": tmp_path, "env": {"PATH": ""}, "capture_output": True, "text": True, "check": True}
    assert subprocess.run([python, "-c", missing], **clean).stdout == "[]\n"
    file = photo_run.path.parent / "photos" / "cat" / "0.png"
    done = subprocess.run([python, "-c", example(), out, file], **clean)
    predictor = open_predictor(photo_run.path, ["trainer.accelerator=cpu", "trainer.precision=32"])
    probabilities = next(iter(predictor.predict([file]))).probabilities
    assert done.stdout == f"{('cat', 'dog')[probabilities.argmax()]} {probabilities.max():.4f}\n"
