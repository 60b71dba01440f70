"""What a run leaves on disk: directory, result, predictions, metrics per epoch."""
