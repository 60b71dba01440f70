"""Pause Python's garbage collector while a command imports its libraries: it takes a fifth of that time.

An import creates hundreds of thousands of objects and next to no garbage, but the collector visits all of them again
and again. Only the process of a command pauses it, never a program that imports Opsin.
"""

import gc

RARELY = 100_000
"""Number of new objects after which a paused collector collects; Python's default is 700."""

_thresholds: list[tuple[int, int, int]] = []


def pause_collection() -> None:
    """Collect garbage rarely until `resume_collection`."""
    if not _thresholds:
        _thresholds.append(gc.get_threshold())
        gc.set_threshold(RARELY, *_thresholds[0][1:])


def resume_collection() -> None:
    """Collect garbage as before the pause, but never visit the objects that exist now; without a pause, do nothing.

    They belong to the libraries and live as long as the process. Otherwise the next collections would visit all of
    them, and a forked job would copy the memory that they are in.
    """
    if _thresholds:
        gc.freeze()
        gc.set_threshold(*_thresholds.pop())
