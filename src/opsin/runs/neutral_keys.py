"""Neutral config keys: a change of them does not make another recipe.

They set places of files, reports and speed. `trainer.threads` changes the rounding of sums, so weights can differ in
their last bits.

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

SECTIONS = ("logger",)
"""Sections whose keys are all neutral."""

TRAINING_CALLBACKS = ("EarlyStopping", "EMA")
"""Callbacks of Opsin whose keys are not neutral. Its other callbacks and the monitors of Lightning do not change the
training steps, so their keys are neutral, except `monitor` of `Checkpoints`, which selects the tested epoch. `Pruning`
can end a run early, but its keys are neutral, because they name the trial of each run."""
