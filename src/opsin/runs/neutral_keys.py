"""Config keys that do not affect the trained network: where files lie, what is reported, and how fast a run is.

Runs that differ only in these keys have the same recipe (`opsin.evaluation.comparison.recipes`), a resumed run applies
a change of them (`opsin.config.resume_rules`), and the top-level ones are not logged as hyperparameters
(`opsin.training.recording`).
"""

TOP_LEVEL = ("data_dir", "output_dir", "resume", "report", "test", "tags", "verify_checkpoints")
"""Keys of the top level."""

DATAMODULE = ("data_dir", "path", "download", "eval_batch_size", "on_device")
"""Keys of `datamodule`."""

TRAINER = ("threads", "log_every_n_steps", "profiler", "detect_anomaly")
"""Keys of `trainer`."""
