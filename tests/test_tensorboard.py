"""TensorBoard over the runs: the events, and the page in a real browser."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from opsin.config import compose, from_saved
from opsin.errors import Interrupted
from opsin.run import train
from opsin.rundir import RunDirectory

WORDS = ("model=mlp", "datamodule.train_fraction=0.2", "trainer.accelerator=cpu", "callbacks.progress.bar=false")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, the second of which was stopped in the middle of its second epoch and resumed."""
    folder = tmp_path_factory.mktemp("tensorboard")
    words = [*WORDS, f"data_dir={folder / 'data'}", "trainer.max_epochs=3", "datamodule.batch_size=64"]
    words.append(f"output_dir={folder / 'outputs'}")
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


def test_a_resumed_run_is_one_curve(outputs: Path) -> None:
    points = events(outputs / "fast").Scalars("val/loss")
    assert [point.step for point in points] == [4, 9, 14]


def test_scalars_and_final_metrics_are_there(outputs: Path) -> None:
    accumulator = events(outputs / "slow")
    tags = accumulator.Tags()["scalars"]
    assert {"train/loss", "train/acc", "val/loss", "val/f1_macro", "test/acc"} <= set(tags)
    result = json.loads((outputs / "slow" / "result.json").read_text())
    for name, value in result["metrics"].items():
        assert accumulator.Scalars(f"final/{name}")[-1].value == pytest.approx(value)
    assert "_hparams_/session_start_info" in str(accumulator.summary_metadata)


@pytest.fixture
def server(outputs: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(outputs), "--port", str(port)]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--load_fast", "false"], stderr=subprocess.DEVNULL)
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


@pytest.mark.browser
def test_the_page_shows_scalars_and_hparams_with_final_metrics(server: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{server}/#timeseries")
        page.get_by_text(re.compile("val/loss|val")).first.wait_for(timeout=60_000)
        page.wait_for_timeout(2000)
        page.screenshot(path=tmp_path / "scalars.png")
        page.goto(f"{server}/#hparams")
        page.reload()
        page.get_by_text("final/test/acc").first.wait_for(timeout=60_000, state="attached")
        page.get_by_text("optimizer.lr").first.wait_for(timeout=60_000, state="attached")
        page.wait_for_timeout(2000)
        page.screenshot(path=tmp_path / "hparams.png")
        browser.close()
    for name in ("scalars.png", "hparams.png"):
        assert (tmp_path / name).stat().st_size > 20_000
