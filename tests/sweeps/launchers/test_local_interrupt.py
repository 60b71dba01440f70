"""Ctrl-C while the server of the local launcher starts."""

import signal
import subprocess
import sys

import pytest

START = """
from multiprocessing import forkserver
from opsin.sweeps.launchers.local import _sigint_blocked

with _sigint_blocked():
    forkserver.ensure_running()
status = open(f"/proc/{forkserver._forkserver._forkserver_pid}/status").read()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_server_starts_with_sigint_blocked() -> None:
    printed = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True).stdout
    blocked = int(printed, 16)
    assert blocked & 1 << signal.SIGINT - 1
