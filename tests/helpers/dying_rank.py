"""A callback that ends one of several processes."""

import os
import signal
import time
from pathlib import Path

import lightning as L


class Die(L.Callback):
    """End one process after a number of training steps.

    Args:
        how: `kill`, `error`, `exit`, or the name of a signal that the process sends to itself, such as `SIGTERM`.
        rank: Rank of the process.
        step: Number of steps before the end; 0 ends it in the constructor, before the processes are connected.
        note: File to write the time of the end to.
        freeze: The other processes sleep from that step on and handle no messages.
    """

    def __init__(self, how: str, rank: int = 1, step: int = 3, note: str = "died", freeze: bool = False) -> None:
        self.how, self.rank, self.left, self.note, self.freeze = how, rank, step, Path(note), freeze
        if step == 0 and os.environ.get("LOCAL_RANK", "0") == str(rank):
            self._die()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        with self.note.with_name(f"pid{trainer.global_rank}").open("w") as file:
            file.write(str(os.getpid()))
        self.left -= 1
        if self.left == 0 and trainer.global_rank == self.rank:
            self._die()
        if self.left == 0 and self.freeze:
            time.sleep(600)

    def _die(self) -> None:
        self.note.write_text(str(time.time()))
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "exit":
            os._exit(3)
        elif self.how == "error":
            raise RuntimeError("error of the test")
        else:
            signal.raise_signal(getattr(signal, self.how))
