"""Training with Lightning: module, trainer, loss, metrics, callbacks."""
