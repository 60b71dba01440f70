"""Predictions, stores and embeddings of large images stay within 1 GB above the memory after loading the network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from opsin.runs.directory import RunDirectory

GB = 10**9
COUNT = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of 24 megapixels, and a bilevel scan that would take 1.2 GB as RGB."""
    folder = tmp_path_factory.mktemp("photos")
    first = folder / "00.jpg"
    Image.linear_gradient("L").resize((6000, 4000)).convert("RGB").save(first, quality=70)
    for number in range(1, COUNT):
        (folder / f"{number:02}.jpg").hardlink_to(first)
    Image.new("1", (12_500, 12_500), 1).save(folder / "scan.png")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is known on Linux only")
@pytest.mark.parametrize("action", ["predict", "store", "embed"])
def test_the_peak_of_memory_is_bounded(action: str, digits_run: RunDirectory, photos: Path, tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "helpers" / "peak_memory.py"
    words = [action, str(digits_run.path), str(photos), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(program), *words], capture_output=True, text=True, timeout=240, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    *lines, peak = done.stdout.splitlines()
    assert int(peak) < GB
    if action == "store":  # the network of the others takes gray images, for which the scan is small enough
        assert "scan.png" in lines[0]
        assert "12,500 x 12,500 values need about 1.3 GB of memory to decode" in lines[0]
