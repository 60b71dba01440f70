"""The explorer over HTTP and in a real browser."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opsin.commands.explore.server import serve
from opsin.runs.directory import RunDirectory

pytest.importorskip("gradio")

ROOT = Path(__file__).resolve().parents[3]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def outputs(digits_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explored")
    shutil.copytree(digits_run.path, folder / "outputs" / "digits")
    (folder / "outputs" / "digits" / "report.html").write_text("<!doctype html><title>t</title><p>a report</p>")
    (folder / "secret.png").write_bytes(b"a secret")
    return folder / "outputs"


@pytest.fixture(scope="module")
def address(outputs: Path) -> Iterator[str]:
    command = [sys.executable, str(ROOT / "scripts" / "explore.py"), "--outputs", str(outputs), "--port", "0"]
    log = (outputs.parent / "log").open("w")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("The explorer: http://127.0.0.1:"), line
    yield line.split()[2]
    process.terminate()
    process.wait(20)
    process.stdout.close()
    log.close()


def get(address: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read()


def post(address: str, body: Any) -> Any:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_files_from_outside_are_not_served(address: str, outputs: Path) -> None:
    assert get(address)[0] == 200
    secrets = [
        "/etc/passwd",
        str(outputs.parent / "secret.png"),
        str(outputs / "digits" / "config.yaml"),
        str(ROOT / "pyproject.toml"),
    ]
    for secret in secrets:
        for where in ("/gradio_api/file=", "/file=", "/static/../..", "/assets/", "/report/", "/report/digits/../../"):
            status, content = get(f"{address}{where}{secret}")
            assert status in (403, 404), (where, secret)
            assert b"root:" not in content


@pytest.mark.slow
def test_a_report_is_served_from_its_run(address: str) -> None:
    assert get(f"{address}/report/digits") == (200, b"<!doctype html><title>t</title><p>a report</p>")
    assert get(f"{address}/report/other")[0] == 404


@pytest.mark.slow
def test_an_upload_that_points_elsewhere_is_not_read(address: str, outputs: Path) -> None:
    config = json.loads(get(f"{address}/config")[1])
    event = next(d for d in config["dependencies"] if any(name == "upload" for _, name in d["targets"]))
    secret = outputs.parent / "secret.png"
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file], "fn_index": event["id"], "session_hash": "forged"}
    assert post(f"{address}/gradio_api/queue/join", body)["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=forged", timeout=60) as stream:
        for line in stream:
            error_area = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
            if error_area.get("msg") == "process_completed":
                assert not error_area["success"]
                return
    pytest.fail("no answer")


@pytest.fixture
def page(address: str, outputs: Path) -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    errors, outside, before = [], [], len((outputs.parent / "log").read_text())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1300, "height": 950})
        page.set_default_timeout(60_000)
        # On a busy machine, Gradio cancels a step of the animation before it knows its number, and gets the status 422.
        cancels = tuple(f"{address}/gradio_api/{name}" for name in ("cancel", "reset"))
        messages: list[Any] = []
        page.on("console", lambda message: messages.append(message))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else outside.append(r.url))
        page.goto(address)
        page.get_by_role("tab", name="Step by step").wait_for()
        yield page
        browser.close()
    errors += [m.text for m in messages if m.type == "error" and m.location["url"] not in cancels]
    assert errors == []
    assert outside == []
    assert "Traceback" not in (outputs.parent / "log").read_text()[before:]


def shoot(page: Any, name: str) -> None:
    """Save a screenshot of the page, wide and narrow, if OPSIN_SCREENSHOTS names a folder."""
    folder = os.environ.get("OPSIN_SCREENSHOTS")
    for kind, width in (("wide", 1300), ("narrow", 360)) if folder else ():
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(700)
        page.screenshot(path=Path(folder or "") / f"explorer_{name}_{kind}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1300, "height": 950})


def choose(page: Any, label: str, option: str) -> None:
    """Choose an option of the first visible dropdown with a label."""
    field = page.get_by_label(label, exact=True).first
    field.click()
    field.fill(option)
    page.get_by_role("option", name=option).first.click()


@pytest.mark.browser
@pytest.mark.slow
def test_convolution(page: Any) -> None:
    page.get_by_text("row 1, column 1: -1·1").wait_for()
    page.get_by_role("button", name="Step", exact=True).click()
    page.get_by_text("row 1, column 2: -1·1").wait_for()
    page.get_by_role("button", name="Play").click()
    page.get_by_text("row 2, column ").wait_for()  # visible for longer than a step takes on a busy machine
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Kernel weights, one row per line").first.fill("1 0 x")
    page.get_by_role("alert").get_by_text("'x' is not a number").wait_for()
    page.get_by_label("Kernel weights, one row per line").first.fill("1 2\n3 4")
    page.get_by_text("kernel 2 x 2").wait_for()
    page.get_by_text("(8 - 2 + 2·0) / 1 + 1 = 7").wait_for()
    assert page.get_by_role("alert").count() == 0
    shoot(page, "steps")
    choose(page, "Input", "dataset: digits")
    page.get_by_text("input 28 x 28").wait_for()
    page.get_by_label("Image 0 to 1796").fill("3")
    page.get_by_text("this one is of class 3").wait_for()
    page.locator("input[type=range]:visible").first.fill("300")
    page.get_by_text("row 12, column ").wait_for()  # 26 outputs per row
    shoot(page, "dataset")
    page.get_by_label("max pooling").check()
    page.get_by_text("output 14 x 14").wait_for()
    choose(page, "Input", "4 x 4 for pooling")
    page.get_by_text("max(8, 1, 3, 9) = 9").wait_for()
    shoot(page, "pooling")
    page.get_by_role("tab", name="On an image").click()
    page.get_by_text("columns (451 - 3 + 2·0) / 1 + 1 = 449").wait_for()
    page.get_by_label("max", exact=True).check()
    page.get_by_text("max pooling: rows (298 - 2 + 2·0) / 2 + 1 = 149").wait_for()
    shoot(page, "picture")
    page.get_by_role("tab", name="Gabor filters").click()
    limits = page.locator("input[type=range]:visible").evaluate_all("all => all.map(one => [one.min, one.max])")
    assert limits[:3] == [["0.01", "1"], ["0", "3.14"], ["0.1", "5"]]
    page.get_by_role("button", name="Show a filter bank").click()
    page.locator(".picture img:visible").nth(2).wait_for()
    shoot(page, "gabor")
    page.get_by_role("tab", name="Pixels").click()
    page.get_by_text("shape (300, 451, 3), uint8, 405,900 values").wait_for()
    page.locator(".picture img:visible").first.click()
    page.locator("th", has_text=re.compile(r"row 1[45]\d, column 22\d")).wait_for()
    shoot(page, "pixels")


@pytest.mark.browser
@pytest.mark.slow
def test_classify_and_bad_uploads(page: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a 'b' <i>.png")
    page.get_by_role("tab", name="Classify").click()
    page.get_by_role("button", name="Show a validation image").first.click()
    page.get_by_text("validation image 0").wait_for()
    page.get_by_role("button", name="Is this map faithful?").click()
    page.get_by_text("Randomized weights, on").wait_for()
    shoot(page, "classify")

    def drop(name: str) -> None:
        page.locator("input[type=file]:not([webkitdirectory])").first.set_input_files(tmp_path / name)

    for name, reason in (
        ("text.png", "not an image of a known format"),
        ("huge.png", "exceeds the limit of 64 million pixels"),
    ):
        drop(name)
        page.get_by_role("alert").get_by_text(reason).wait_for()
        assert page.get_by_text("validation image 0").count() == 0
        page.get_by_label("Remove Image").click()
    drop("notes.txt")
    page.get_by_text("Invalid file type").first.wait_for()
    drop("a 'b' <i>.png")
    page.get_by_text("as the network sees it; the map shows the evidence for").wait_for()
    assert page.get_by_role("alert").count() == 0


@pytest.mark.browser
@pytest.mark.slow
def test_features(page: Any) -> None:
    page.get_by_role("tab", name="Features").click()
    page.get_by_text("kernels of 3 x 3").wait_for()
    page.get_by_role("button", name="Show a validation image").last.click()
    page.get_by_text("are zero everywhere for this image").wait_for()
    page.get_by_role("button", name="Visualize filters").click()
    page.get_by_text("images that maximize a filter's mean activation").wait_for()
    shoot(page, "features")


@pytest.mark.browser
@pytest.mark.slow
def test_runs(page: Any) -> None:
    page.get_by_role("tab", name="Runs").click()
    page.get_by_text("Validation loss").wait_for()
    style = page.get_by_role("link", name="1", exact=True).evaluate("a => getComputedStyle(a).textDecorationLine")
    assert style == "underline"  # links look different from text
    page.get_by_role("cell", name="cnn_gap").wait_for()
    shoot(page, "runs")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="1", exact=True).click()
    opened.value.get_by_text("a report").wait_for()


def test_a_mistake_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from opsin.errors import UserError

    monkeypatch.setattr("os.environ", dict(os.environ))
    with pytest.raises(UserError, match="no such folder"):
        serve(tmp_path / "nowhere", 0, print)
    with pytest.raises(UserError, match="is not available"):
        serve(tmp_path, 99999, print)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'opsin\[app\]'"):
        serve(tmp_path, 0, print)
