"""The sections of the config of a run."""

SECTIONS_OF_MANY = ("callbacks", "logger")
"""Sections of the config that hold named sections, each of which may be null."""

SECTIONS = (
    *("datamodule", "model", "loss", "distillation", "augmentation", "optimizer", "scheduler", "trainer", "monitor"),
    *("feature_cache", *SECTIONS_OF_MANY),
)
"""Sections of the config of a run."""
