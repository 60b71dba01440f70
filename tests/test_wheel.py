"""The wheel, installed outside the repository: every command works in an empty folder and names itself `opsin`."""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from sweep_commands import wait_for

from opsin import __version__
from opsin.config.locations import CONFIGS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("model=mlp", "trainer=cpu", "trainer.max_epochs=1", "datamodule.train_fraction=0.1", "callbacks=no_pictures")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def programs(wheel: Path) -> Path:
    """The programs of an environment with the wheel and the dependencies of this one, but not its Opsin."""
    home = wheel.parent / "environment"
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    python = home / "bin" / "python"
    options = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (packages,) = home.glob("lib/python3*/site-packages")
    # Python reads no .pth file in a folder that a .pth file adds, so the editable Opsin there is not found.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def environment(programs: Path, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OPSIN_CLONE")}
    return {**kept, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home), "OMP_NUM_THREADS": "1"}


def run(programs: Path, folder: Path, *words: str, program: str = "opsin") -> str:
    """Run a program in a folder; return its output, which names no script of the repository."""
    command = [str(programs / program), *words]
    done = subprocess.run(
        command, cwd=folder, env=environment(programs, folder), capture_output=True, text=True, timeout=400
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    assert "Traceback" not in printed
    assert not re.search(r"python \S*(train|scripts)|make ", printed), printed
    assert str(ROOT) not in printed
    return printed


def test_the_wheel_holds_all_config_files_and_nothing_of_the_repository(wheel: Path) -> None:
    names = {Path(name) for name in ZipFile(wheel).namelist()}
    configs = {Path("opsin/configs") / path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")}
    assert {path for path in names if path.suffix == ".yaml"} == configs
    source = {path.relative_to(ROOT / "src") for path in (ROOT / "src" / "opsin").rglob("*") if path.is_file()}
    assert {path for path in source if path.suffix != ".pyc"} == {
        path for path in names - configs if path.parts[0] == "opsin"
    }
    assert {path.parts[0] for path in names} == {"opsin", f"opsin-{__version__}.dist-info"}


def test_commands_work_in_an_empty_folder(programs: Path, tmp_path: Path) -> None:
    assert run(programs, tmp_path, "--version") == f"opsin {__version__}\n"
    printed = run(programs, tmp_path, "train", *QUICK)
    assert "test again  opsin evaluate outputs/" in printed
    assert "predict     opsin predict outputs/latest FILE" in printed
    record = json.loads((tmp_path / "outputs" / "latest" / "result.json").read_text())
    assert (record["status"], record.get("commit")) == ("finished", None)
    assert f"test/acc         {record['metrics']['test/acc']:.6f}" in run(
        programs, tmp_path, "evaluate", "outputs/latest"
    )
    Image.fromarray(np.full((28, 28), 200, np.uint8)).save(tmp_path / "one.png")
    assert "one.png" in run(programs, tmp_path, "predict", "outputs/latest", "one.png")
    report = tmp_path / "outputs" / "latest" / "report.html"
    report.unlink()
    assert run(programs, tmp_path, "report", "outputs/latest").strip().endswith("report.html")
    page = report.read_text()
    assert "opsin train model=mlp" in page
    assert "python train.py" not in page
    assert "lr_curve.png" in run(programs, tmp_path, "find-lr", *QUICK, "--steps", "20")
    assert list(tmp_path.glob("outputs/**/lr_curve.json"))


def test_an_interrupted_sweep_is_completed(programs: Path, tmp_path: Path) -> None:
    words = ("train", "-m", *QUICK, "optimizer.lr=0.001,0.01", "launcher.jobs=1")
    sweep = subprocess.Popen([str(programs / "opsin"), *words], cwd=tmp_path, env=environment(programs, tmp_path))
    wait_for(lambda: any(tmp_path.glob("outputs/sweeps/*/*/console.txt")))
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(timeout=100) == 130
    printed = run(programs, tmp_path, *words)
    assert "repeat best opsin train --config-dir" in printed
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/result.json"))) == 2
    (best,) = tmp_path.glob("outputs/sweeps/*/experiment/best.yaml")
    assert best.read_text().splitlines()[1].startswith("# opsin train --config-dir")


def test_a_run_of_two_processes_starts_without_a_script(programs: Path, tmp_path: Path) -> None:
    words = [word for word in QUICK if word != "trainer=cpu"]
    module = ("-m", "opsin", "train", *words, "trainer=ddp_cpu", "hydra.run.dir=two")
    (tmp_path / "queue.py").write_text("raise RuntimeError('a file of the user hides a module of Python')\n")
    run(programs, tmp_path, "-P", *module, program="python")
    assert json.loads((tmp_path / "two" / "result.json").read_text())["settings"]["devices"] == 2


def test_train_takes_a_folder_of_images(programs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for place, color in enumerate(("blue", "red")):
        folder = tmp_path / "my photos" / color
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 80, (40, 40, 3), np.uint8)
            pixels[..., 2 - 2 * place] += 150
            Image.fromarray(pixels).save(folder / f"{number}.png")
    printed = run(programs, tmp_path, "train", "my photos", "trainer.max_epochs=2", "trainer=cpu")
    assert "my photos stands for: opsin train datamodule=image_folder 'datamodule.path=\"my photos\"'" in printed
    assert "model=efficientnet_lite0_feature_extract" in printed
    assert "epoch 2/2" in printed
