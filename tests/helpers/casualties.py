"""A callback that lets one of several processes die."""

import os
import signal
import time
from pathlib import Path

import lightning as L


class Die(L.Callback):
    """In one process, after so many training steps or at once: the end, in one of several ways.

    Args:
        how: `kill`, `error`, `exit`, or `SIGTERM` and the like, which is sent to the process itself.
        rank: the process.
        step: steps until then; 0: before the first process has anything to wait for.
        note: file into which the time is written.
        freeze: the other processes stand still from that step on, and hear of nothing.
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
            raise RuntimeError("out of luck")
        else:
            signal.raise_signal(getattr(signal, self.how))
