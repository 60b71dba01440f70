"""Import what a job needs: the server from which jobs are forked imports this module once for all of them."""

import importlib

from opsin.runs.garbage_collection import pause_collection

MODULES = ("opsin.commands.train", "opsin.commands.train_cli", "torch.utils.tensorboard", "hydra._internal.hydra")

pause_collection()
for name in MODULES:
    importlib.import_module(name)
