"""Measure the peak of memory of an action on a machine with 16 cores: `python peak_memory.py ACTION RUN IMAGES WORK`.

Prints the number of bytes above the memory after loading the network.
"""

import os
import sys
from pathlib import Path

import torch

from opsin.commands.embed import embed
from opsin.data.cache.image_store import open_store
from opsin.data.datasets import unlabeled_images
from opsin.inference.predictor import open_predictor


def memory(line: str) -> int:
    """Return a value of this process: VmRSS (now) or VmHWM (peak), in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{line}:")[1].split()[0]) * 1024


def main(action: str, run: str, images: str, work: str) -> None:
    """Load the network, do the action, and print the peak above the memory in between."""
    torch.set_num_threads(1)
    os.sched_getaffinity = lambda _: set(range(16))  # threads for decoding
    predictor = open_predictor(run)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    if action == "predict":
        found = list(predictor.predict(sorted(Path(images).iterdir())))
        lines = [f"{prediction.path.name}: {prediction.reason}" for prediction in found if prediction.reason]
    elif action == "store":
        files = unlabeled_images(images, 3)
        assert files is not None
        lines = [" ".join(bad) for bad in open_store(files, (1024, 1024), cache_dir=Path(work) / "stores").bad]
    else:
        lines = embed(run, [images, f"data_dir={work}/data"], out=Path(work) / "embeddings")
    sys.stdout.write("\n".join([*lines, str(memory("VmHWM") - before)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
