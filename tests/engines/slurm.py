"""A SLURM of one node on this machine, for tests: no systemd, no accounting, nothing outside its folder.

    python tests/engines/slurm.py install         # Debian's packages, unpacked into this Python environment
    eval "$(python tests/engines/slurm.py start FOLDER)"
    sinfo; sbatch ...
    python tests/engines/slurm.py stop FOLDER

The packages are unpacked and not installed: Lightning warns in every run of a machine that has `srun` on its PATH.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "libmunge2", "libhwloc15"]
HOME = Path(sys.prefix) / "slurm"

CONFIG = """
ClusterName=opsin
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000
SlurmdParameters=config_overrides
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


def install() -> None:
    """Unpack missing packages into this Python environment; needs apt and the network."""
    if (HOME / "usr/bin/sbatch").exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)  # apt downloads as a user of its own
        if subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=folder, check=False).returncode:
            subprocess.run(["apt-get", "update", "-qq"], check=True)
            subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=folder, check=True)
        new = HOME.with_name("slurm.part")
        shutil.rmtree(new, ignore_errors=True)
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(new)], check=True)
        new.rename(HOME)


class Slurm:
    """A controller and a node of four CPUs on any machine.

    Args:
        folder: Folder for all files of both.

    Attributes:
        environment: Environment variables that clients need.
        node: Name of the node.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node = socket.gethostname()
        self.plugins = next((HOME / "usr/lib").glob("*/slurm-wlm"))
        self.environment = {
            "PATH": f"{HOME / 'usr/bin'}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{self.plugins.parent}:{self.plugins}",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    def start(self) -> None:
        """Start the controller and the node, unless they run."""
        if (self.folder / "slurm.conf").exists() and "is UP" in self.command("scontrol", "ping").stdout:
            return
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        values = {"host": self.node, "ports": free_ports(2), "user": os.environ.get("USER", "root")}
        text = CONFIG.format(folder=self.folder, plugins=self.plugins, **values)
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")
        step = str(HOME / "usr/sbin/slurmstepd-wlm")
        for command in (["slurmctld-wlm", "-c"], ["slurmd-wlm", "-c", "-d", step]):
            program = str(HOME / "usr/sbin" / command[0])
            subprocess.run([program, *command[1:]], env=os.environ | self.environment, check=True)
        deadline = time.monotonic() + 60
        while self.command("sinfo", "--noheader", "--format=%t").stdout.strip() != "idle":
            if time.monotonic() > deadline:
                raise RuntimeError(f"SLURM does not start: {self.folder}/slurmctld.log, slurmd.log")
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop the controller, the node and all jobs."""
        self.command("scancel", "--signal=KILL", "--user=root")
        self.command("scancel", "--user=root")
        deadline = time.monotonic() + 20
        while self.command("squeue", "--noheader").stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.5)
        self.command("scontrol", "shutdown")
        while any((self.folder / f"{name}.pid").exists() for name in ("slurmctld", "slurmd")):
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of SLURM's commands."""
        return subprocess.run(words, env=os.environ | self.environment, capture_output=True, text=True, check=False)


def free_ports(count: int) -> list[int]:
    """Return free ports."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["install"]:
        install()
    else:
        install()
        slurm = Slurm(Path(sys.argv[2]).absolute())
        if sys.argv[1] == "start":
            slurm.start()
            sys.stdout.writelines(f"export {name}='{value}'\n" for name, value in slurm.environment.items())
        else:
            slurm.stop()
