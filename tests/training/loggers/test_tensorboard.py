"""TensorBoard over the runs: the events, and the page in a real browser, as `make dashboard` opens it."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.errors import Interrupted
from opsin.runs.directory import RunDirectory
from opsin.training.callbacks import Checkpoints

ROOT = Path(__file__).resolve().parents[3]
WORDS = ("model=cnn_gap", "datamodule.train_fraction=0.2", "trainer.accelerator=cpu", "callbacks.progress.bar=false")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, the second of which was stopped in the middle of its second epoch and resumed."""
    folder = tmp_path_factory.mktemp("tensorboard")
    words = [*WORDS, f"data_dir={folder / 'data'}", "trainer.max_epochs=3", "datamodule.batch_size=64"]
    words += [f"output_dir={folder / 'outputs'}", "tags=[baseline]", "trainer.log_every_n_steps=2"]
    for name, lr in (("slow", 0.0005), ("fast", 0.01)):
        run = folder / "outputs" / name
        run.mkdir(parents=True)
        stop = ["+callbacks.stop={_target_: interruptions.StopAt, step: 8}"] if name == "fast" else []
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPSIN_TARGETS", "interruptions")
            try:
                train(compose([*words, *stop, f"optimizer.lr={lr}"], run))
            except Interrupted:
                train(from_saved(RunDirectory(run), ["callbacks.stop=null"]))
    return folder / "outputs"


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    return accumulator


@pytest.mark.slow
def test_a_resumed_run_has_one_curve_without_gaps(outputs: Path) -> None:
    points = events(outputs / "fast").Scalars("val/loss")
    assert [point.step for point in points] == [4, 9, 14]


def test_a_run_that_ended_before_its_first_checkpoint_restarts_its_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("model=mlp", "datamodule.train_fraction=0.2", "trainer=cpu", "trainer.max_epochs=1", "report=false")
    run = RunDirectory(tmp_path / "outputs" / "run")
    run.path.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr("opsin.training.callbacks.checkpoints.Checkpoints._save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(compose([*words, "callbacks=no_pictures", f"data_dir={tmp_path / 'data'}"], run.path))
    before = len(events(run.path).Scalars("val/loss"))
    train(from_saved(run, []))
    assert before == len(events(run.path).Scalars("val/loss")) == 1


def test_the_curves_of_an_epoch_are_written_before_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed after the checkpoint leaves no gap, and a process writes one file in order."""
    words = ("model=mlp", "datamodule.train_fraction=0.2", "trainer=cpu", "trainer.max_epochs=2", "report=false")
    run = RunDirectory(tmp_path / "outputs" / "run")
    run.path.mkdir(parents=True)
    written = []
    save = Checkpoints._save

    def recorded(self: Checkpoints, trainer: Any, file: Path) -> None:
        found = events(run.path)
        written.append(
            [len(found.Scalars(curve)) for curve in ("val/acc", "train/acc", "throughput/images_per_second")]
        )
        save(self, trainer, file)

    monkeypatch.setattr(Checkpoints, "_save", recorded)
    train(compose([*words, "callbacks=no_pictures", f"data_dir={tmp_path / 'data'}"], run.path))
    assert written[0] == [1, 1, 1]
    assert written[-1] == [2, 2, 2]
    assert [len(events(run.path).Scalars(curve)) for curve in ("val/acc", "train/acc", "train/loss")] == [2, 2, 2]
    assert len(list((run.path / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_loss_and_rates_have_points_by_step_and_throughput_by_epoch(outputs: Path) -> None:
    """The second run was interrupted after eight steps, without a gap and without a repeated step."""
    for name in ("slow", "fast"):
        found = events(outputs / name)
        for curve in ("train/loss_step", "lr/head", "lr/backbone"):
            assert [point.step for point in found.Scalars(curve)] == [1, 3, 5, 7, 9, 11, 13]
        rates = [point.value for point in found.Scalars("lr/head")]
        assert rates == sorted(rates, reverse=True)
    assert [point.step for point in events(outputs / "slow").Scalars("throughput/images_per_second")] == [4, 9, 14]


@pytest.mark.slow
def test_scalars_and_final_metrics_are_logged(outputs: Path) -> None:
    accumulator = events(outputs / "slow")
    tags = accumulator.Tags()["scalars"]
    assert {"train/loss", "train/acc", "val/loss", "val/f1_macro", "test/acc"} <= set(tags)
    result = json.loads((outputs / "slow" / "result.json").read_text())
    for name, value in result["metrics"].items():
        assert accumulator.Scalars(f"final/{name}")[-1].value == pytest.approx(value)
    assert "_hparams_/session_start_info" in str(accumulator.summary_metadata)


@pytest.mark.slow
def test_pictures_curves_text_and_embeddings_are_logged(outputs: Path) -> None:
    found = events(outputs / "slow").Tags()
    names = ("train_batch", "confusion", "first_kernels", "gradcam")
    assert set(found["images"]) == {f"pictures/{name}" for name in names}
    assert {"config/text_summary", "model/text_summary", "tags/text_summary", "pr/all classes", "pr/7"} <= set(
        found["tensors"]
    )
    assert found["graph"]
    folder = outputs / "slow" / "tensorboard"
    assert "val/metadata.tsv" in (folder / "projector_config.pbtxt").read_text()
    (labels,) = folder.glob("*/val/metadata.tsv")
    assert set(labels.read_text().split()) == set("0123456789")


@pytest.fixture(scope="module")
def server(outputs: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, ROOT / "scripts" / "dashboard.py", outputs, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"{address}/data/runs", timeout=2) as answer:
                if len(json.load(answer)) >= 2:
                    break
        except OSError:
            pass
        time.sleep(0.5)
    yield address
    process.terminate()
    process.wait()


@pytest.mark.slow
def test_the_link_latest_is_not_listed_as_a_run(server: str, outputs: Path) -> None:
    assert (outputs / "latest").is_symlink()
    with urllib.request.urlopen(f"{server}/data/runs", timeout=10) as answer:
        assert sorted(json.load(answer)) == ["fast/tensorboard", "slow/tensorboard"]


SHOWN = {  # text on the page of each tab
    "timeseries": "val/loss",
    "images": "pictures/gradcam",
    "pr_curves": "pr/all classes",
    "graphs": "Network",
    "text": "config/text_summary",
    "hparams": "final/test/acc",
    "projector": "Points",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    quiet = ("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", *quiet])
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("tab", SHOWN)
def test_each_tab_shows_its_data_without_errors(server: str, browser, tab: str) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    errors: list[str] = []
    outside: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    inside = (server, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(inside) else outside.append(request.url))
    page.goto(f"{server}/#{tab}")
    if tab == "timeseries":  # cards below the visible part are not rendered yet
        page.get_by_role("combobox", name="Filter tags (regex)").fill("^val/loss$", timeout=120_000)
    place = page
    if tab == "projector":
        place = page.frame_locator("iframe").frame_locator("iframe")
    place.get_by_text(SHOWN[tab]).first.wait_for(timeout=120_000, state="attached")
    if tab == "images":
        page.locator("img").first.wait_for(timeout=60_000)
    page.wait_for_timeout(1000)
    page.close()
    assert errors == []
    assert outside == []
