"""The engines that run the jobs of a sweep: what `launcher=local|slurm|ray` names."""

from opsin.sweep.launchers.local import Local
from opsin.sweep.launchers.ray import Ray
from opsin.sweep.launchers.slurm import Slurm

__all__ = ["Local", "Ray", "Slurm"]
