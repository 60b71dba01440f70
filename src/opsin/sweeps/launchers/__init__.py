"""The engines that run the jobs of a sweep: what `launcher=local|slurm|ray` names."""

from opsin.sweeps.launchers.local import Local
from opsin.sweeps.launchers.ray import Ray
from opsin.sweeps.launchers.slurm import Slurm

__all__ = ["Local", "Ray", "Slurm"]
