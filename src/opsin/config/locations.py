"""Locations of the config files and of `train.py`, for every package."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
"""The folder of the project."""

CONFIGS = ROOT / "configs"
"""The folder of Opsin's own config files."""

TRAIN_SCRIPT = ROOT / "train.py"
"""The script that every job of a sweep and every process of a run starts."""
