"""Ray on this machine as a cluster of several nodes, each with processes of its own, as `ray start` makes them.

Manual use: `python tests/engines/ray_nodes.py` starts two nodes, prints their address, and stops them at Ctrl-C.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START = (sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats")
SMALL = ("--object-store-memory=80000000",)

ACCESS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Variables of the environment of whoever uses the cluster, before Ray is imported; nobody else may run code in it."""


class RayNodes:
    """A cluster of nodes on this machine; it stops only the nodes that it started.

    Args:
        nodes: Number of nodes.
        cores: Number of cores that each node reports.

    Attributes:
        address: `host:port` of the head.
    """

    def __init__(self, nodes: int = 2, cores: int = 1) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray")  # short: paths of sockets have at most 107 characters
        self._cores = cores
        self._sessions: list[int] = []
        self.address = f"127.0.0.1:{_free_port()}"
        head = ("--head", f"--port={self.address.partition(':')[2]}", f"--temp-dir={self._folder}")
        try:
            self._start(*head, "--include-dashboard=false", f"--ray-client-server-port={_free_port()}")
            for _ in range(1, nodes):
                self.add()
        except BaseException:
            self.close()
            raise

    def add(self) -> None:
        """Start a further node."""
        self._start(f"--address={self.address}")

    def kill_last(self) -> None:
        """Kill all of Ray's processes on the node that was added last, like a power failure."""
        _kill_session(self._sessions.pop())

    def close(self) -> None:
        """Stop all nodes."""
        while self._sessions:
            self.kill_last()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, *words: str) -> None:
        """Run `ray start`, which returns when the node is up and leaves its processes in the session of its own."""
        command = [*START, *SMALL, f"--num-cpus={self._cores}", *words]
        with subprocess.Popen(
            command,
            env=os.environ | ACCESS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            self._sessions.append(process.pid)
            try:
                said = process.communicate(timeout=180)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{said}")


def processes_with(file: Path) -> list[int]:
    """The processes that have a file open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            opened = {str(link.readlink()) for link in (process / "fd").iterdir()}
        except OSError:  # it has just ended
            continue
        if str(file.resolve()) in opened:
            found.append(int(process.name))
    return found


def _kill_session(session: int) -> None:
    """Kill every process of a session, and wait until none is left."""
    deadline = time.monotonic() + 30
    while left := _in_session(session):
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {left} do not end")
        time.sleep(0.05)


def _in_session(session: int) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session = (process / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(process.name))
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    cluster = RayNodes()
    variables = " ".join(f"{name}={value}" for name, value in ACCESS.items())
    words = f"-m launcher=ray launcher.address={cluster.address}"
    print(f"{variables} python train.py {words} ...", flush=True)  # noqa: T201
    try:
        signal.pause()
    except KeyboardInterrupt:
        cluster.close()
