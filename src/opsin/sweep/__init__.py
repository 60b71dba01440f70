"""Multirun: many runs of one command, each in a process of its own."""

from opsin.sweep.table import SweepTable

__all__ = ["SweepTable"]
