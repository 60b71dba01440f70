"""The engines that run the jobs of a sweep: `launcher=local`, `slurm` or `ray`."""

from opsin.sweeps.launchers.local import Local
from opsin.sweeps.launchers.ray import Ray
from opsin.sweeps.launchers.slurm import Slurm

__all__ = ["Local", "Ray", "Slurm"]
