"""The files of a run: directory, result, predictions, metrics per epoch."""
