"""Multirun: many runs of one command, each in a process of its own, and a study of them all that outlives any process.

`sweep` is the story.
"""

from opsin.sweeps.sweep import sweep

__all__ = ["sweep"]
