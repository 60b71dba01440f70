"""Records of runs, made without training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.reproduce.records import Record, config_digest, pack
from benchmarks.reproduce.rows import Row
from opsin.runs.result import Hardware

CONFIG: dict[str, Any] = {"optimizer.lr": 0.002, "trainer.max_epochs": 3}


def correct_bits(accuracy: float, images: int = 1_000, first: int = 0) -> np.ndarray:
    """Return bits of which a share is true, in one block from a position on, which wraps around."""
    return np.roll(np.arange(images) < round(accuracy * images), first)


def made_record(row: Row | str, seed: int, correct: Sequence[bool] | np.ndarray, **more: Any) -> Record:
    """Return a record with given correct and wrong predictions; `more` replaces its fields."""
    bits = np.asarray(correct, bool)
    accuracy = float(bits.mean())
    fields = {
        "row": row if isinstance(row, str) else row.name,
        "seed": seed,
        "command": "python train.py",
        "config": CONFIG,
        "config_digest": config_digest(CONFIG),
        "metrics": {"test/acc": accuracy, "test/loss": 0.5, "test/ece": 0.02, "val/acc": accuracy},
        "best_epoch": 3,
        "curves": {
            "train/acc": [0.7, 0.9, 0.99],
            "train/loss": [0.9, 0.3, 0.1],
            "val/acc": [0.7, 0.8, 0.79],
            "val/loss": [0.8, 0.5, 0.7],
        },
        "counts": {"train": 500, "val": 200, "test": len(bits)},
        "dataset": "dataset",
        "images": "images",
        "correct": pack(bits),
        "predicted": (len(bits) // 2, len(bits) - len(bits) // 2),
        "parameters": {"total": 10, "trainable": 10},
        "seconds": {"total": 42.0},
        "load": 0.1,
        "hardware": Hardware("Some CPU", 2, 24.0),
        "cpu_flags": ("avx2",),
        "settings": {"precision": "32-true"},
        "versions": {"python": "3.11.2", "torch": "2.14.1", "lightning": "2.6.6"},
        "commit": "abc",
    }
    return Record(**(fields | more))
